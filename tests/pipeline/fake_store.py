"""Trials and their records, made by hand: for the commands that look at a store and train nothing."""

import hashlib
from typing import Any

from pipeline.planning.plan import Trial
from pipeline.storage.store import TrialStore
from reid import methods
from reid.config import Recipe, TrialConfig

SPEC: dict[str, Any] = {
    "config": {
        "method": "bdb",
        "evaluate_on": "test",
        "recipe": {"image_size": [128, 64], "backbone": "resnet10_w16"},
        "seed": 0,
    },
    "dataset": "synthetic",
    "data_digest": "t",
    "code_digest": "c",
}


def key(seed: int) -> str:
    return hashlib.sha256(str(seed).encode()).hexdigest()[:20]


def trial(seed: int, **changes: Any) -> Trial:
    """A trial whose key is made of its seed; `changes`: of its spec."""
    spec = SPEC | {"config": SPEC["config"] | {"seed": seed}} | changes
    config = TrialConfig(method="bdb", model=methods.config("bdb"), recipe=Recipe(), seed=seed)
    name = f"bdb-default-synthetic-s{seed}-{key(seed)[:8]}"
    return Trial(key=key(seed), setting="5" * 20, name=name, dataset="synthetic", config=config, spec=spec)


def done(store: TrialStore, one: Trial, *, seconds: float = 20.0, state: str = "done", epochs: int = 10) -> None:
    """Finish a trial that was opened."""
    cost = {"seconds": seconds, "device": "cpu", "cpus": 2, "gpus": 0}
    store.finish(one.key, {"status": state, "metrics": {"mAP": 0.5}, "epochs": epochs, "cost": cost})
