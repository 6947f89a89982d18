"""Retrieval scores against the definitions, over every order of tied images, on thousands of small cases."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reid.config import BOTH_PARTS, Protocol, Rule
from reid.evaluation import Embeddings, RetrievalResult, evaluate, measures
from reid.evaluation import distances as distances_module
from reid.evaluation.rules import one_shot_draws
from tests.conftest import FULL
from tests.reid.test_evaluation_engine import clusters

Array = NDArray[Any]
Ranked = list[tuple[float, bool]]  # the distance of each ranked image, and whether it matches
AP_KINDS: Any = ("hits", "trapezoid", "cut50")
TIES: Any = ("expected", "pessimistic")
RULES: tuple[Rule, ...] = get_args(Rule)


# The definitions, written down as slowly as they read.


def ap_of(relevant: Sequence[bool], kind: str, cut: int) -> float:
    total, hits = 0.0, 0
    for index, match in enumerate(relevant):
        if match:
            before = hits / index if index else 1.0
            hits += 1
            here = hits / (index + 1)
            if kind == "trapezoid":
                total += (before + here) / 2
            elif kind == "hits" or index < cut:
                total += here
    return total / hits


def orders(ties: Sequence[list[bool]]) -> Iterator[list[bool]]:
    """Every ranking of images tied in groups; all are equally likely."""
    choices = [itertools.combinations(range(len(tie)), sum(tie)) for tie in ties]
    for chosen in itertools.product(*choices):
        yield [place in places for tie, places in zip(ties, chosen, strict=True) for place in range(len(tie))]


def ties_of(ranked: Ranked) -> list[list[bool]]:
    """From near to far, whether the images at a distance match; the wrong ones first."""
    return [[match for _, match in tie] for _, tie in itertools.groupby(sorted(ranked), key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Scores:
    """AP, INP, first rank and the CMC curve of one query."""

    ap: float
    inp: float
    first: float
    cmc: list[float]


def scores_of(ranked: Ranked, protocol: Protocol, cut: int) -> Scores:
    ties = ties_of(ranked)
    rankings = list(orders(ties)) if protocol.ties == "expected" else [list(itertools.chain(*ties))]
    firsts = [ranking.index(True) + 1 for ranking in rankings]
    lasts = [len(ranking) - ranking[::-1].index(True) for ranking in rankings]
    depth = max(protocol.ranks or ())
    return Scores(
        ap=sum(ap_of(ranking, protocol.ap, cut) for ranking in rankings) / len(rankings),
        inp=sum(sum(rankings[0]) / last for last in lasts) / len(lasts),
        first=sum(firsts) / len(firsts),
        cmc=[sum(first <= k for first in firsts) / len(firsts) for k in range(1, depth + 1)],
    )


@dataclass(frozen=True)
class Case:
    """What is evaluated, with the distances of queries to gallery images."""

    query: Embeddings
    gallery: Embeddings
    matrix: Array
    protocol: Protocol
    cut: int = measures.CUT

    def rankings(self) -> list[dict[int, Ranked]]:
        """For each draw, or once, what each of the queries ranks."""
        sides: Any = [(range(len(self.query.ids)), range(len(self.gallery.ids)))]
        if self.protocol.rule == "one_shot":
            sides = one_shot_draws(np.asarray(self.query.ids), draws=self.protocol.draws, seed=self.protocol.draw_seed)
        return [{query: self.ranked(query, gallery) for query in queries} for queries, gallery in sides]

    def ranked(self, query: int, gallery: Sequence[int]) -> Ranked:
        distances, matches = self.matrix[query].tolist(), self.gallery.ids == self.query.ids[query]
        return [(distances[image], bool(matches[image])) for image in gallery if self.is_ranked(query, image)]

    def is_ranked(self, query: int, image: int) -> bool:
        if self.protocol.rule == "leave_one_out":
            return query != image
        return bool(self.gallery.ids[image] != -1) and not self.is_left_out(query, image)

    def is_left_out(self, query: int, image: int) -> bool:
        """By the camera rule."""
        if self.protocol.rule != "cross_camera" or self.query.cameras is None or self.gallery.cameras is None:
            return False
        same = self.gallery.ids[image] == self.query.ids[query]
        return bool(same and self.gallery.cameras[image] == self.query.cameras[query])


def mean(values: Iterable[float]) -> float:
    """Not a number where there are none."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan


def any_match(ranked: Ranked) -> bool:
    return any(match for _, match in ranked)


def check(case: Case, result: RetrievalResult) -> None:
    """A draw is scored by its valid queries, all by the mean over draws, a query by those in which it was valid."""
    draws = case.rankings()
    scored = [
        {query: scores_of(ranked, case.protocol, case.cut) for query, ranked in draw.items() if any_match(ranked)}
        for draw in draws
    ]
    of_query = [[draw[query] for draw in scored if query in draw] for query in range(len(case.query.ids))]
    of_draw = [list(draw.values()) for draw in scored]
    expected = [
        *(mean(score.ap for score in mine) for mine in of_query),
        *(mean(score.first for score in mine) for mine in of_query),
        *(mean(score.inp for score in mine) for mine in of_query),
        mean(mean(score.ap for score in each) for each in of_draw),
        mean(mean(score.inp for score in each) for each in of_draw),
        *(
            mean(mean(score.cmc[k] for score in each) for each in of_draw)
            for k in range(max(case.protocol.ranks or ()))
        ),
    ]
    of_queries = [value for array in result.per_query().values() for value in array]
    found = [*of_queries, result.mean_ap, result.mean_inp, *result.cmc]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    for ranked, valid in zip(draws, scored, strict=True):
        assert (result.num_valid, result.num_skipped) == (len(valid), len(ranked) - len(valid))


# On many cases.

small = st.integers(0, 2)


@st.composite
def cases(draw: st.DrawFn, rule: Rule) -> Case:
    """Whole-number features, so that ties abound and float32 is exact; junk, distractors, one to three cameras."""
    spread, cameras = draw(small), draw(small)

    def column(low: int, high: int, size: int) -> Array:
        return np.array(draw(st.lists(st.integers(low, high), min_size=size, max_size=size)), np.int64)

    def side(most: int, lowest: int) -> Embeddings:
        size = draw(st.sampled_from(range(most + 1)))
        features = column(0, spread, 2 * size).reshape(-1, 2)
        return Embeddings(features, column(lowest, 3, size), column(0, cameras, size))

    query = side(8 if rule in BOTH_PARTS else 4, 1)
    gallery = query if rule in BOTH_PARTS else side(9, -1)
    protocol = Protocol(
        rule=rule,
        ap=draw(st.sampled_from(AP_KINDS)),
        ties=draw(st.sampled_from(TIES)),
        ranks=draw(st.sampled_from([(1,), (1, 5, 10), (2, 3)])),
        draws=1 + draw(small),
        draw_seed=draw(small),
    )
    return Case(query, gallery, squared_distances(query, gallery), protocol, draw(st.integers(1, 5)))


def squared_distances(query: Embeddings, gallery: Embeddings) -> Array:
    left, right = (np.asarray(side.features, np.float64) for side in (query, gallery))
    return np.asarray(np.square(left[:, None] - right).sum(axis=2))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_scores_are_the_mean_over_all_tied_orders(rule: Rule) -> None:
    @settings(max_examples=2500 if FULL else 600, deadline=None)  # of each rule
    @given(cases(rule))
    def agree(case: Case) -> None:
        if not any(any_match(ranked) for draw in case.rankings() for ranked in draw.values()):
            with pytest.raises(ValueError, match=r"none of the \d queries has a match"):
                evaluate(case.query, case.gallery, case.protocol)
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measures, "CUT", case.cut)
            check(case, evaluate(case.query, case.gallery, case.protocol))

    agree()


TRAPS = {
    "junk", "distractor", "one camera", "short gallery", "no query", "no gallery", "no match at all", "query skipped",
    "match lost to its camera", "tie", "cut within a tie", "all tied", "distractor tied with a match", "never a query",
}  # fmt: skip


def traps(case: Case) -> Iterator[str]:
    """What there is to stumble over in a case."""
    query, gallery, rule = case.query, case.gallery, case.protocol.rule
    draws = case.rankings()
    rankings = [ranked for draw in draws for ranked in draw.values()]
    valid = [ranked for ranked in rankings if any_match(ranked)]
    lost = [(q, g) for q in range(len(query.ids)) for g in range(len(gallery.ids)) if case.is_left_out(q, g)]
    present = {
        "junk": -1 in gallery.ids,
        "distractor": 0 in gallery.ids,
        "one camera": rule == "cross_camera" and len({*query.cameras, *gallery.cameras}) == 1,  # type: ignore[misc]
        "short gallery": any(len(ranked) < max(case.protocol.ranks or ()) for ranked in valid),
        "no query": len(query.ids) == 0,
        "no gallery": len(gallery.ids) == 0,
        "no match at all": not valid and len(rankings) > 0,
        "query skipped": 0 < len(valid) < len(rankings),
        "match lost to its camera": bool(lost and valid),
        "all tied": any(len(ties_of(ranked)) == 1 and len(set(ties_of(ranked)[0])) == 2 for ranked in valid),
        "never a query": rule == "one_shot" and bool(valid) and len(set().union(*draws)) < len(query.ids),
    }
    yield from (name for name, found in present.items() if found)
    for ranked in valid:
        yield from traps_of_ties(ranked, case.cut if case.protocol.ap == "cut50" else 0)
    for q, g in itertools.product(range(len(query.ids)), np.flatnonzero(gallery.ids == 0)):
        if (float(case.matrix[q, g]), True) in case.ranked(q, range(len(gallery.ids))):
            yield "distractor tied with a match"


def traps_of_ties(ranked: Ranked, cut: int) -> Iterator[str]:
    before = 0
    for tie in ties_of(ranked):
        if len(set(tie)) == 2:
            yield "tie"
            if before < cut < before + len(tie):
                yield "cut within a tie"
        before += len(tie)


def test_every_trap_is_often_among_the_cases() -> None:
    seen: Counter[str] = Counter()
    for rule in RULES:

        @settings(max_examples=200, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
        @given(cases(rule))
        def look(case: Case) -> None:
            seen.update(set(traps(case)))

        look()
    assert set(seen) == TRAPS
    assert min(seen.values()) >= 10, seen


@pytest.mark.parametrize("kind", AP_KINDS)
@pytest.mark.parametrize("distance", ["euclidean", "cosine", "normalised"])
def test_scores_equal_a_full_sort_across_blocks(monkeypatch: pytest.MonkeyPatch, kind: Any, distance: Any) -> None:
    monkeypatch.setattr(distances_module, "BLOCK_VALUES", 7 * 300)
    monkeypatch.setattr(distances_module, "PART_VALUES", 2 * 300)
    monkeypatch.setattr(distances_module, "COLUMNS", 64)
    query, gallery = clusters()
    sides = [np.asarray(side.features, np.float64) for side in (query, gallery)]
    if distance != "euclidean":
        sides = [features / np.linalg.norm(features, axis=1, keepdims=True) for features in sides]
    matrix = np.square(sides[0][:, None] - sides[1]).sum(axis=2) if distance != "cosine" else 1 - sides[0] @ sides[1].T
    protocol = Protocol(ap=kind, normalise=True) if distance == "normalised" else Protocol(ap=kind, distance=distance)
    result = evaluate(query, gallery, protocol)
    check(Case(query, gallery, matrix, protocol.resolved()), result)
    assert 0.1 < result.mean_ap < 0.9
    assert result.num_skipped == 1
