"""One trial: train a method on a data set, then score it. A pure function of configuration, data and code.

Nothing here knows of schedulers or trackers: `report` is the only seam to the outside.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid import checkpoint, distributed, methods
from reid.config import Optimiser, Recipe, TrialConfig, to_dict
from reid.data.augment import augment, to_float
from reid.data.dataset import ReidData
from reid.data.sampler import IdentitySampler
from reid.evaluation import Embeddings, RetrievalResult, evaluate
from reid.footprint import IMAGES, footprint
from reid.methods.base import OWN, Method
from reid.parts.grouped_norm import synchronise_batch_norms
from reid.parts.power_pooling import PowerPooling
from reid.schedules import learning_rate
from reid.timing import Laps

Report = Callable[[dict[str, float]], None]

_SCORING_BATCH = 256


class DivergedError(RuntimeError):
    """A loss became infinite or NaN; training on would only burn time."""


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial found.

    `retrieval` holds the scores, by the embedding that was ranked: the method's own is `OWN`, others have the names
    that `Method.embeddings` gives them. `seconds` is the time spent training and scoring, earlier attempts before a
    resume included. `network`: what the network costs where it is used, see `reid.footprint`.
    """

    retrieval: dict[str, RetrievalResult]
    epochs: int
    seconds: float
    network: dict[str, float]

    @property
    def metrics(self) -> dict[str, float]:
        """Fractions (mAP, mINP, Rank-k) and counts; those of another embedding than the own as `<embedding>/mAP`."""
        return {
            metric_name(embedding, metric): value
            for embedding, scores in self.retrieval.items()
            for metric, value in scores.metrics().items()
        }


@dataclass(frozen=True)
class Resumption:
    """Where the resumable state of a trial is kept.

    `path`: the file, read when it exists. `every`: epochs between two writes of it. `saved`: called after each.
    """

    path: Path
    every: int
    saved: Callable[[], None]


def metric_name(embedding: str, metric: str) -> str:
    """What a metric, or an array behind it, is called: `mAP` of the method's own embedding, `global/mAP` of another."""
    return metric if embedding == OWN else f"{embedding}/{metric}"


def train(
    config: TrialConfig,
    data: ReidData,
    report: Report,
    *,
    device: str = "cpu",
    resumption: Resumption | None = None,
    weights: Path | None = None,
) -> TrialResult:
    """Train and score one trial.

    The result depends on `config` and `data` alone: the same seed on the same machine gives the same bits, whether or
    not the run was interrupted and resumed from its state in between. In a process group (torch's default one) the
    processes share every batch: the same numbers apart from rounding, see `reid.distributed`. All of them call this,
    report and return the result; the first alone writes files, and its state is everyone's.

    Args:
        config: the resolved trial.
        data: the prepared data set.
        report: called after every epoch with its number, losses, learning rate, seconds, the median seconds of a step
            and, in a trial that is scored on held-out identities, the validation metrics. It may raise to stop the
            trial.
        device: a torch device; a process uses one.
        resumption: where its state is kept; None: it starts from the beginning, and no state is written. Of several
            processes that of the first counts.
        weights: file to write the trained network to, for `score`; None keeps no network.

    Raises:
        DivergedError: a loss was not finite; the message names the epoch.
        ValueError: the data set has too few identities for the batches asked for, or processes cannot share them.
        LostProcessError: another process of the group has failed or died.
    """
    first = distributed.rank() == 0
    with _deterministic(device), distributed.in_company():
        trial = _Trial(config, data, device)
        trial.load(None if resumption is None else resumption.path)
        for epoch in range(trial.epoch + 1, config.recipe.schedule.epochs + 1):
            report(trial.run_epoch(epoch))
            if resumption is not None and epoch % resumption.every == 0 and first:
                trial.save(resumption.path)
                resumption.saved()
        if weights is not None and first:
            checkpoint.save(weights, trial.method.state_dict(), {"num_ids": trial.training.num_ids})
        return trial.result()


def score(config: TrialConfig, weights: Path, data: ReidData, *, device: str = "cpu") -> TrialResult:
    """Score a trained network on the test split of a data set, which need not be the one it was trained on.

    Args:
        config: the network's, with the protocol to score it by.
        weights: what `train` wrote.
        data: the prepared data set; nothing of it is trained on.
        device: a torch device.

    Raises:
        ValueError: the file is damaged.
    """
    started = time.perf_counter()
    with _deterministic(device):
        method = trained(config, weights, device=device)
        retrieval = rank(method, data, config)
        network = _network(method, data, config)
    return TrialResult(retrieval=retrieval, epochs=0, seconds=time.perf_counter() - started, network=network)


def trained(config: TrialConfig, weights: Path, *, device: str = "cpu") -> Method:
    """A trained network, from what `train` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    tensors, values = checkpoint.load(weights)
    untrained = replace(config, recipe=replace(config.recipe, weights=None))
    method = build_method(untrained, values["num_ids"]).to(device).to(memory_format=torch.channels_last)
    method.load_state_dict(tensors)
    return method


class _Trial:
    """The moving parts of a trial, all of them in the checkpoint."""

    def __init__(self, config: TrialConfig, data: ReidData, device: str) -> None:
        self.config, self.recipe, self.data, self.device = config, config.recipe, data, torch.device(device)
        sampler = self.recipe.sampler
        distributed.check_batch(identities=sampler.identities, images=sampler.images, processes=distributed.size())
        self.training = data.training(config.evaluate_on)
        self.pixels = Pixels(data.images, self.training.rows, self.device)
        torch.manual_seed(_stream(config.seed, 0))  # initialisation, and whatever the method's layers draw
        self.method = build_method(config, self.training.num_ids).to(self.device).to(memory_format=torch.channels_last)
        if distributed.size() > 1:
            synchronise_batch_norms(self.method)
        self.losses = distributed.replicate(self.method)
        self.optimiser = make_optimiser(self.method, self.recipe.optimiser)
        self.sampling = torch.Generator().manual_seed(_stream(config.seed, 1))
        self.augmenting = torch.Generator(self.device).manual_seed(_stream(config.seed, 2))
        self.epoch, self.seconds = 0, 0.0
        self.retrieval: dict[str, RetrievalResult] = {}

    def run_epoch(self, epoch: int) -> dict[str, float]:
        started = time.perf_counter()
        rate = learning_rate(self.recipe.schedule, epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if self.recipe.optimiser.reset:
            self.optimiser.state.clear()
        losses = self._steps()
        metrics = {"epoch": float(epoch), "lr": rate, **losses}
        if not np.isfinite(metrics["loss"]):
            raise DivergedError(f"the loss is {metrics['loss']} in epoch {epoch}; lower recipe.schedule.peak_lr")
        self.epoch = epoch
        if self.config.evaluate_on == "val":
            self.retrieval = rank(self.method, self.data, self.config)
            metrics |= {f"val/{name}": value for name, value in self.retrieval[OWN].metrics().items()}
        self.seconds += (seconds := time.perf_counter() - started)
        return metrics | {"seconds": seconds}

    def _steps(self) -> dict[str, float]:
        """One pass over the sampler's batches: the mean of every loss, read from the device once; `step_seconds`."""
        sampler = IdentitySampler(
            torch.from_numpy(self.training.labels), **to_dict(self.recipe.sampler), generator=self.sampling
        )
        labels = torch.from_numpy(self.training.labels).to(self.device)
        self.method.train()
        totals: dict[str, Tensor] = {}
        batches, laps = sampler.epoch(), Laps(self.device)
        laps.mark()
        for batch in map(distributed.mine, batches):
            losses = self._step(self.pixels[batch], labels[batch.to(self.device)])
            totals = {name: totals[name] + loss if totals else loss for name, loss in losses.items()}
            laps.mark()
        means = {name: float(total) / len(batches) for name, total in totals.items()}
        return {**means, "step_seconds": laps.median()}

    def _step(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        images = augment(pixels, self.recipe.image_size, self.recipe.augment, self.augmenting)
        with autocast(self.recipe, self.device):
            with torch.no_grad():
                probes = self.method.probes(images, labels)
            losses = self.losses(images, labels)
        loss = total_loss(losses)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return {"loss": loss.detach(), **{f"loss/{name}": value.detach() for name, value in losses.items()}, **probes}

    def result(self) -> TrialResult:
        started = time.perf_counter()
        retrieval = self.retrieval or rank(self.method, self.data, self.config)
        seconds = self.seconds + time.perf_counter() - started
        network = _network(self.method, self.data, self.config)
        return TrialResult(retrieval=retrieval, epochs=self.epoch, seconds=seconds, network=network)

    def save(self, path: Path) -> None:
        slots, groups = checkpoint.pack_optimiser(self.optimiser)
        tensors = {f"method.{name}": tensor for name, tensor in self.method.state_dict().items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in slots.items()}
        tensors |= {f"rng.{name}": state for name, state in self._random_states().items()}
        checkpoint.save(path, tensors, {"epoch": self.epoch, "seconds": self.seconds, "optimiser": groups})

    def load(self, path: Path | None) -> None:
        """Go on from the state that the first process finds, if it does; the others need not know where that is."""
        first = distributed.rank() == 0
        here = checkpoint.load(path) if first and path is not None and path.exists() else None
        found = distributed.from_first(here, self.device)
        if found is None:
            return
        tensors, values = found
        self.method.load_state_dict(checkpoint.under("method.", tensors))
        checkpoint.unpack_optimiser(self.optimiser, checkpoint.under("optimiser.", tensors), values["optimiser"])
        states = checkpoint.under("rng.", tensors)
        self.sampling.set_state(states["sampling"])
        self.augmenting.set_state(states["augmenting"])
        torch.set_rng_state(states["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self.device)
        self.epoch, self.seconds = values["epoch"], values["seconds"]

    def _random_states(self) -> dict[str, Tensor]:
        states = {
            "torch": torch.get_rng_state(),
            "sampling": self.sampling.get_state(),
            "augmenting": self.augmenting.get_state(),
        }
        return states | ({"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {})


class Pixels:
    """The images of some rows: gathered from the memory map on a CPU, resident on the device elsewhere."""

    def __init__(self, images: NDArray[np.uint8], rows: NDArray[np.int64], device: torch.device) -> None:
        self.images, self.rows = images, rows
        self.resident = None if device.type == "cpu" else torch.from_numpy(images[rows]).to(device)

    def __getitem__(self, indices: Tensor) -> Tensor:
        if self.resident is not None:
            return self.resident[indices.to(self.resident.device)]
        return torch.from_numpy(self.images[self.rows[indices.numpy()]])


def build_method(config: TrialConfig, num_ids: int) -> Method:
    """The network of a trial, initialised from torch's default generator."""
    method = methods.build(
        config.method,
        num_ids=num_ids,
        backbone=config.recipe.backbone,
        weights=config.recipe.weights,
        **to_dict(config.model),
    )
    if config.recipe.classifier_std is not None:
        for weights in (value for name, value in method.named_parameters() if name.endswith("classifier.weight")):
            torch.nn.init.normal_(weights, std=config.recipe.classifier_std)
    return method


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """What is minimised: the sum of a method's losses."""
    return torch.stack(list(losses.values())).sum()


def make_optimiser(method: Method, settings: Optimiser) -> torch.optim.Optimizer:
    """Adam with L2 decay or SGD over all trainable parameters; the schedule sets the rate.

    The exponents of power pooling have no decay: it would pull them to the average.
    """
    exponents = [module.exponent for module in method.modules() if isinstance(module, PowerPooling)]
    others = set(method.parameters()) - set(exponents)
    decayed = [parameter for parameter in method.parameters() if parameter.requires_grad and parameter in others]
    groups: list[dict[str, Any]] = [{"params": decayed}]
    if exponents:
        groups.append({"params": exponents, "weight_decay": 0.0})
    if settings.name == "adam":
        return torch.optim.Adam(groups, weight_decay=settings.weight_decay, fused=True)
    return torch.optim.SGD(
        groups,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def rank(method: Method, data: ReidData, config: TrialConfig) -> dict[str, RetrievalResult]:
    """Rank the gallery for every query: of the test split by each of a method's embeddings, else by its own alone.

    Args:
        method: on the device to use.
        data: whose images are ranked.
        config: says which split, and by which protocol.
    """
    query_rows, gallery_rows = data.scored(config.evaluate_on)
    gallery = _embeddings(method, data, gallery_rows, config.recipe)
    same = np.array_equal(query_rows, gallery_rows)
    query = gallery if same else _embeddings(method, data, query_rows, config.recipe)
    wanted = gallery if config.evaluate_on == "test" else (OWN,)
    return {name: evaluate(query[name], gallery[name], config.recipe.protocol) for name in wanted}


def _embeddings(method: Method, data: ReidData, rows: NDArray[np.int64], recipe: Recipe) -> dict[str, Embeddings]:
    features = embed(method, data.images, rows, recipe=recipe)
    return {name: Embeddings(item, data.identities[rows], data.cameras[rows]) for name, item in features.items()}


@torch.no_grad()
def embed(method: Method, images: NDArray[np.uint8], rows: NDArray[np.int64], *, recipe: Recipe) -> dict[str, Tensor]:
    """All embeddings of some rows, float32 [n, D] on the method's device, by their names.

    With `protocol.flip`, each is the mean over image and mirror. Of several processes, each embeds every n-th batch.
    """
    method.eval()
    device = next(method.parameters()).device
    parts: dict[str, list[Tensor]] = {}
    for own in distributed.in_turn(rows, _SCORING_BATCH):
        pixels = torch.from_numpy(images[own]).to(device)
        for name, features in _embed_batch(method, pixels, recipe).items():
            parts.setdefault(name, []).append(features)
    return {name: distributed.from_turns(features)[: len(rows)] for name, features in parts.items()}


def _embed_batch(method: Method, pixels: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    batch = to_float(pixels, recipe.image_size)
    views = [batch, batch.flip(3)] if recipe.protocol.flip else [batch]
    with autocast(recipe, pixels.device):
        found = [method.embeddings(view) for view in views]
    return {name: torch.stack([view[name].float() for view in found]).mean(0) for name in found[0]}


def _network(method: Method, data: ReidData, config: TrialConfig) -> dict[str, float]:
    """What the network costs to rank with, by some of the images that were ranked."""
    method.eval()
    rows = data.scored(config.evaluate_on)[0][:IMAGES]
    pixels = torch.from_numpy(data.images[rows]).to(next(method.parameters()).device)
    return footprint(method, lambda batch: _embed_batch(method, batch, config.recipe), pixels)


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """bf16 autocast where the recipe asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def _stream(seed: int, stream: int) -> int:
    """Independent streams of random numbers from one seed."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> 1)


@contextlib.contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Deterministic algorithms, and torch's default generators given back as they were found."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
