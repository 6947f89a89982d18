"""What the benchmarks of evaluation share: made-up features, sizes, a bare matmul, memory. Nothing to run."""

import argparse
import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid.evaluation import Embeddings

JOINT = 64
Array = NDArray[Any]


@dataclass(frozen=True)
class Size:
    """How many images are made up, of how many people, and the share of the gallery that shows nobody known."""

    queries: int
    gallery: int
    identities: int = 751
    cameras: int = 6
    distractors: float = 0.18


MARKET, MSMT17 = Size(3368, 15913), Size(11659, 82161, identities=3060, cameras=15, distractors=0.0)


def parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--market", dest="size", action="store_const", const=MARKET, help="the size of Market-1501")
    made.add_argument("--dimensions", type=int, default=2048)
    made.add_argument("--repeats", type=int, default=repeats)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--torchreid", type=Path, metavar="PATH", help="a checkout of deep-person-reid, to compare with")
    return made


def pedestrians(size: Size, dimensions: int) -> tuple[Embeddings, Embeddings]:
    """Rectified random projections of `JOINT` numbers: identity + camera + noise whose size differs by image."""
    rng = np.random.default_rng(0)
    centres, shifts = rng.normal(size=(size.identities, JOINT)), 0.3 * rng.normal(size=(size.cameras, JOINT))
    projection = rng.normal(size=(JOINT, dimensions)).astype(np.float32)
    sides = []
    for count, distractors in ((size.queries, 0.0), (size.gallery, size.distractors)):
        ids, cameras = rng.integers(1, size.identities, count), rng.integers(0, size.cameras, count)
        ids[rng.random(count) < distractors] = 0
        latent = np.where(ids[:, None] == 0, rng.normal(size=(count, JOINT)), centres[ids])
        difficulty = 0.9 * np.exp(0.15 * rng.normal(size=(count, 1)))
        latent += shifts[cameras] + difficulty * rng.normal(size=(count, JOINT))
        features = torch.from_numpy(latent.astype(np.float32)) @ torch.from_numpy(projection)
        sides.append(Embeddings(features.relu_(), ids, cameras))
    return sides[0], sides[1]


def bare_matmul(query: Embeddings, gallery: Embeddings) -> None:
    """512 queries at a time, into one buffer."""
    features, candidates = torch.as_tensor(query.features), torch.as_tensor(gallery.features)
    products = torch.empty(512, len(candidates))
    for start in range(0, len(features), 512):
        block = features[start : start + 512]
        torch.mm(block, candidates.T, out=products[: len(block)])


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """[n, m] at once, as both of the compared projects make them."""
    squares = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)
    return squares.addmm_(left, right.T, alpha=-2)


def load(checkout: Path, pattern: str, hint: str) -> Any:
    """A module of a checkout, by its file alone; ends the program if there is none."""
    found = sorted(checkout.glob(pattern))
    if not found:
        raise SystemExit(f"{checkout} holds no {pattern}: {hint}")
    spec = importlib.util.spec_from_file_location(found[0].name.split(".")[0], found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extra_memory(run: Callable[[], object]) -> str:
    """The peak of the memory of this process during a call over what it was before, in MiB; a dash where unknown."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        run()
        return "-"
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator kept would hide what the call needs
    clear.write_text("5")  # the recorded peak starts anew
    before = _memory(status, "VmRSS")
    run()
    return f"{(_memory(status, 'VmHWM') - before) / 1024:.0f}"


def _memory(status: Path, name: str) -> int:
    """KiB."""
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[name].split()[0])
