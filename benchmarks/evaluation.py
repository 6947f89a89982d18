"""Seconds and memory of a whole evaluation, against a bare matmul of its size and against a full sort. Prints a table.

    python benchmarks/evaluation.py             a small gallery, seconds
    python benchmarks/evaluation.py --market    3,368 queries, 15,913 gallery images

The sides take turns in one run. Medians of the seconds, and of the ratios within a turn; the ratios are what to read.
Features are made up: identities under cameras, with distractors and images of unequal difficulty. `extra MiB` is the
highest memory of the process during a call over its memory before the call (Linux with glibc only). The bare matmul
writes 512 queries at a time into one buffer.
"""

import argparse
import ctypes
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reid.config import Protocol
from reid.evaluation import Embeddings, evaluate

IDENTITIES, CAMERAS, JOINT = 751, 6, 64
DISTRACTORS = 0.18  # of the gallery, as in Market-1501
Array = NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", action="store_true", help="the size of Market-1501")
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    query, gallery = pedestrians((3368, 15913) if arguments.market else (600, 3000), arguments.dimensions)
    result = evaluate(query, gallery)
    print(f"{len(query.ids)} x {len(gallery.ids)}, {arguments.dimensions} dimensions, {arguments.threads} thread(s)")
    print(", ".join(f"{name} {value:.4g}" for name, value in result.metrics().items()))
    assert math.isclose(full_sort(query, gallery), result.mean_ap, rel_tol=1e-5), "the two evaluators disagree"
    sides: dict[str, Callable[[], object]] = {
        "bare matmul": partial(bare_matmul, query, gallery),
        "evaluate": partial(evaluate, query, gallery),
        "evaluate, cosine": partial(evaluate, query, gallery, Protocol(distance="cosine")),
        "full sort": partial(full_sort, query, gallery),
    }
    print_table(sides, arguments.repeats)


def pedestrians(sizes: tuple[int, int], dimensions: int) -> tuple[Embeddings, Embeddings]:
    """Rectified random projections of `JOINT` numbers: identity + camera + noise whose size differs by image."""
    rng = np.random.default_rng(0)
    centres, shifts = rng.normal(size=(IDENTITIES, JOINT)), 0.3 * rng.normal(size=(CAMERAS, JOINT))
    projection = rng.normal(size=(JOINT, dimensions)).astype(np.float32)
    sides = []
    for size, distractors in zip(sizes, (0.0, DISTRACTORS), strict=True):
        ids, cameras = rng.integers(1, IDENTITIES, size), rng.integers(0, CAMERAS, size)
        ids[rng.random(size) < distractors] = 0
        latent = np.where(ids[:, None] == 0, rng.normal(size=(size, JOINT)), centres[ids])
        difficulty = 0.9 * np.exp(0.15 * rng.normal(size=(size, 1)))
        latent += shifts[cameras] + difficulty * rng.normal(size=(size, JOINT))
        features = torch.from_numpy(latent.astype(np.float32)) @ torch.from_numpy(projection)
        sides.append(Embeddings(features.relu_(), ids, cameras))
    return sides[0], sides[1]


def bare_matmul(query: Embeddings, gallery: Embeddings) -> None:
    features, candidates = torch.as_tensor(query.features), torch.as_tensor(gallery.features)
    products = torch.empty(512, len(candidates))
    for start in range(0, len(features), 512):
        block = features[start : start + 512]
        torch.mm(block, candidates.T, out=products[: len(block)])


def full_sort(query: Embeddings, gallery: Embeddings) -> float:
    """The mAP in the usual way: all distances, all of them sorted, one query after the other."""
    features, candidates = torch.as_tensor(query.features), torch.as_tensor(gallery.features)
    squares = candidates.square().sum(dim=1) / 2
    order = np.argsort(squares.sub(features @ candidates.T).numpy(), axis=1)
    ids, cameras = np.asarray(query.ids), np.asarray(query.cameras)
    gallery_ids, gallery_cameras = np.asarray(gallery.ids), np.asarray(gallery.cameras)
    precisions = []
    for person, camera, ranked in zip(ids, cameras, order, strict=True):
        same = gallery_ids[ranked] == person
        ranks = np.flatnonzero(same[~(same & (gallery_cameras[ranked] == camera))]) + 1
        if len(ranks):
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return float(np.mean(precisions))


def print_table(sides: dict[str, Callable[[], object]], repeats: int) -> None:
    extra = {name: extra_memory(run) for name, run in sides.items()}
    seconds = {name: np.zeros(repeats) for name in sides}
    for turn in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name][turn] = time.perf_counter() - start
    print("\n| | median s | x bare matmul | x evaluate | extra MiB |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = (f"{np.median(times / seconds[other]):.2f}" for other in ("bare matmul", "evaluate"))
        print(f"| {name} | {np.median(times):.3f} | {' | '.join(ratios)} | {extra[name]} |")


def extra_memory(run: Callable[[], object]) -> str:
    """The peak of the memory of this process during a call over what it was before, in MiB; a dash where unknown."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        return "-"
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator kept would hide what the call needs
    clear.write_text("5")  # the recorded peak starts anew
    before = memory(status, "VmRSS")
    run()
    return f"{(memory(status, 'VmHWM') - before) / 1024:.0f}"


def memory(status: Path, name: str) -> int:
    """KiB."""
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[name].split()[0])


if __name__ == "__main__":
    main()
