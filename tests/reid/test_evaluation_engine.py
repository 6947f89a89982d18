"""How retrieval is computed: invariances, equal features, precision, memory, what it accepts and what it refuses."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reid.config import Protocol
from reid.evaluation import Embeddings, RetrievalResult, evaluate
from reid.evaluation import distances as distances_module
from reid.evaluation.distances import distances

ANY_CAMERA = Protocol(rule="query_gallery")
Array = NDArray[Any]


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


def assert_same(left: RetrievalResult, right: RetrievalResult) -> None:
    np.testing.assert_allclose(left.average_precision, right.average_precision, rtol=1e-12)
    np.testing.assert_array_equal(left.first_match_rank, right.first_match_rank)
    np.testing.assert_allclose(left.inverse_negative_penalty, right.inverse_negative_penalty, rtol=1e-12)
    np.testing.assert_allclose(left.cmc, right.cmc, rtol=1e-12)
    assert (left.mean_ap, left.mean_inp) == pytest.approx((right.mean_ap, right.mean_inp), rel=1e-12)


# Invariances.


def take(images: Embeddings, rows: Array) -> Embeddings:
    assert images.cameras is not None
    return Embeddings(images.features[rows], images.ids[rows], images.cameras[rows])


@pytest.mark.parametrize("ties", ["expected", "pessimistic"])
def test_the_order_of_the_gallery_means_nothing(ties: Any) -> None:
    query, gallery = clusters()
    coarse = Embeddings(np.round(np.asarray(gallery.features)[:, :2]), gallery.ids, gallery.cameras)
    query = Embeddings(np.round(np.asarray(query.features)[:, :2]), query.ids, query.cameras)
    shuffled = take(coarse, np.random.default_rng(1).permutation(300))
    assert_same(evaluate(query, coarse, Protocol(ties=ties)), evaluate(query, shuffled, Protocol(ties=ties)))


def test_the_order_of_the_queries_means_nothing() -> None:
    query, gallery = clusters()
    rows = np.random.default_rng(1).permutation(60)
    straight, shuffled = evaluate(query, gallery), evaluate(take(query, rows), gallery)
    np.testing.assert_array_equal(straight.average_precision[rows], shuffled.average_precision)
    assert (straight.mean_ap, straight.mean_inp) == pytest.approx((shuffled.mean_ap, shuffled.mean_inp))


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_the_scale_of_the_features_means_nothing(factor: float) -> None:
    query, gallery = clusters()
    scaled = [Embeddings(np.asarray(s.features) * np.float32(factor), s.ids, s.cameras) for s in (query, gallery)]
    assert_same(evaluate(query, gallery), evaluate(scaled[0], scaled[1]))


def test_cosine_forgets_each_length() -> None:
    query, gallery = clusters()
    lengths = 2.0 ** np.random.default_rng(2).integers(-4, 5, (300, 1)).astype(np.float32)
    scaled = Embeddings(np.asarray(gallery.features) * lengths, gallery.ids, gallery.cameras)
    assert_same(
        evaluate(query, gallery, Protocol(distance="cosine")), evaluate(query, scaled, Protocol(distance="cosine"))
    )
    assert evaluate(query, scaled).mean_ap != evaluate(query, gallery).mean_ap


# Ties of float features, precision, memory.


@pytest.mark.parametrize("num_gallery", [5, 33, 100])
@pytest.mark.parametrize("num_queries", [1, 2, 7])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_a_collapsed_network_ranks_at_chance(num_gallery: int, num_queries: int, distance: Any) -> None:
    same = torch.randn(512, generator=torch.Generator().manual_seed(0))
    ids = np.arange(1, num_gallery + 1)
    query = Embeddings(same.expand(num_queries, 512), np.full(num_queries, num_gallery))
    gallery = Embeddings(same.expand(num_gallery, 512), ids)
    result = evaluate(query, gallery, replace(ANY_CAMERA, distance=distance))
    assert result.cmc[0] == pytest.approx(1 / num_gallery)
    assert result.mean_ap == pytest.approx(np.mean(1 / ids))


def test_repeated_rows_are_found_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    rows[:, 0] = 0.0  # sharing some values is not enough
    features = rows[[0, 1, 2, 1, 3, 0, 1, *range(4, 40)]]
    copies, originals = distances_module._duplicates(features)
    assert (copies.tolist(), originals.tolist()) == ([3, 5, 6], [1, 0, 1])
    monkeypatch.setattr(distances_module, "hashes", lambda rows: torch.zeros(len(rows), dtype=torch.int32))
    copies, originals = distances_module._duplicates(features)
    assert (copies.tolist(), originals.tolist()) == ([5], [0])


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_hashes_of_coarse_features_differ(kind: Any) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(8)] * 4), axis=-1).reshape(-1, 4).astype(kind)
    assert len(set(distances_module.hashes(torch.from_numpy(grid).float()).tolist())) > 0.99 * len(grid)


def test_autocast_and_reduced_precision_outside_change_nothing() -> None:
    query, gallery = clusters()
    backend: Any = torch.backends.mkldnn
    plain, before = evaluate(query, gallery), backend.matmul.fp32_precision
    backend.matmul.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = evaluate(query, gallery)
        assert backend.matmul.fp32_precision == "bf16"
    finally:
        backend.matmul.fp32_precision = before
    assert_same(plain, reduced)


def test_only_a_part_of_the_distances_exists_at_a_time() -> None:
    query, gallery = torch.rand(3000, 2), torch.rand(1000, 2)
    parts = [(rows, values.shape) for rows, values in distances(query, gallery, np.arange(3000), cosine=False)]
    assert max(math.prod(shape) for _, shape in parts) <= distances_module.PART_VALUES < 3000 * 1000
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in parts]), np.arange(3000))


@pytest.mark.parametrize(
    "convert",
    [
        torch.from_numpy,
        lambda array: torch.from_numpy(array).requires_grad_(),
        lambda array: array.astype(np.float64),
        np.asfortranarray,
        lambda array: np.frombuffer(array.tobytes(), np.float32).reshape(array.shape),  # read-only
    ],
)
def test_features_come_as_any_array_and_are_left_alone(convert: Any) -> None:
    query, gallery = clusters()
    given = [Embeddings(convert(side.features), torch.tensor(side.ids), side.cameras) for side in (query, gallery)]
    assert_same(evaluate(query, gallery), evaluate(given[0], given[1]))
    np.testing.assert_array_equal(np.asarray(query.features), np.asarray(clusters()[0].features))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("ties", ["expected", "pessimistic"])
def test_a_gpu_scores_alike(ties: Any) -> None:
    query, gallery = clusters()
    there = [Embeddings(torch.tensor(side.features).cuda(), side.ids, side.cameras) for side in (query, gallery)]
    assert_same(evaluate(query, gallery, Protocol(ties=ties)), evaluate(there[0], there[1], Protocol(ties=ties)))


# Errors.


def embeddings(ids: list[int], cameras: list[int] | None = None, value: float = 1.0, width: int = 2) -> Embeddings:
    features = np.full((len(ids), width), value, np.float32)
    return Embeddings(features, np.array(ids), None if cameras is None else np.array(cameras))


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        (([1, 2, 3, 3], [0, 0, 0, 0]), ([1, 0, 9, -1], [0, 0, 1, 1]), r"of the 4 queries .* 1 lost .* 3 show one of 2"),
        (([1], None), ([1], [0]), r"the query has no cameras.*rule='query_gallery'"),
        (([1], [0]), ([1], None), r"the gallery has no cameras.*rule='query_gallery'"),
        (([1, 0], [0, 0]), ([1, 0], [1, 1]), r"1 queries have no identity \(the first is query 1 with 0\).*add 1"),
        (([1], [0], 1.0, 3), ([1], [1]), r"query features have 3 dimensions and gallery features 2"),
        (([1], [0], math.nan), ([1], [1]), r"1 query features hold NaN.*image 0"),
        (([1], [0]), ([1, 1], [1, 1], 1e30), r"2 gallery features hold NaN"),
        (([], []), ([1], [1]), r"none of the 0 queries"),
        (([1], [0]), ([], []), r"none of the 1 queries"),
    ],
)
def test_bad_requests_say_what_is_wrong(query: Any, gallery: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(embeddings(*query), embeddings(*gallery))


@pytest.mark.parametrize(
    ("features", "ids", "cameras", "message"),
    [
        ((4,), [1, 1, 1, 1], None, r"features has shape \(4,\)"),
        ((2, 3), [1], None, r"ids has shape \(1,\), expected \(2,\)"),
        ((2, 3), [1, 1], [0, 0, 0], r"cameras has shape \(3,\)"),
        ((2, 3), [1.0, 2.0], None, r"ids has type float64"),
        ((2, 3), [1, -2], None, r"ids holds -2"),
    ],
)
def test_embeddings_check_themselves(features: Any, ids: Any, cameras: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embeddings(np.zeros(features, np.float32), np.array(ids), None if cameras is None else np.array(cameras))
