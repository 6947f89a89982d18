"""The worked vectors of the protocols, to the digits that are printed, and the numbers that other readings give."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from reid.config import Protocol
from reid.evaluation import Embeddings, RetrievalResult, measures
from reid.evaluation.embeddings import Matches
from reid.evaluation.retrieval import score

AP_KINDS = ("hits", "trapezoid", "cut50")
ANY_CAMERA = Protocol(rule="query_gallery")


def score_matrix(matrix: Any, protocol: Protocol, labels: dict[str, Any]) -> RetrievalResult:
    """Score a given matrix of distances, one row at a time."""
    blank = [np.zeros((len(labels[name]), 1), np.float32) for name in ("ids", "gallery_ids")]
    query = Embeddings(blank[0], np.asarray(labels["ids"]), np.asarray(labels["cameras"]))
    gallery = Embeddings(blank[1], np.asarray(labels["gallery_ids"]), np.asarray(labels["gallery_cameras"]))
    matches = Matches.find(query, gallery, camera_rule=protocol.rule != "query_gallery")
    values = torch.tensor(matrix, dtype=torch.float32)
    return score(((matches.valid[i : i + 1], values[[q]]) for i, q in enumerate(matches.valid)), matches, protocol)


def score_ranking(relevant: Sequence[int], protocol: Protocol) -> RetrievalResult:
    blank = [0] * len(relevant)
    matrix = [list(range(len(relevant)))]
    labels = {"ids": [1], "cameras": [9], "gallery_ids": relevant, "gallery_cameras": blank}
    return score_matrix(matrix, protocol, labels)


@pytest.mark.parametrize(
    ("kind", "cut", "expected"),
    [("hits", 50, 0.555556), ("trapezoid", 50, 0.427778), ("cut50", 5, 0.388889), ("cut50", 2, 0.166667)],
)
def test_vector_a_the_definitions_of_ap(kind: Any, cut: int, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "CUT", cut)
    result = score_ranking([0, 1, 1, 0, 0, 1, 0, 0], Protocol(ap=kind))
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
def test_vector_b_the_full_rule(kind: Any, each: list[float], mean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "CUT", 3)
    result = score_matrix(DISTANCES_B, Protocol(ap=kind, ranks=(1, 3)), VECTOR_B)
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


@pytest.mark.parametrize(("kind", "mean_ap"), [("hits", 0.361111), ("trapezoid", 0.291667)])
def test_vector_b_means_are_not_over_all_queries(kind: Any, mean_ap: float) -> None:
    """Over all three, the skipped one included, Rank-1 would be 0.333333."""
    result = score_matrix(DISTANCES_B, Protocol(ap=kind, ranks=(1, 3)), VECTOR_B)
    assert np.nansum(result.average_precision) / 3 == pytest.approx(mean_ap, abs=1e-6)
    assert result.mean_ap == pytest.approx(1.5 * mean_ap, abs=1e-6)
    assert result.cmc[0] == 0.5


def test_vector_b_other_people_under_the_camera_of_the_query_stay() -> None:
    """Without any image of the query's camera, another protocol, Rank-1 is 0.5 and mAP 0.625."""
    cameras, precisions = np.array(VECTOR_B["gallery_cameras"]), []
    for query in range(2):
        labels: dict[str, Any] = {name: VECTOR_B[name][query : query + 1] for name in ("ids", "cameras")}
        dropped = cameras == VECTOR_B["cameras"][query]
        labels |= {"gallery_ids": np.where(dropped, -1, VECTOR_B["gallery_ids"]), "gallery_cameras": cameras}
        precisions.append(score_matrix(DISTANCES_B[query : query + 1], Protocol(), labels).mean_ap)
    assert np.mean(precisions) == pytest.approx(0.625, abs=1e-6)
    assert score_matrix(DISTANCES_B, Protocol(), VECTOR_B).mean_ap == pytest.approx(0.541667, abs=1e-6)


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
@pytest.mark.parametrize(
    ("nudge", "spread", "mean_ap"), [(0.01, 0.167, 0.801852), (0.0, 0.160, 0.8), (-0.01, 0.167, 0.798148)]
)
def test_vector_c_every_draw_of_a_one_image_gallery(nudge: float, spread: float, mean_ap: float) -> None:
    results = vector_c(nudge, backwards=False)
    rank_1 = [result.cmc[0] for result in results]
    assert (len(results), min(rank_1), max(rank_1)) == (18, 0.2, 0.8)
    assert np.mean(rank_1) == pytest.approx(0.633333, abs=1e-6)
    assert np.std(rank_1) == pytest.approx(spread, abs=5e-4)
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


def test_metrics_carry_the_names_of_the_tables() -> None:
    metrics = score_matrix(DISTANCES_B, Protocol(ranks=(1, 3)), VECTOR_B).metrics()
    expected = {"mAP": 13 / 24, "mINP": 5 / 12, "Rank-1": 0.5, "Rank-3": 1.0, "num_valid": 2.0, "num_skipped": 1.0}
    assert metrics == pytest.approx(expected)
    assert all(type(value) is float for value in metrics.values())
