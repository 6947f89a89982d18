"""Whether two rows differ: means over the same queries, whose errors come from the draw of identities and of seeds.

A query's value is its mean over a row's seeds; what is judged is the mean, over the queries, of the difference between
the two rows. Two things make it vary. The identities: queries of one are alike, so identities are what is drawn anew
(pairs cluster bootstrap-t; Cameron, Gelbach, Miller, "Bootstrap-Based Improvements for Inference with Clustered
Errors", Review of Economics and Statistics 2008). And the seeds: two to five cannot be drawn anew, so their mean is
given the error of Student's t. What seeds and identities have in common would be in both and is taken out of the first
once (as in Cameron, Gelbach, Miller, "Robust Inference with Multiway Clustering", JBES 2011). The two errors are added
draw by draw, and both interval and p are read off the sums, so that they never disagree.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 9999
_SEED = 20260301  # one for all, so that the same results give the same report
_ROUNDING = 1e-9  # a difference below is arithmetic's
_CHUNK = 4_000_000  # numbers in memory at a time


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean difference between two rows, as a fraction, with its 95 % interval and p-value (two-sided).

    `num_differing`: the identities on which the two rows differ at all. `over_seeds`: whether the seeds' own spread is
    in it, so that it speaks of the methods; else it speaks of these trained networks alone.
    """

    value: float
    low: float
    high: float
    p: float
    num_queries: int
    num_identities: int
    num_differing: int
    over_seeds: bool


def compare(pairs: Sequence[tuple[Floats, Floats]], identities: NDArray[np.int64]) -> list[Difference]:
    """The first row of every pair against the second.

    Args:
        pairs: values of the queries of both rows, [seeds, Q] each; the numbers of seeds may differ. Where a value is
            NaN, that query is left out of all pairs.
        identities: [Q] whose image each query is.
    """
    valid = ~np.any([np.isnan(values).any(0) for pair in pairs for values in pair], axis=0)
    _, clusters = np.unique(identities[valid], return_inverse=True)
    sizes = np.bincount(clusters).astype(np.float64)
    samples = [_Sample(ours[:, valid], theirs[:, valid], clusters, sizes) for ours, theirs in pairs]
    errors = _studentised(np.stack([sample.sums for sample in samples], axis=1), sizes)
    return [sample.judged(errors[:, place]) for place, sample in enumerate(samples)]


class _Sample:
    """One pair: its difference, and the variances of its two errors."""

    def __init__(self, ours: Floats, theirs: Floats, clusters: NDArray[np.intp], sizes: Floats) -> None:
        self.sizes, self.num_queries = sizes, len(clusters)
        self.sums = np.bincount(clusters, weights=ours.mean(0) - theirs.mean(0))
        self.value = float(self.sums.sum() / self.num_queries)
        self.variance = self._variance(self.sums - sizes * self.value)
        self.freedom, self.seed_variance, self.shared = 0, 0.0, 0.0
        if min(len(ours), len(theirs)) > 1:
            self._spread(ours, theirs, clusters)

    def _variance(self, residuals: Floats) -> float:
        """Of a mean over the queries, from the sums over each identity less what is expected; unbiased (CR2)."""
        return float((residuals**2 / (1 - self.sizes / self.num_queries)).sum() / self.num_queries**2)

    def _spread(self, ours: Floats, theirs: Floats, clusters: NDArray[np.intp]) -> None:
        """The seeds' variance, pooled over both rows, and the part of it that the draw of identities holds already."""
        self.freedom = len(ours) + len(theirs) - 2
        share = (1 / len(ours) + 1 / len(theirs)) / self.freedom
        for values in (ours, theirs):
            means = values.mean(1, keepdims=True)
            self.seed_variance += share * float(((means - means.mean()) ** 2).sum())
            for line in values - means - values.mean(0) + means.mean():
                self.shared += share * self._variance(np.bincount(clusters, weights=line).astype(np.float64))

    def judged(self, errors: Floats) -> Difference:
        """The difference with what its errors say of it; `errors` [DRAWS]: studentised, of drawing identities anew."""
        # Never less, together, than what these networks alone vary by: seeds that agree by luck prove nothing.
        shared = min(self.shared, self.seed_variance)
        spread = np.sqrt(max(self.variance - shared, 0.0)) * errors
        if self.freedom:
            draws = np.random.default_rng(_SEED).standard_t(self.freedom, DRAWS)
            spread = spread + np.sqrt(self.seed_variance) * draws
        half = float(np.quantile(np.abs(spread), 0.95))
        beyond = int(np.sum(np.abs(spread) >= abs(self.value)))
        return Difference(
            value=self.value,
            low=self.value - half,
            high=self.value + half,
            p=(beyond + 1) / (DRAWS + 1),
            num_queries=self.num_queries,
            num_identities=len(self.sizes),
            num_differing=int(np.sum(np.abs(self.sums) > _ROUNDING)),
            over_seeds=bool(self.freedom),
        )


def _studentised(sums: Floats, sizes: Floats) -> Floats:
    """[DRAWS, pairs] error of the mean over its standard error, each time the identities are drawn anew.

    Args:
        sums: [identities, pairs] sums of the differences.
        sizes: [identities] queries.
    """
    means = sums.sum(0) / sizes.sum()
    columns = np.column_stack([sizes, sizes**2, sums, sums**2, sums * sizes[:, None]])
    times = _times_drawn(len(sizes), DRAWS)
    step, count = max(1, _CHUNK // len(sizes)), len(means)
    found = []
    for start in range(0, DRAWS, step):
        drawn = times[start : start + step].astype(np.float64) @ columns
        size, size2 = drawn[:, :1], drawn[:, 1:2]
        total, square, cross = (drawn[:, 2 + part * count : 2 + (part + 1) * count] for part in range(3))
        mean = total / size
        variance = (square - 2 * mean * cross + mean**2 * size2) / size**2 * len(sizes) / (len(sizes) - 1)
        found.append((mean - means) / np.sqrt(np.maximum(variance, np.finfo(float).tiny)))
    return np.concatenate(found)


@functools.lru_cache(maxsize=4)
def _times_drawn(count: int, draws: int) -> NDArray[np.uint8]:
    """[draws, count] how often each identity is drawn when as many are drawn as there are."""
    generator = np.random.default_rng([_SEED, count])
    times = np.empty((draws, count), np.uint8)
    step = max(1, _CHUNK // count)
    for start in range(0, draws, step):
        rows = times[start : start + step]
        drawn = generator.integers(0, count, rows.shape) + count * np.arange(len(rows))[:, None]
        rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
    return times
