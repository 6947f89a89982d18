"""Seconds and memory of k-reciprocal re-ranking, against the dense form in NumPy. Prints a table.

    python benchmarks/reranking.py             a small gallery, seconds
    python benchmarks/reranking.py --market    3,368 queries, 15,913 gallery images: minutes, and 8 GB

The dense form goes the way of the published implementation: distances of all images to all as one float32 matrix, each
row sorted, V and its average as two more matrices, neighbours handled image by image. `partly sorted` is the same with
only the nearest k1 + 1 in order. `--torchreid PATH` adds the published implementation itself, in NumPy, from a checkout
of deep-person-reid. All include their distances; the bare matmul is that of all images by all.

The sides take turns in one run. Medians of the seconds, and of the ratios within a turn; the ratios are what to read.
More threads than idle cores wait for each other longer than they work. `extra MiB` is the highest memory of the process
during a call over its memory before the call (Linux with glibc only). Features are those of `evaluation.py`.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from common import Array, Size, bare_matmul, extra_memory, load, parser, pedestrians, squared_distances
from torch import Tensor

from reid.evaluation import Embeddings
from reid.evaluation.distances import float32_matmul
from reid.evaluation.reranking import reranked

K1, K2, WEIGHT = 20, 6, 0.3


def main() -> None:
    asked = parser(__doc__, repeats=3)
    asked.set_defaults(size=Size(500, 2500))
    arguments = asked.parse_args()
    torch.set_num_threads(arguments.threads)
    query, gallery = (torch.as_tensor(side.features) for side in pedestrians(arguments.size, arguments.dimensions))
    print(
        f"{len(query)} x {len(gallery)}, {arguments.dimensions} dimensions, {arguments.threads} thread(s)", flush=True
    )
    images = Embeddings(torch.cat([query, gallery]), np.zeros(len(query) + len(gallery), np.int64))
    runs: dict[str, Callable[[], Any]] = {
        "bare matmul": partial(bare_matmul, images, images),
        "reranked": lambda: sum(len(rows) for rows, _ in ours(query, gallery)),
        "dense, sorted": partial(dense, query, gallery, order=fully_sorted),
        "dense, partly sorted": partial(dense, query, gallery, order=partly_sorted),
    }
    if arguments.torchreid:
        hint = "it is not a checkout of deep-person-reid"
        function = load(arguments.torchreid, "torchreid/utils/rerank.py", hint).re_ranking
        runs["published, torchreid"] = partial(published, function, query, gallery)
    results = print_table(runs, arguments.repeats)
    for name, expected in results.items():
        if isinstance(expected, np.ndarray):
            differences = [np.abs(values.numpy() - expected[rows]).max() for rows, values in ours(query, gallery)]
            print(f"largest difference to {name}: {max(differences):.2g}")


def ours(query: Tensor, gallery: Tensor) -> Iterator[tuple[Array, Tensor]]:
    with float32_matmul(gallery.device):
        yield from reranked(query, gallery, np.arange(len(query)), k1=K1, k2=K2, weight=WEIGHT, cosine=False)


def dense(query: Tensor, gallery: Tensor, *, order: Callable[[Array], Array]) -> Array:
    """[Q, G] final distances."""
    among = [euclidean(left, right) for left, right in ((query, query), (query, gallery), (gallery, gallery))]
    matrix = np.block([[among[0], among[1]], [among[1].T, among[2]]])
    matrix = np.power(matrix, 2)
    matrix = matrix / matrix.max(axis=1, keepdims=True)
    ranks = order(matrix)
    vectors = np.zeros_like(matrix)
    for image in range(len(matrix)):
        members = neighbourhood(ranks, image)
        weights = np.exp(-matrix[image, members])
        vectors[image, members] = weights / weights.sum()
    averaged = np.zeros_like(vectors)
    for image in range(len(matrix)):
        averaged[image] = vectors[ranks[image, :K2]].mean(axis=0)
    del vectors
    jaccard = jaccard_distances(averaged, len(query))
    final: Array = ((1 - WEIGHT) * jaccard + WEIGHT * matrix[: len(query)])[:, len(query) :]
    return final


def published(function: Callable[..., Array], query: Tensor, gallery: Tensor) -> Array:
    """It squares the distances that it is given."""
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    return function(*(euclidean(left, right) for left, right in pairs), k1=K1, k2=K2, lambda_value=WEIGHT)


def euclidean(left: Tensor, right: Tensor) -> Array:
    return squared_distances(left, right).clamp_(min=0).sqrt_().numpy()


def fully_sorted(matrix: Array) -> Array:
    return np.argsort(matrix, axis=1).astype(np.int32)


def partly_sorted(matrix: Array) -> Array:
    return np.argpartition(matrix, range(1, K1 + 1), axis=1).astype(np.int32)


def reciprocal(ranks: Array, image: int, k: int) -> Array:
    forward = ranks[image, : k + 1]
    found: Array = forward[np.nonzero(ranks[forward, : k + 1] == image)[0]]
    return found


def neighbourhood(ranks: Array, image: int) -> Array:
    own = reciprocal(ranks, image, K1)
    parts = [own]
    for other in own:
        offered = reciprocal(ranks, other, round(K1 / 2))
        if len(np.intersect1d(offered, own)) > 2 / 3 * len(offered):
            parts.append(offered)
    return np.unique(np.concatenate(parts))


def jaccard_distances(vectors: Array, num_queries: int) -> Array:
    holders = [np.flatnonzero(vectors[:, column]) for column in range(len(vectors))]
    distances = np.zeros((num_queries, len(vectors)), np.float32)
    for query in range(num_queries):
        overlap = np.zeros(len(vectors), np.float32)
        for column in np.flatnonzero(vectors[query]):
            images = holders[column]
            overlap[images] += np.minimum(vectors[query, column], vectors[images, column])
        distances[query] = 1 - overlap / (2 - overlap)
    return distances


def print_table(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Each call is timed while its memory is watched, for at full size it takes a minute; what the calls gave."""
    seconds = {name: np.zeros(repeats) for name in runs}
    extra: dict[str, str] = {}
    results: dict[str, Any] = {}

    def timed(name: str, turn: int) -> None:
        start = time.perf_counter()
        results[name] = runs[name]()
        seconds[name][turn] = time.perf_counter() - start

    for turn in range(repeats):
        for name in runs:
            extra[name] = extra_memory(partial(timed, name, turn))
    print("\n| | median s | x reranked | extra MiB |\n|---|---|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {np.median(times):.2f} | {np.median(times / seconds['reranked']):.1f} | {extra[name]} |")
    print()
    return results


if __name__ == "__main__":
    main()
