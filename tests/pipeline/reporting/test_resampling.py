"""The test behind the marks on simulated tables: how often it errs, how often its interval holds, what it finds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.reporting import resampling
from pipeline.reporting.resampling import Difference, compare
from pipeline.reporting.significance import ALPHA, holm

ROWS = 4


@dataclass(frozen=True, kw_only=True)
class World:
    """Where a table comes from: spreads of what makes a query's value, on the scale of an average precision.

    Queries have the ease of their identity and their own, the same for all rows. Each row adds what it makes of an
    identity and of a query; each seed its own level, its own view of an identity, and noise. `binary`: only whether a
    value is above zero is seen, as of a first match.
    """

    seeds: int
    identities: int = 60
    level: float = 0.01
    binary: bool = False

    def table(self, draw: np.random.Generator, gains: tuple[float, ...]) -> tuple[list[Any], NDArray[np.int64], Any]:
        """Values [seeds, Q] of each row, identities [Q], and the level of each row's seeds [rows, seeds]."""
        whose = np.repeat(np.arange(self.identities), 1 + draw.poisson(3, self.identities))
        scale = 3.0 if self.binary else 1.0
        ease = self._of_identities(draw, whose, 0.2) + draw.normal(0, 0.15, len(whose))
        levels = draw.normal(0, self.level, (len(gains), self.seeds))
        rows = []
        for gain, level in zip(gains, levels, strict=True):
            row = gain + self._of_identities(draw, whose, 0.06) + draw.normal(0, 0.08, len(whose))
            own = [self._of_identities(draw, whose, 0.05) + draw.normal(0, 0.08, len(whose)) for _ in level]
            values = scale * (ease + row + np.stack(own)) + level[:, None]
            rows.append((values > 0).astype(float) if self.binary else values)
        return rows, whose, levels

    def _of_identities(self, draw: np.random.Generator, whose: NDArray[np.int64], spread: float) -> NDArray[np.float64]:
        return draw.normal(0, spread, self.identities)[whose]


WORLDS = [
    *(World(seeds=seeds, level=level) for seeds in (2, 3, 5) for level in (0.0, 0.01, 0.03)),
    World(seeds=1),
    World(seeds=1, level=0.0, binary=True),
    World(seeds=3, binary=True),
    World(seeds=3, identities=20),
    World(seeds=5, identities=150),
]


def judged(rows: list[Any], whose: NDArray[np.int64]) -> list[Difference]:
    return compare([(row, rows[0]) for row in rows[1:]], whose)


def test_of_a_thousand_tables_without_differences_few_have_a_mark_and_the_intervals_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resampling, "DRAWS", 999)
    draw = np.random.default_rng(0)
    marked, held = [], []
    for number in range(1000):
        world = WORLDS[number % len(WORLDS)]
        rows, whose, levels = world.table(draw, (0.0,) * ROWS)
        # Of one seed it is these networks that are compared, and their levels differ.
        truth = levels.mean(1) if world.seeds == 1 else np.zeros(ROWS)
        found = judged(rows, whose)
        gaps = [value - truth[0] for value in truth[1:]]
        held += [one.low <= gap <= one.high for one, gap in zip(found, gaps, strict=True)]
        if world.seeds > 1 or world.binary:
            marked.append(min(holm([one.p for one in found])) < ALPHA)
    assert 0.005 < np.mean(marked) <= 0.055
    assert 0.93 <= np.mean(held) <= 0.97


def test_real_differences_are_found_and_more_seeds_find_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "DRAWS", 999)
    found = {}
    for seeds in (2, 3, 5):
        draw = np.random.default_rng(1)
        world = World(seeds=seeds, identities=150, level=0.005)
        tables = [judged(*world.table(draw, (0.0, 0.04, 0.0, 0.0))[:2]) for _ in range(60)]
        found[seeds] = np.mean([holm([one.p for one in table])[0] < ALPHA for table in tables])
    assert found[2] < found[3] <= found[5]
    assert found[3] > 0.7


def test_interval_and_p_value_never_disagree() -> None:
    draw = np.random.default_rng(2)
    for world in WORLDS:
        for one in judged(*world.table(draw, (0.0, 0.02, 0.05, 0.0))[:2]):
            assert (one.p < 0.05) == (not one.low <= 0 <= one.high) or abs(one.p - 0.05) < 2e-3


def test_the_difference_is_that_of_the_means_over_the_queries_both_rows_have() -> None:
    draw = np.random.default_rng(3)
    ours, theirs = draw.random((3, 90)), draw.random((2, 90))
    ours[:, 4] = theirs[:, 4] = np.nan
    whose = draw.integers(0, 30, 90)
    (one,) = compare([(ours, theirs)], whose)
    keep = np.arange(90) != 4
    assert one.value == pytest.approx(ours[:, keep].mean() - theirs[:, keep].mean())
    assert (one.num_queries, one.num_identities) == (89, len(np.unique(whose[keep])))
    assert one.low < one.value < one.high
    assert one.value - one.low == pytest.approx(one.high - one.value)


def test_without_seeds_it_is_the_bootstrap_written_out() -> None:
    """Oracle: draw identities with replacement, studentise each time, one by one."""
    draw = np.random.default_rng(4)
    whose = np.sort(draw.integers(0, 25, 80))
    ours, theirs = draw.random((1, 80)) + 0.1, draw.random((1, 80))
    (one,) = compare([(ours, theirs)], whose)
    names = np.unique(whose)
    groups = [(ours - theirs)[0, whose == name] for name in names]

    def error(values: list[NDArray[np.float64]]) -> float:
        total = sum(len(value) for value in values)
        mean = sum(value.sum() for value in values) / total
        squares = sum((value.sum() - len(value) * mean) ** 2 for value in values)
        return float(np.sqrt(squares * len(values) / (len(values) - 1)) / total)

    def mean(values: list[NDArray[np.float64]]) -> float:
        return float(np.concatenate(values).mean())

    ratios = []
    for _ in range(4000):
        drawn = [groups[place] for place in draw.integers(0, len(groups), len(groups))]
        ratios.append(abs(mean(drawn) - mean(groups)) / error(drawn))
    assert one.high - one.value == pytest.approx(np.quantile(ratios, 0.95) * error(groups), rel=0.06)
    assert not one.over_seeds


def test_seeds_that_differ_much_widen_the_interval_and_agreeing_ones_hardly_do() -> None:
    draw = np.random.default_rng(5)
    whose = np.repeat(np.arange(50), 4)
    base = draw.random(200)
    wide, narrow = (base + level * np.array([[-1.0], [0.0], [1.0]]) for level in (0.1, 0.001))
    other = base + 0.02 * draw.normal(size=200)
    (alone,) = compare([(base[None], other[None])], whose)
    (spread,) = compare([(wide, np.stack([other] * 3))], whose)
    (agreed,) = compare([(narrow, np.stack([other] * 3))], whose)
    widths = [one.high - one.low for one in (alone, agreed, spread)]
    assert widths[0] < widths[1] * 1.05 < 1.5 * widths[0]
    assert widths[2] > 5 * widths[0]


def test_the_same_values_give_the_same_numbers_whatever_is_compared_beside_them() -> None:
    rows, whose, _ = World(seeds=3).table(np.random.default_rng(6), (0.0,) * ROWS)
    together = judged(rows, whose)
    assert together == judged(rows, whose)
    alone = compare([(rows[2], rows[0])], whose)[0]
    assert alone.p == pytest.approx(together[1].p, abs=2e-4)
    assert alone.high == pytest.approx(together[1].high)


def test_seeds_that_agree_by_luck_prove_nothing() -> None:
    """Of rounded values two seeds often have the same mean to the last digit; the networks still vary."""
    draw = np.random.default_rng(8)
    rows = [np.stack([draw.permutation(np.arange(120) < 60) for _ in range(3)]).astype(float) for _ in range(2)]
    rows[0][:, :2] = [[1.0, 0.0]]
    (one,) = compare([(rows[0], rows[1])], np.repeat(np.arange(40), 3))
    assert abs(one.value) < 0.01
    assert one.high - one.low > 0.05
    assert one.p > 0.3


def test_equal_rows_differ_nowhere() -> None:
    values = np.random.default_rng(7).random((1, 60))
    (one,) = compare([(values, values)], np.repeat(np.arange(20), 3))
    assert (one.value, one.num_differing) == (0.0, 0)
    assert one.p == 1.0


@pytest.mark.parametrize("count", [7, 300, 4000])
def test_as_many_identities_are_drawn_as_there_are(count: int) -> None:
    times = resampling._times_drawn(count, 500)
    assert times.shape == (500, count)
    assert np.all(times.sum(1, dtype=np.int64) == count)
    assert np.mean(times == 0) == pytest.approx((1 - 1 / count) ** count, abs=0.01)
