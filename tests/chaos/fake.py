"""Trials of a fraction of a second, and what may befall them: everything but the training is the sweep's own.

`chaos.json` in the store says how: `seconds` a step, and `acts` by trial key, each with the `attempt` (0: all),
`epoch` and `step` at which it happens. Step 5 of an epoch is between its record and its checkpoint; epoch 0 is the end.
"""

import functools
import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.planning.plan import Trial, make_trial
from pipeline.running import trial
from pipeline.running.trial import Assignment
from pipeline.storage.store import TrialStore
from reid import checkpoint, methods
from reid.config import Recipe, Schedule, TrialConfig
from reid.evaluation import Embeddings, evaluate
from reid.train import DivergedError, Resumption, TrialResult

EPOCHS, STEPS = 4, 5


def trials(count: int) -> list[Trial]:
    """That many trials of four epochs each."""
    recipe = Recipe(backbone="resnet10_w16", weights=None, schedule=Schedule(epochs=EPOCHS))
    configs = [
        TrialConfig(method="bdb", model=methods.config("bdb"), recipe=recipe, seed=seed) for seed in range(count)
    ]
    return [make_trial(config, "synthetic", {"test": "t", "val": "v"}) for config in configs]


def write_acts(root: Path, acts: dict[str, list[dict[str, Any]]], *, seconds: float = 0.01) -> None:
    """What is to befall which trial of the store."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "chaos.json").write_text(json.dumps({"seconds": seconds, "acts": acts}))


def work(assignment: Assignment, publish: Callable[[dict[str, float]], None]) -> None:
    """What a worker does: the sweep's own code, with another training in it."""
    store = assignment.store
    script = json.loads((store.root / "chaos.json").read_text())
    acts = script["acts"].get(assignment.key, [])

    def befall(epoch: int, step: int) -> None:
        time.sleep(script["seconds"])
        attempt = len(store.attempts(assignment.key))
        for act in acts:
            if (act["epoch"], act["step"]) == (epoch, step) and act["attempt"] in (0, attempt):
                ACTS[act["do"]]()

    vars(trial).update(_dataset=lambda folder: None, train=functools.partial(train, befall))
    trial.run(assignment, publish)


def train(
    befall: Callable[[int, int], None],
    config: TrialConfig,
    data: None,
    report: Callable[[dict[str, float]], None],
    *,
    device: str,
    resumption: Resumption,
    weights: Path | None,
) -> TrialResult:
    """A random walk, resumable, scored by where it ends."""
    generator, walk, done = torch.Generator().manual_seed(config.seed), torch.zeros(24, 2), 0
    if resumption.path.exists():
        tensors, values = checkpoint.load(resumption.path)
        walk, done = tensors["walk"], values["epoch"]
        generator.set_state(tensors["rng"])
    for epoch in range(done + 1, config.recipe.schedule.epochs + 1):
        for step in range(STEPS):
            befall(epoch, step)
            walk = 0.9 * walk + torch.randn(24, 2, generator=generator)
        report({"epoch": float(epoch), "loss": float(walk.mean()), "seconds": 0.01})
        befall(epoch, STEPS)
        if epoch % resumption.every == 0:
            checkpoint.save(resumption.path, {"walk": walk, "rng": generator.get_state()}, {"epoch": epoch})
            resumption.saved()
    befall(0, 0)
    if weights is not None:
        checkpoint.save(weights, {"walk": walk}, {"num_ids": 4})
    identities = torch.arange(24).numpy() % 4 + 1
    images = Embeddings(walk, identities, torch.arange(24).numpy() // 12)
    return TrialResult(
        retrieval={"": evaluate(images, images)}, epochs=config.recipe.schedule.epochs, seconds=0.1, network={}
    )


def metrics(store: TrialStore, keys: list[str]) -> str:
    """Every metric of these trials to the last bit, and their learning curves."""
    curves = {key: [(line["epoch"], line["loss"]) for line in store.epochs(key)] for key in keys}
    arrays = {key: {name: array.tolist() for name, array in (store.per_query(key) or {}).items()} for key in keys}
    return json.dumps([{key: store.result(key)["metrics"] for key in keys}, curves, arrays], sort_keys=True)


def _hold() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")  # for ever, and inside one call that never lets go of the interpreter's lock


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def _fill_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _raise(error: Exception) -> None:
    raise error


ACTS: dict[str, Callable[[], None]] = {
    "hang": lambda: time.sleep(3600),
    "hold": _hold,
    "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "kill": _kill,
    "terminate": _terminate,
    "fill disk": _fill_disk,
    "run out of memory": lambda: _raise(MemoryError("a tensor too many")),
    "lose the network": lambda: _raise(ConnectionResetError("the file server went away")),
    "raise": lambda: _raise(ZeroDivisionError("a mistake")),
    "diverge": lambda: _raise(DivergedError("the loss is nan in epoch 2")),
}
