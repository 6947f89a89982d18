"""A quick look at the trial store, for commands that look at all of it; without torch, Ray and MLflow.

A trial counts as done here when DONE vouches for its `result.json`. The other files that DONE vouches for are not
read: of ten thousand trials that would take seconds. A sweep does read them, and runs again what is damaged.
"""

import hashlib
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.storage.store import State, TrialStore


@dataclass(frozen=True)
class Look:
    """What a trial's folder says: `result` is its `result.json`, None where it is not done."""

    state: State
    result: dict[str, Any] | None = None


def look(folder: str) -> Look:
    """The state of the trial in a folder, which need not exist."""
    done = _read(f"{folder}/DONE")
    result = _read(f"{folder}/result.json") if done else b""
    if result and f"{hashlib.sha256(result).hexdigest()}  result.json\n".encode() in done:
        return Look("done", json.loads(result))
    if os.path.exists(f"{folder}/failure.json"):
        return Look("failed")
    return Look("running" if os.path.exists(f"{folder}/spec.json") else "absent")


def kind(spec: Mapping[str, Any], *, gpus: float) -> str:
    """What trials that take equally long have in common, in words.

    Method, data set, image size and trunk, and whether it computes on a GPU, or on how many; for the scoring of a
    network, what it is scored on, too.

    Args:
        spec: of a trial.
        gpus: what it gets of them.
    """
    recipe = spec["config"]["recipe"]
    height, width = recipe["image_size"]
    words = f"{spec['config']['method']} on {spec['dataset']}, {height}x{width}, {recipe['backbone']}, {_device(gpus)}"
    if "pictures" in spec:
        return f"{words}, pictures of {spec['pictures']['what']}"
    return f"{words}, scored on {spec['scored_on']['dataset']}" if "source" in spec else words


def paces(store: TrialStore) -> dict[str, float]:
    """Seconds that an epoch takes, scoring included, by kind: the median of the trials that are done.

    Of kinds that score a network and train none: seconds that a trial takes.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for folder in folders(store):
        if (result := look(folder).result) is None:
            continue
        cost = result["cost"]
        spec = json.loads(_read(f"{folder}/spec.json"))
        found[kind(spec, gpus=cost["gpus"])].append(cost["seconds"] / max(1, result["epochs"]))
    return {name: statistics.median(values) for name, values in found.items()}


def folders(store: TrialStore) -> Iterator[str]:
    """The folders of all trials, in no order."""
    if store.root.is_dir():
        with os.scandir(store.root) as entries:
            yield from (entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def plain_name(key: str, spec: Mapping[str, Any]) -> str:
    """A readable name of a trial of which only the record is known."""
    config = spec["config"]
    return f"{config['method']}-{spec['dataset']}-s{config['seed']}-{key[:8]}"


def _device(gpus: float) -> str:
    return f"{gpus:g} GPUs" if gpus > 1 else "GPU" if gpus else "CPU"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
