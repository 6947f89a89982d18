"""What one of several processes does that share a batch: `python -m tests.reid.several <task> <rank> <size> <folder>`.

Alone, the tasks are what the processes together are compared with.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

import reid.train
from reid import distributed, methods
from reid.config import Augment, Optimiser, Protocol, Recipe, Sampler, Schedule, TrialConfig, to_dict
from reid.data.augment import _normalisation
from reid.data.sampler import IdentitySampler
from reid.evaluation import RetrievalResult, evaluate
from reid.parts.grouped_norm import synchronise_batch_norms
from reid.train import Resumption, total_loss, train
from tests.reid.tiny import tiny_data

ROOT = Path(__file__).parents[2]
NUM_IDS, IMAGES = 4, 2
STEPS = 2
SECONDS = 5.0  # until a silent process is given up

Case = tuple[str, str]
MORE: dict[Case, dict[str, Any]] = {  # what no variant has
    ("bdb", "dropblock"): {"drop_op": "dropblock"},
    ("bdb", "dropblock_plus"): {"drop_op": "dropblock_plus"},
    ("bdb", "two_groups"): {"bn_groups": 2, "drop_groups": 2},
    ("bdb", "three_groups"): {"bn_groups": 3, "drop_groups": 3},
    ("bdb", "five_groups"): {"bn_groups": 5, "drop_groups": 5},  # of 2 images each, so that there are 4
    ("esnet", "probes"): {"probe_erased": True},
    ("esnet", "layer3_concat"): {"saliency_layer": "layer3", "saliency_feature": "concat"},
    ("saadb", "turns"): {"drop_probability": 0.5},
}
# What these change happens in each image alone, and the default has it too.
ALIKE = {
    "bdb": {"authors_code", "drop_only", "gap", "global_only", "retrieval"},
    "esnet": {"base_besm", "base_besm_gmp", "base_besm_ppool", "black", "esb", "share_layer3", "share_layer3_0"},
    "han": {"bmm", "bmm_fused", "bmm_sam", "cam_sum_before", "only_cam", "only_sam", "relu", "sam_native", "tricks"},
    "saadb": {"attention_only", "drop_only", "global_attention", "global_drop", "global_only"},
    "sona": {"bl", "bl_bfe", "bl_db_plus", "bl_sona2", "sona2_3", "sona3", "sona4"},
}
CASES: list[Case] = [
    (name, variant)
    for name in methods.names()
    for variant in methods.variants(name)
    if variant not in ALIKE.get(name, set())
] + list(MORE)
NARROW = {"han": {"feature_dim": 64, "hidden_dim": 32}}  # 27 heads whose weights are files of a gigabyte else
CASES_OF_FOUR = [case for case in CASES if case[1] in ("default", "four_devices") or case in MORE]

RECIPE = Recipe(
    backbone="resnet10_w16",
    weights=None,
    image_size=(64, 32),
    sampler=Sampler(identities=4, images=2),
    augment=Augment(cutout=0.5, cutout_size=8, random_erasing=0.5, crop_padding=2),
    optimiser=Optimiser(name="sgd", momentum=0.9),  # Adam's first steps are the gradients' signs, those of zeros too
    schedule=Schedule(epochs=2, time_scale=0.02, peak_lr=1e-3),
)


def steps(name: str, variant: str) -> dict[str, Tensor]:
    """What a method computes in some steps of gradient descent."""
    added = (name, variant) in MORE
    changes = MORE.get((name, variant), NARROW.get(name, {}))
    settings = methods.config(name, "default" if added else variant, **changes)
    torch.manual_seed(0)
    method = methods.build(name, num_ids=NUM_IDS, backbone="resnet10_w16", **to_dict(settings))
    for parameter in method.parameters():  # scales that start at zero would hide what is behind them
        parameter.data += 0.01 * torch.randn_like(parameter)
    if distributed.size() > 1:
        synchronise_batch_norms(method)
    replica = distributed.replicate(method)
    torch.manual_seed(1)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        images = torch.randn(NUM_IDS * IMAGES, 3, 192 if name == "han" else 64, 32)
        labels = torch.arange(NUM_IDS).repeat_interleave(IMAGES)
        with torch.no_grad():
            probes = method.probes(distributed.mine(images), distributed.mine(labels))
        losses = replica(distributed.mine(images), distributed.mine(labels))
        method.zero_grad()
        total_loss(losses).backward()
        found |= {f"{step}.loss.{key}": value.detach() for key, value in (losses | probes).items()}
        gradients = {key: value.grad for key, value in method.named_parameters() if value.grad is not None}
        found |= {f"{step}.gradient.{key}": value.clone() for key, value in gradients.items()}
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.data -= 1e-3 * parameter.grad
    found |= {f"state.{key}": value for key, value in method.state_dict().items()}
    return found | {"random": torch.get_rng_state()}


SINGLE = torch.Tensor.float


def _in_single(*arguments: Any) -> RetrievalResult:
    before, torch.Tensor.float = torch.Tensor.float, SINGLE
    torch.set_default_dtype(torch.float32)
    try:
        return evaluate(*arguments)
    finally:
        torch.Tensor.float = before
        torch.set_default_dtype(torch.float64)


@contextmanager
def double() -> Iterator[None]:
    """Everything in double precision: what is left between one process and several is then next to nothing."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # which losses and embeddings go by
    reid.train.evaluate = _in_single
    _normalisation.cache_clear()
    try:
        yield
    finally:
        torch.Tensor.float, reid.train.evaluate = SINGLE, evaluate
        torch.set_default_dtype(torch.float32)
        _normalisation.cache_clear()


def all_steps(folder: Path, cases: list[Case]) -> None:
    """The cases' steps in double precision, into a file."""
    with double():
        found = {case: steps(*case) for case in cases}
    tensors = {
        f"{name}/{variant}/{key}": value.contiguous()
        for (name, variant), values in found.items()
        for key, value in values.items()
    }
    save_file(tensors, folder / f"steps{distributed.rank()}.safetensors")


def trial(method: str, **changes: Any) -> TrialConfig:
    recipe = {name: changes.pop(name) for name in list(changes) if name in Recipe.__dataclass_fields__}
    model = methods.config(method, **({"stripes": 4} if method == "han" else {}))
    return replace(TrialConfig(method=method, model=model, recipe=replace(RECIPE, **recipe)), **changes)


def run(config: TrialConfig, *, state: Path | None = None, until: int = 99) -> dict[str, Any]:
    """Train, and what was reported and found; stopped after epoch `until` as a kill would."""
    lines: list[dict[str, float]] = []

    def report(metrics: dict[str, float]) -> None:
        lines.append({name: value for name, value in metrics.items() if "seconds" not in name})

    if until < config.recipe.schedule.epochs:
        schedule = replace(config.recipe.schedule, epochs=until)
        config = replace(config, recipe=replace(config.recipe, schedule=schedule))
    resumption = None if state is None else Resumption(state, every=1, saved=lambda: None)
    result = train(config, tiny_data(), report, resumption=resumption)
    precisions = {name: scores.average_precision.tolist() for name, scores in result.retrieval.items()}
    return {"lines": lines, "metrics": result.metrics, "precisions": precisions}


def exact_trials() -> dict[str, Any]:
    """Whole trials whose numbers are those of one process."""
    saadb = trial("saadb", protocol=Protocol(flip=True))
    held_out = trial("bdb", evaluate_on="val")
    return {"exact": run(trial("esnet")), "exact_saadb": run(saadb), "exact_val": run(held_out)}


def trials(folder: Path) -> None:
    """Whole trials: in one go, again, stopped and gone on with, for a state of one process too; what each found."""
    with double():
        found = exact_trials()
    found["esnet"], found["again"], found["bdb"] = (run(trial(method)) for method in ("esnet", "esnet", "bdb"))
    found["bf16"] = run(trial("bdb", precision="bf16"))
    run(trial("bdb"), state=folder / "of_several.safetensors", until=1)
    if distributed.rank() == 0:
        (folder / "half_of_two.safetensors").write_bytes((folder / "of_several.safetensors").read_bytes())
    found["resumed"] = run(trial("bdb"), state=folder / "of_several.safetensors")
    found["resumed_from_one"] = run(trial("bdb"), state=folder / "of_one.safetensors")
    (folder / f"trials{distributed.rank()}.json").write_text(json.dumps(found))


def dies(config: TrialConfig, how: str) -> None:
    """Train, but the second process ends in the middle, one way or another."""

    def report(metrics: dict[str, float]) -> None:
        pass

    sampler, count = IdentitySampler.epoch, 0

    def epoch(self: IdentitySampler) -> Tensor:
        nonlocal count
        count += 1
        if count == 2 and distributed.rank() == 1:
            {"killed": lambda: os.kill(os.getpid(), signal.SIGKILL), "silent": lambda: time.sleep(60)}[how]()
        return sampler(self)

    IdentitySampler.epoch = epoch  # type: ignore[method-assign]
    train(config, tiny_data(), report)


def launch(task: str, size: int, folder: Path) -> list[subprocess.Popen[str]]:
    """Start the processes of a group."""
    command = [sys.executable, "-W", "error", "-m", "tests.reid.several", task]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder)],
            env=environment,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def main(task: str, rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / f'meeting_{task}_{size}'}"
    limit = timedelta(seconds=60 if task == "all" else SECONDS)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=limit)
    if task == "all":
        all_steps(folder, CASES if size == 2 else CASES_OF_FOUR)
        if size == 2:
            trials(folder)
    elif task == "uneven":
        train(trial("bdb", sampler=Sampler(identities=3, images=3)), tiny_data(), print)
    else:
        dies(trial("bdb"), task)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
