"""Seconds and memory of a whole evaluation, against a bare matmul of its size, a full sort and compiled rankers.

    python benchmarks/evaluation.py             a small gallery, seconds
    python benchmarks/evaluation.py --market    3,368 queries, 15,913 gallery images
    python benchmarks/evaluation.py --msmt17    11,659 queries, 82,161 gallery images: minutes, and 12 GB to compare

`--torchreid PATH` and `--fastreid PATH` are checkouts of deep-person-reid and fast-reid in which the compiled ranker
was built; they get the same features, make the whole matrix of distances as they do, and must come to the same scores.

The sides take turns in one run. Medians of the seconds, and of the ratios within a turn; the ratios are what to read.
Features are made up: identities under cameras, with distractors and images of unequal difficulty. `distances` is the
time in which distances are made, `ranking` the rest. `extra MiB` is the highest memory of the process during a call
over its memory before the call (Linux with glibc only). The bare matmul writes 512 queries at a time into one buffer.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import MSMT17, Array, Size, bare_matmul, extra_memory, load, parser, pedestrians, squared_distances

from reid.config import Protocol
from reid.evaluation import Embeddings, evaluate, retrieval
from reid.evaluation.distances import distances

COLUMNS = ("distances s", "ranking s", "total s", "x bare matmul", "ranking x ours", "extra MiB")
FORMS = {"torchreid": "torchreid/metrics/rank_cylib", "fastreid": "fastreid/evaluation/rank_cylib"}


@dataclass(frozen=True)
class Run:
    """Seconds of making distances, and of the rest; and the scores, if there are any."""

    distances: float
    ranking: float = 0.0
    scores: tuple[float, float] | None = None  # mAP and Rank-1

    @property
    def total(self) -> float:
        """Both together."""
        return self.distances + self.ranking


def main() -> None:
    asked = parser(__doc__, repeats=5)
    asked.add_argument("--msmt17", dest="size", action="store_const", const=MSMT17, help="the size of MSMT17")
    asked.add_argument("--fastreid", type=Path, metavar="PATH", help="a checkout of fast-reid, to compare with")
    asked.set_defaults(size=Size(600, 3000))
    arguments = asked.parse_args()
    torch.set_num_threads(arguments.threads)
    sides: dict[str, Callable[[Embeddings, Embeddings], Run]] = {
        "bare matmul": alone,
        "evaluate": ours,
        "evaluate, cosine": partial(ours, protocol=Protocol(distance="cosine")),
        "full sort": full_sort,
    }
    for name, folder in FORMS.items():
        if getattr(arguments, name):
            sides[f"{name}, compiled"] = partial(compiled, ranker(getattr(arguments, name), folder))
    query, gallery = pedestrians(arguments.size, arguments.dimensions)
    print(f"{len(query.ids)} x {len(gallery.ids)}, {arguments.dimensions} dimensions, {arguments.threads} thread(s)")
    result = evaluate(query, gallery)
    print(", ".join(f"{name} {value:.6g}" for name, value in result.metrics().items()), flush=True)
    compare(sides, query, gallery, arguments.repeats)


def alone(query: Embeddings, gallery: Embeddings) -> Run:
    start = time.perf_counter()
    bare_matmul(query, gallery)
    return Run(time.perf_counter() - start)


def ours(query: Embeddings, gallery: Embeddings, protocol: Protocol = retrieval.DEFAULT) -> Run:
    spent, start = [0.0], time.perf_counter()

    def clocked(*arguments: Any, **settings: Any) -> Iterator[Any]:
        parts = distances(*arguments, **settings)
        while True:
            asked = time.perf_counter()
            part = next(parts, None)
            spent[0] += time.perf_counter() - asked
            if part is None:
                return
            yield part

    with mock.patch.object(retrieval, "distances", clocked):
        result = evaluate(query, gallery, protocol)
    return Run(spent[0], time.perf_counter() - start - spent[0], (result.mean_ap, float(result.cmc[0])))


def full_sort(query: Embeddings, gallery: Embeddings) -> Run:
    """In the usual way, 512 queries at a time: all distances, all of them sorted, one query after the other."""
    making, ranking, found = 0.0, 0.0, []
    for start in range(0, len(query.ids), 512):
        rows = slice(start, start + 512)
        times = [time.perf_counter()]
        matrix = squared_distances(torch.as_tensor(query.features[rows]), torch.as_tensor(gallery.features)).numpy()
        times.append(time.perf_counter())
        found += sorted_scores(matrix, rows, query, gallery)
        making, ranking = making + times[1] - times[0], ranking + time.perf_counter() - times[1]
    mean_ap, rank_1 = np.mean(found, axis=0)
    return Run(making, ranking, (float(mean_ap), float(rank_1)))


def sorted_scores(matrix: Array, rows: slice, query: Embeddings, gallery: Embeddings) -> list[tuple[float, float]]:
    """AP, and whether the first image is a match, of each query that has one."""
    assert query.cameras is not None
    scores = []
    ids, cameras = np.asarray(query.ids)[rows], np.asarray(query.cameras)[rows]
    gallery_ids, gallery_cameras = np.asarray(gallery.ids), np.asarray(gallery.cameras)
    for person, camera, ranked in zip(ids, cameras, np.argsort(matrix, axis=1), strict=True):
        same = gallery_ids[ranked] == person
        ranks = np.flatnonzero(same[~(same & (gallery_cameras[ranked] == camera))]) + 1
        if len(ranks):
            scores.append((float(np.mean(np.arange(1, len(ranks) + 1) / ranks)), float(ranks[0] == 1)))
    return scores


def ranker(checkout: Path, folder: str) -> Callable[..., Any]:
    hint = f"build it with `python setup.py build_ext --inplace` in {checkout / folder}"
    found: Callable[..., Any] = load(checkout, f"{folder}/rank_cy*.so", hint).evaluate_cy
    return found


def compiled(rank: Callable[..., Any], query: Embeddings, gallery: Embeddings) -> Run:
    start = time.perf_counter()
    matrix = squared_distances(torch.as_tensor(query.features), torch.as_tensor(gallery.features)).numpy()
    made = time.perf_counter()
    cmc, precision, *_ = rank(matrix, query.ids, gallery.ids, query.cameras, gallery.cameras, 50)
    return Run(made - start, time.perf_counter() - made, (float(np.mean(precision)), float(cmc[0])))


def compare(sides: dict[str, Callable[..., Run]], query: Embeddings, gallery: Embeddings, repeats: int) -> None:
    """Each call is timed while its memory is watched."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    extra: dict[str, str] = {}
    for _ in range(repeats):
        for name, run in sides.items():
            extra[name] = extra_memory(lambda run=run, name=name: runs[name].append(run(query, gallery)))
    print(f"\n| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name, own in runs.items():
        seconds = [np.median([getattr(run, part) for run in own]) for part in ("distances", "ranking", "total")]
        matmul = np.median([run.total / bare.total for run, bare in zip(own, runs["bare matmul"], strict=True)])
        ranking = np.median([run.ranking / our.ranking for run, our in zip(own, runs["evaluate"], strict=True)])
        times = " | ".join(f"{value:.3f}" for value in seconds)
        print(f"| {name} | {times} | {matmul:.2f} | {ranking:.2f} | {extra[name]} |")
    check({name: own[0].scores for name, own in runs.items() if "cosine" not in name})


def check(scores: dict[str, tuple[float, float] | None]) -> None:
    expected = scores["evaluate"]
    assert expected is not None
    for name, found in scores.items():
        if found and not np.allclose(found, expected, rtol=0, atol=1e-5):
            raise SystemExit(f"mAP and Rank-1 are {expected}, and {found} by {name}")
    print(f"\nmAP and Rank-1 agree to 1e-5: {', '.join(name for name, found in scores.items() if found)}")


if __name__ == "__main__":
    main()
