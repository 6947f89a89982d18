"""Retrieval scores against the definitions: worked vectors, enumeration of tied orders, and a full sort."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reid.config import Protocol
from reid.evaluation import Embeddings, RetrievalResult, evaluate
from reid.evaluation import distances as distances_module
from reid.evaluation.embeddings import Matches
from reid.evaluation.retrieval import score

Array = NDArray[Any]
AP_KINDS = ("hits", "trapezoid", "cut50")
ANY_CAMERA = Protocol(rule="query_gallery")


# The definitions, written down as slowly as they read.


def ap_of(relevant: Sequence[bool], kind: str, cut: int = 50) -> Fraction:
    total, hits = Fraction(0), 0
    for index, match in enumerate(relevant):
        if match:
            before = Fraction(hits, index) if index else Fraction(1)
            hits += 1
            here = Fraction(hits, index + 1)
            if kind == "trapezoid":
                total += (before + here) / 2
            elif kind == "hits" or index < cut:
                total += here
    return total / hits


def orders(groups: Sequence[tuple[int, int]]) -> Iterator[list[bool]]:
    """Every ranking of tie groups given as (images, matches); all are equally likely."""
    choices = [itertools.combinations(range(size), matches) for size, matches in groups]
    for chosen in itertools.product(*choices):
        yield [place in places for (size, _), places in zip(groups, chosen, strict=True) for place in range(size)]


@dataclass(frozen=True)
class Scores:
    """AP, INP, first rank and the CMC curve of one query."""

    ap: float
    inp: float
    first: float
    cmc: list[float]


def scores_of(ranked: Sequence[tuple[float, bool]], protocol: Protocol, cut: int = 50) -> Scores:
    ordered = sorted(ranked)  # at equal distance False, the wrong image, comes first
    rankings = [[match for _, match in ordered]]
    if protocol.ties == "expected":
        ties = [[match for _, match in tie] for _, tie in itertools.groupby(ordered, key=lambda pair: pair[0])]
        rankings = list(orders([(len(tie), sum(tie)) for tie in ties]))
    firsts = [ranking.index(True) + 1 for ranking in rankings]
    lasts = [max(i for i, match in enumerate(ranking) if match) + 1 for ranking in rankings]
    return Scores(
        ap=float(sum(ap_of(ranking, protocol.ap, cut) for ranking in rankings) / len(rankings)),
        inp=float(np.mean([sum(rankings[0]) / last for last in lasts])),
        first=float(np.mean(firsts)),
        cmc=[
            float(np.mean([first <= k for first in firsts])) for k in range(1, max(protocol.resolved().ranks or ()) + 1)
        ],
    )


def cleaned(query: int, distance: Array, labels: dict[str, Array], protocol: Protocol) -> list[tuple[float, bool]]:
    same = labels["gallery_ids"] == labels["ids"][query]
    drop = labels["gallery_ids"] == -1
    if protocol.rule != "query_gallery":
        drop |= same & (labels["gallery_cameras"] == labels["cameras"][query])
    return [(float(d), bool(s)) for d, s in zip(distance[~drop], same[~drop], strict=True)]


def check_against_definitions(
    result: RetrievalResult, matrix: Array, labels: dict[str, Array], protocol: Protocol
) -> None:
    rankings = [cleaned(query, row, labels, protocol) for query, row in enumerate(matrix)]
    valid = [any(match for _, match in ranking) for ranking in rankings]
    expected = [scores_of(ranking, protocol) for ranking, ok in zip(rankings, valid, strict=True) if ok]
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.isnan(result.average_precision), np.logical_not(valid))
    np.testing.assert_array_equal(np.isnan(result.first_match_rank), np.logical_not(valid))
    close(result.average_precision[valid], [s.ap for s in expected])
    close(result.first_match_rank[valid], [s.first for s in expected])
    close(result.cmc, np.mean([s.cmc for s in expected], axis=0))
    close(result.mean_ap, np.mean([s.ap for s in expected]))
    close(result.mean_inp, np.mean([s.inp for s in expected]))
    assert (result.num_valid, result.num_skipped) == (sum(valid), len(valid) - sum(valid))


def score_matrix(matrix: Any, protocol: Protocol, labels: dict[str, Any], *, cut: int = 50) -> RetrievalResult:
    """Score a given matrix of distances, one row at a time."""
    blank = [np.zeros((len(labels[name]), 1), np.float32) for name in ("ids", "gallery_ids")]
    query = Embeddings(blank[0], np.asarray(labels["ids"]), np.asarray(labels["cameras"]))
    gallery = Embeddings(blank[1], np.asarray(labels["gallery_ids"]), np.asarray(labels["gallery_cameras"]))
    matches = Matches.find(query, gallery, camera_rule=protocol.rule != "query_gallery")
    values = torch.tensor(matrix, dtype=torch.float32)
    return score(
        ((matches.valid[i : i + 1], values[[q]]) for i, q in enumerate(matches.valid)), matches, protocol, cut=cut
    )


def score_ranking(relevant: Sequence[int], protocol: Protocol, *, cut: int = 50) -> RetrievalResult:
    blank = [0] * len(relevant)
    matrix = [list(range(len(relevant)))]
    labels = {"ids": [1], "cameras": [9], "gallery_ids": relevant, "gallery_cameras": blank}
    return score_matrix(matrix, protocol, labels, cut=cut)


# Worked vectors.


@pytest.mark.parametrize(
    ("kind", "cut", "expected"),
    [("hits", 50, 0.555556), ("trapezoid", 50, 0.427778), ("cut50", 5, 0.388889), ("cut50", 2, 0.166667)],
)
def test_vector_a_the_definitions_of_ap(kind: Any, cut: int, expected: float) -> None:
    result = score_ranking([0, 1, 1, 0, 0, 1, 0, 0], Protocol(ap=kind), cut=cut)
    assert result.mean_ap == pytest.approx(expected, abs=1e-6)
    assert result.mean_inp == 0.5


@pytest.mark.parametrize("kind", AP_KINDS)
def test_a_perfect_ranking_scores_one(kind: Any) -> None:
    assert score_ranking([1, 1, 0], Protocol(ap=kind)).mean_ap == 1.0


def test_a_match_behind_one_wrong_image() -> None:
    assert score_ranking([0, 1], Protocol()).mean_ap == 0.5
    assert score_ranking([0, 1], Protocol(ap="trapezoid")).mean_ap == 0.25


VECTOR_B = {
    "gallery_ids": [1, 1, 1, -1, 0, 2, 2, 0, 3, 9],
    "gallery_cameras": [0, 1, 2, 1, 3, 0, 1, 2, 1, 4],
    "ids": [1, 2, 9],
    "cameras": [0, 1, 4],
}
DISTANCES_B = [
    [0.05, 0.20, 0.50, 0.10, 0.30, 0.60, 0.70, 0.40, 0.80, 0.90],
    [0.60, 0.55, 0.65, 0.10, 0.15, 0.30, 0.05, 0.70, 0.20, 0.90],
    [0.50, 0.60, 0.70, 0.80, 0.90, 0.10, 0.20, 0.30, 0.40, 0.05],
]


@pytest.mark.parametrize(
    ("kind", "each", "mean"),
    [
        ("hits", [0.75, 1 / 3], 0.541667),
        ("trapezoid", [0.708333, 1 / 6], 0.4375),
        ("cut50", [0.5, 1 / 3], 0.416667),
    ],
)
def test_vector_b_the_full_rule(kind: Any, each: list[float], mean: float) -> None:
    result = score_matrix(DISTANCES_B, Protocol(ap=kind, ranks=(1, 3)), VECTOR_B, cut=3)
    assert result.mean_ap == pytest.approx(mean, abs=1e-6)
    assert result.mean_inp == pytest.approx(0.416667, abs=1e-6)
    assert list(result.cmc) == [0.5, 0.5, 1.0]
    assert list(result.average_precision[:2]) == pytest.approx(each, abs=1e-6)
    assert list(result.first_match_rank[:2]) == [1, 3]
    assert math.isnan(result.average_precision[2])
    assert math.isnan(result.first_match_rank[2])
    assert (result.num_valid, result.num_skipped) == (2, 1)


@pytest.mark.parametrize(
    ("protocol", "gallery_ids", "rank_1", "rank_3", "mean_ap"),
    [
        (Protocol(ranks=(1, 3)), [1, 1, 1, 0, 0, 2, 2, 0, 3, 9], 0.0, 0.5, 0.35),  # junk as wrong images
        (Protocol(ranks=(1, 3)), [1, 1, 1, -1, -1, 2, 2, -1, 3, 9], 0.5, 1.0, 0.75),  # distractors as junk
        (Protocol(ranks=(1, 3), rule="query_gallery"), VECTOR_B["gallery_ids"], 1.0, 1.0, 0.872222),
    ],
)
def test_vector_b_each_rule_moves_the_number(
    protocol: Protocol, gallery_ids: list[int], rank_1: float, rank_3: float, mean_ap: float
) -> None:
    result = score_matrix(DISTANCES_B, protocol, VECTOR_B | {"gallery_ids": gallery_ids})
    assert (result.cmc[0], result.cmc[2]) == (rank_1, rank_3)
    assert result.mean_ap == pytest.approx(mean_ap, abs=1e-6)


def vector_c(nudge: float, *, backwards: bool) -> list[RetrievalResult]:
    """The 18 draws of one gallery image for each identity; `nudge` orders equal distances by gallery index."""
    positions = {1: [0, 4, 11], 2: [10, 13], 3: [20, 22, 16]}  # tenths
    results = []
    for drawn in itertools.product(*positions.values()):
        rest = [(identity, x) for identity, xs in positions.items() for x in xs if x not in drawn]
        query, gallery = rest, list(zip(positions, drawn, strict=True))
        if backwards:
            query, gallery = gallery, query
        matrix = np.abs([[x - y for _, y in gallery] for _, x in query]) + nudge * np.arange(len(gallery))
        labels = {"ids": [identity for identity, _ in query], "cameras": [0] * len(query)}
        labels |= {"gallery_ids": [identity for identity, _ in gallery], "gallery_cameras": [0] * len(gallery)}
        results.append(score_matrix(matrix, ANY_CAMERA, labels))
    return results


# Some distances of vector C tie: its printed scores order them by index, as a nudge above 0 does.
@pytest.mark.parametrize(("nudge", "mean_ap"), [(0.01, 0.801852), (0.0, 0.8), (-0.01, 0.798148)])
def test_vector_c_every_draw_of_a_one_image_gallery(nudge: float, mean_ap: float) -> None:
    results = vector_c(nudge, backwards=False)
    rank_1 = [result.cmc[0] for result in results]
    assert (len(results), min(rank_1), max(rank_1)) == (18, 0.2, 0.8)
    assert np.mean(rank_1) == pytest.approx(0.633333, abs=1e-6)
    assert np.mean([result.mean_ap for result in results]) == pytest.approx(mean_ap, abs=1e-6)
    assert (results[0].cmc[0], results[0].mean_ap) == pytest.approx((0.8, 0.866667), abs=1e-6)


@pytest.mark.parametrize(
    ("nudge", "rank_1", "mean_ap"), [(0.01, 0.611111, 0.768210), (0.0, 0.592593, 0.754012), (-0.01, 0.574074, 0.739815)]
)
def test_vector_c_with_query_and_gallery_swapped(nudge: float, rank_1: float, mean_ap: float) -> None:
    results = vector_c(nudge, backwards=True)
    assert np.mean([result.cmc[0] for result in results]) == pytest.approx(rank_1, abs=1e-6)
    assert np.mean([result.mean_ap for result in results]) == pytest.approx(mean_ap, abs=1e-6)


def test_vector_d_one_match_among_four_equal_distances() -> None:
    labels = {"ids": [1], "cameras": [0], "gallery_ids": [2, 1, 3, 4], "gallery_cameras": [1, 1, 1, 1]}
    fair = score_matrix([[7, 7, 7, 7]], Protocol(ranks=(1, 4)), labels)
    assert fair.mean_ap == pytest.approx(0.520833, abs=1e-6)
    assert list(fair.cmc) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert fair.first_match_rank[0] == 2.5
    harsh = score_matrix([[7, 7, 7, 7]], Protocol(ranks=(1, 4), ties="pessimistic"), labels)
    assert (harsh.mean_ap, list(harsh.cmc), harsh.first_match_rank[0]) == (0.25, [0, 0, 0, 1], 4)


def test_both_zeros_are_one_distance() -> None:
    labels = {"ids": [1], "cameras": [0], "gallery_ids": [1, 2], "gallery_cameras": [1, 1]}
    assert score_matrix([[-0.0, 0.0]], Protocol(), labels).cmc[0] == 0.5
    assert score_matrix([[0.0, -0.0]], Protocol(), labels).cmc[0] == 0.5


def test_vector_e_a_gallery_shorter_than_the_ranks() -> None:
    labels = {"ids": [1, 2], "cameras": [0, 5], "gallery_ids": [1, 1, 2, 2], "gallery_cameras": [0, 1, 0, 1]}
    result = score_matrix([[0.4, 0.3, 0.1, 0.2], [0.3, 0.4, 0.2, 0.1]], Protocol(ranks=(1, 4, 7)), labels)
    assert list(result.cmc) == [0.5, 0.5, 1, 1, 1, 1, 1]
    assert result.mean_ap == pytest.approx(2 / 3)


# Against the definitions on many cases.

small = st.integers(0, 2)


@st.composite
def retrieval(draw: st.DrawFn) -> tuple[Array, Array, dict[str, Array]]:
    """Whole-number features, so that ties abound and float32 is exact; junk, distractors, one to three cameras."""
    num_queries, num_gallery = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    cameras = st.integers(0, draw(small))

    def column(values: st.SearchStrategy[int], size: int) -> Array:
        return np.array(draw(st.lists(values, min_size=size, max_size=size)))

    query, gallery = (column(small, 2 * size).reshape(-1, 2) for size in (num_queries, num_gallery))
    labels = {
        "ids": column(st.integers(1, 3), num_queries),
        "cameras": column(cameras, num_queries),
        "gallery_ids": column(st.integers(-1, 3), num_gallery),
        "gallery_cameras": column(cameras, num_gallery),
    }
    return query, gallery, labels


protocols = st.builds(
    Protocol,
    ap=st.sampled_from(AP_KINDS),
    ties=st.sampled_from(("expected", "pessimistic")),
    rule=st.sampled_from((None, "cross_camera", "query_gallery")),
    ranks=st.sampled_from([(1,), (1, 5, 10), (2, 3)]),
)


@settings(max_examples=300, deadline=None)
@given(retrieval(), protocols)
def test_scores_are_the_mean_over_all_tied_orders(
    case: tuple[Array, Array, dict[str, Array]], protocol: Protocol
) -> None:
    query, gallery, labels = case
    matrix = np.square(query[:, None] - gallery[None]).sum(axis=2)
    sides = (
        Embeddings(query, labels["ids"], labels["cameras"]),
        Embeddings(gallery, labels["gallery_ids"], labels["gallery_cameras"]),
    )
    if not any(match for q in range(len(query)) for _, match in cleaned(q, matrix[q], labels, protocol)):
        with pytest.raises(ValueError, match=f"none of the {len(query)} queries has a match"):
            evaluate(*sides, protocol)
        return
    check_against_definitions(evaluate(*sides, protocol), matrix, labels, protocol)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(small, st.booleans()), min_size=1, max_size=10), st.integers(1, 10))
def test_the_cut_falls_inside_a_tie(ranked: list[tuple[int, bool]], cut: int) -> None:
    ranked.append((2, True))
    protocol = Protocol(ap="cut50", rule="query_gallery")
    labels = {
        "ids": [1],
        "cameras": [0],
        "gallery_ids": [int(m) for _, m in ranked],
        "gallery_cameras": [0] * len(ranked),
    }
    result = score_matrix([[d for d, _ in ranked]], protocol, labels, cut=cut)
    assert result.mean_ap == pytest.approx(scores_of(ranked, protocol, cut).ap, rel=1e-9)


def clusters() -> tuple[Embeddings, Embeddings]:
    """Noisy images of 12 identities by 4 cameras, with distractors and junk, and one query that finds nothing."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(15, 24))
    ids, gallery_ids = rng.integers(1, 13, 60), rng.integers(-1, 13, 300)
    ids[3] = 14
    sides = []
    for own in (ids, gallery_ids):
        features = centres[own] + 2 * rng.normal(size=(len(own), 24))
        sides.append(Embeddings(features.astype(np.float32), own, rng.integers(0, 4, len(own))))
    return sides[0], sides[1]


def labels_of(query: Embeddings, gallery: Embeddings) -> dict[str, Any]:
    return {"ids": query.ids, "cameras": query.cameras, "gallery_ids": gallery.ids, "gallery_cameras": gallery.cameras}


@pytest.mark.parametrize("kind", AP_KINDS)
@pytest.mark.parametrize("distance", ["euclidean", "cosine", "normalised"])
def test_scores_equal_a_full_sort_across_blocks(monkeypatch: pytest.MonkeyPatch, kind: Any, distance: Any) -> None:
    monkeypatch.setattr(distances_module, "BLOCK_VALUES", 7 * 300)
    monkeypatch.setattr(distances_module, "PART_VALUES", 2 * 300)
    query, gallery = clusters()
    a, b = np.asarray(query.features, np.float64), np.asarray(gallery.features, np.float64)
    if distance != "euclidean":
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    matrix = 1 - a @ b.T if distance == "cosine" else np.square(a[:, None] - b).sum(axis=2)
    protocol = Protocol(ap=kind) if distance == "normalised" else Protocol(ap=kind, distance=distance)
    protocol = replace(protocol, normalise=distance == "normalised")
    result = evaluate(query, gallery, protocol)
    check_against_definitions(result, matrix, labels_of(query, gallery), protocol)
    assert 0.1 < result.mean_ap < 0.9
    assert result.num_skipped == 1


def test_metrics_carry_the_names_of_the_tables() -> None:
    metrics = score_matrix(DISTANCES_B, Protocol(ranks=(1, 3)), VECTOR_B).metrics()
    expected = {"mAP": 13 / 24, "mINP": 5 / 12, "Rank-1": 0.5, "Rank-3": 1.0, "num_valid": 2.0, "num_skipped": 1.0}
    assert metrics == pytest.approx(expected)
    assert all(type(value) is float for value in metrics.values())
