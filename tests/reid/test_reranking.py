"""k-reciprocal re-ranking against its seven steps, written out on whole matrices; what may not change it; memory."""

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from reid.evaluation import Embeddings
from reid.evaluation import distances as distances_module
from reid.evaluation import neighbours as neighbours_module
from reid.evaluation import reranking as reranking_module
from reid.evaluation.embeddings import Matches
from reid.evaluation.reranking import reranked
from reid.evaluation.retrieval import DEFAULT, score

Array = NDArray[Any]
PAPER: dict[str, Any] = {"k1": 20, "k2": 6, "weight": 0.3}


# The seven steps, written down as slowly as they read.


def scaled_distances(query: Array, gallery: Array, *, cosine: bool) -> Array:
    """Step 1: [N, N], each row divided by its largest."""
    images = np.concatenate([query, gallery])
    matrix = np.empty((len(images), len(images)), images.dtype)
    for row, image in enumerate(images):
        if cosine:
            lengths = np.sqrt((images**2).sum(axis=1) * (image**2).sum())
            matrix[row] = 2 - 2 * (images * image).sum(axis=1) / np.where(lengths > 0, lengths, 1)
            matrix[row, row] = 0
        else:
            matrix[row] = ((images - image) ** 2).sum(axis=1)
    largest = matrix.max(axis=1, keepdims=True)
    return matrix / np.where(largest > 0, largest, 1)


def reciprocal(order: Array, k: int) -> list[set[int]]:
    """Step 2, for every image."""
    nearest = [set(row[: k + 1].tolist()) for row in order]
    return [{other for other in near if image in nearest[other]} for image, near in enumerate(nearest)]


def neighbourhoods(order: Array, k1: int) -> list[list[int]]:
    """Step 3, for every image."""
    offers, larger = reciprocal(order, round(k1 / 2)), []
    for own in reciprocal(order, k1):
        taken = [offers[other] for other in own if 3 * len(offers[other] & own) > 2 * len(offers[other])]
        larger.append(sorted(own.union(*taken)))
    return larger


def by_the_steps(
    query: Array, gallery: Array, *, k1: int, k2: int, weight: float, cosine: bool = False, dtype: Any = np.float64
) -> Array:
    matrix = scaled_distances(query.astype(dtype), gallery.astype(dtype), cosine=cosine)
    places = matrix.copy()
    np.fill_diagonal(places, -1)  # an image is its own nearest
    order = np.argsort(places, axis=1, kind="stable")
    vectors = np.zeros_like(matrix)
    for vector, row, members in zip(vectors, matrix, neighbourhoods(order, k1), strict=True):
        vector[members] = np.exp(-row[members])
        vector /= vector.sum()
    vectors = np.stack([vectors[nearest].mean(axis=0) for nearest in order[:, :k2]])
    overlap = np.stack([np.minimum(vectors[i], vectors[len(query) :]).sum(axis=1) for i in range(len(query))])
    final: Array = (1 - weight) * (1 - overlap / (2 - overlap)) + weight * matrix[: len(query), len(query) :]
    return final


def ours(query: Any, gallery: Any, *, queries: Array | None = None, cosine: bool = False, **settings: Any) -> Array:
    """All the parts below each other."""
    query, gallery = (torch.as_tensor(side, dtype=torch.float32) for side in (query, gallery))
    wanted = np.arange(len(query)) if queries is None else queries
    found = reranked(query, gallery, wanted, cosine=cosine, **settings)
    parts = [(rows, values.cpu().numpy().copy()) for rows, values in found]
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in parts]), wanted)
    return np.concatenate([values for _, values in parts])


def people(num_query: int, num_gallery: int, dimensions: int = 16, seed: int = 0) -> tuple[Array, Array]:
    """Noisy images of one identity for about every eight."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 1 + (num_query + num_gallery) // 8, num_query + num_gallery)
    features = rng.normal(size=(ids.max() + 1, dimensions))[ids] + 0.7 * rng.normal(size=(len(ids), dimensions))
    return features[:num_query].astype(np.float32), features[num_query:].astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        ((60, 240), PAPER),
        ((100, 300), {"k1": 50, "k2": 15, "weight": 0.3}),
        ((30, 100), {"k1": 7, "k2": 3, "weight": 0.0}),  # 7 / 2 rounds to the even 4
        ((30, 100), {"k1": 5, "k2": 1, "weight": 1.0}),  # and 5 / 2 to 2
        ((10, 90), {"k1": 4, "k2": 12, "weight": 0.5}),  # more neighbours averaged than looked at
        ((1, 40), PAPER),
        ((9, 3), PAPER),
        ((1, 1), PAPER),
    ],
)
def test_it_is_the_seven_steps(sizes: tuple[int, int], settings: Any, cosine: bool, dtype: Any) -> None:
    query, gallery = people(*sizes)
    expected = by_the_steps(query, gallery, cosine=cosine, dtype=dtype, **settings)
    np.testing.assert_allclose(ours(query, gallery, cosine=cosine, **settings), expected, atol=1e-5)


@st.composite
def coarse(draw: st.DrawFn) -> tuple[Array, Array]:
    """Features of few whole numbers: exact in float32, with many that are equal and many at one distance."""
    seed, dimensions = draw(st.integers(0, 2**16)), draw(st.integers(1, 4))
    num_query, num_gallery = draw(st.integers(1, 20)), draw(st.integers(1, 60))
    values = np.random.default_rng(seed).integers(-draw(st.integers(0, 3)), 3, (num_query + num_gallery, dimensions))
    return values[:num_query], values[num_query:]


@given(
    sides=coarse(),
    k1=st.integers(1, 90),
    k2=st.integers(1, 90),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
    tile=st.sampled_from([1, 7, 1024]),
    kept=st.sampled_from([0, 2**27]),
)
@settings(max_examples=100, deadline=None)
def test_ties_are_placed_by_position(sides: Any, k1: int, k2: int, weight: float, tile: int, kept: int) -> None:
    expected = by_the_steps(*sides, k1=k1, k2=k2, weight=weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours_module, "TILE", tile)
        patch.setattr(neighbours_module, "KEPT_VALUES", kept)
        np.testing.assert_allclose(ours(*sides, k1=k1, k2=k2, weight=weight), expected, atol=1e-5)


@given(seed=st.integers(0, 2**16), k1=st.integers(1, 30), k2=st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_ties_of_cosine_distances_too(seed: int, k1: int, k2: int) -> None:
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (50, 4)) * (rng.random((50, 1)) < 0.9)  # of length 2, or 0
    features = signs * 2.0 ** rng.integers(-3, 4, (50, 1))
    expected = by_the_steps(features[:10], features[10:], k1=k1, k2=k2, weight=0.3, cosine=True)
    found = ours(features[:10], features[10:], k1=k1, k2=k2, weight=0.3, cosine=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_worked_by_hand() -> None:
    found = ours([[0.0]], [[1.0], [3.0], [10.0]], k1=1, k2=1, weight=0.3)
    # 0 and 1 are each other's nearest; 1 is the nearest of 3, and 3 of 10, but not the other way round.
    near, back = np.exp(-1 / 100), np.exp(-1 / 81)
    overlap = min(1 / (1 + near), back / (1 + back)) + min(near / (1 + near), 1 / (1 + back))
    jaccard = 1 - overlap / (2 - overlap)
    np.testing.assert_allclose(found, [[0.7 * jaccard + 0.003, 0.7 + 0.027, 0.7 + 0.3]], atol=1e-6)


# What may not change it.


def whole_numbers() -> tuple[Array, Array]:
    """Rounded so that distances are exact and tied, with repeated images within and between the sides."""
    query, gallery = (np.round(2 * side[:, :5]) for side in people(20, 100))
    gallery[-6:], query[-3:] = gallery[:6], gallery[:3]
    return query, gallery


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize(
    ("tile", "rows", "values", "kept"), [(5, 1, 1, 0), (5, 7, 1, 2**20), (32, 7, 900, 0), (500, 500, 2**20, 2**20)]
)
def test_the_sizes_of_blocks_mean_nothing(
    tile: int, rows: int, values: int, kept: int, cosine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = people(20, 100) if cosine else whole_numbers()
    before = ours(*sides, cosine=cosine, **PAPER)
    monkeypatch.setattr(neighbours_module, "TILE", tile)
    monkeypatch.setattr(neighbours_module, "KEPT_VALUES", kept)
    monkeypatch.setattr(neighbours_module, "ROWS", rows)
    monkeypatch.setattr(reranking_module, "ROWS", rows)
    monkeypatch.setattr(neighbours_module, "PART_VALUES", values)
    monkeypatch.setattr(distances_module, "PART_VALUES", values)
    monkeypatch.setattr(distances_module, "BLOCK_VALUES", 4 * values)
    after = ours(*sides, cosine=cosine, **PAPER)
    np.testing.assert_allclose(after, before, atol=1e-5 if cosine else 0, rtol=0)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("sides", [people(20, 100), whole_numbers()])
def test_distances_are_kept_or_made_again(sides: Any, cosine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ours(*sides, cosine=cosine, **PAPER)
    monkeypatch.setattr(neighbours_module, "KEPT_VALUES", 0)
    monkeypatch.delattr(neighbours_module.Kept, "to_gallery")
    np.testing.assert_allclose(ours(*sides, cosine=cosine, **PAPER), kept, atol=1e-5)


def test_the_number_of_threads_means_nothing() -> None:
    sides = whole_numbers()
    before = ours(*sides, **PAPER)
    torch.set_num_threads(2)
    np.testing.assert_array_equal(ours(*sides, **PAPER), before)


def test_some_queries_get_what_they_get_among_all() -> None:
    sides = people(40, 200)
    some = np.array([3, 17, 39])
    np.testing.assert_allclose(ours(*sides, queries=some, **PAPER), ours(*sides, **PAPER)[some], atol=1e-6)


@pytest.mark.parametrize("cosine", [False, True])
def test_scale_means_nothing(cosine: bool) -> None:
    query, gallery = people(20, 100)
    np.testing.assert_allclose(
        ours(1e3 * query, 1e3 * gallery, cosine=cosine, **PAPER),
        ours(query, gallery, cosine=cosine, **PAPER),
        atol=1e-5,
    )


@pytest.mark.parametrize("cosine", [False, True])
def test_equal_images_are_tied(cosine: bool) -> None:
    query, gallery = people(30, 1200, dimensions=128)
    gallery[700] = gallery[3]
    found = ours(query, gallery, cosine=cosine, **PAPER)
    np.testing.assert_array_equal(found[:, 700], found[:, 3])


@pytest.mark.parametrize("cosine", [False, True])
def test_a_collapsed_network_ties_everything(cosine: bool) -> None:
    same = torch.randn(512, generator=torch.Generator().manual_seed(0))
    found = ours(same.expand(30, 512), same.expand(70, 512), cosine=cosine, **PAPER)
    assert (found == found[:, :1]).all()


def near_duplicates() -> tuple[Tensor, Tensor]:
    """So close together, so far from the origin, that rounding makes up all of their distances."""
    features = 100 + 1e-4 * torch.randn(60, 64, generator=torch.Generator().manual_seed(0))
    return features[:10], features[10:]


@pytest.mark.parametrize("cosine", [False, True])
def test_rounding_never_makes_a_distance_negative(cosine: bool) -> None:
    found = ours(*near_duplicates(), k1=5, k2=3, weight=1.0, cosine=cosine)
    assert (found >= 0).all()


@pytest.mark.parametrize("cosine", [False, True])
def test_rounding_never_puts_another_image_before_the_image_itself(cosine: bool) -> None:
    images = neighbours_module.Images.of(*near_duplicates(), cosine=cosine)
    near, _ = neighbours_module.nearest(images, 4)
    np.testing.assert_array_equal(near.index[:, 0], np.arange(60))
    assert near.halves.min() == 0


def test_hashes_that_collide_make_nothing_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = whole_numbers()
    before = ours(*sides, **PAPER)
    monkeypatch.setattr(neighbours_module, "hashes", lambda rows: torch.zeros(len(rows), dtype=torch.int32))
    np.testing.assert_allclose(ours(*sides, **PAPER), before, atol=1e-6)


# Within an evaluation.


def test_the_engine_scores_it_and_it_helps() -> None:
    rng = np.random.default_rng(0)
    ids, gallery_ids = rng.integers(1, 30, 60), rng.integers(0, 30, 400)
    centres = rng.normal(size=(30, 32))
    sides = [
        Embeddings((centres[own] + 1.5 * rng.normal(size=(len(own), 32))).astype(np.float32), own)
        for own in (ids, gallery_ids)
    ]
    matches = Matches.find(sides[0], sides[1], camera_rule=False)
    query, gallery = (torch.from_numpy(np.asarray(side.features)) for side in sides)
    found = score(reranked(query, gallery, matches.valid, cosine=False, **PAPER), matches, DEFAULT)
    matrix = by_the_steps(query.numpy(), gallery.numpy(), **PAPER)
    precisions = [average_precision(row, gallery_ids == own) for row, own in zip(matrix, ids, strict=True)]
    assert found.mean_ap == pytest.approx(np.mean(precisions), abs=1e-6)
    plain = score(distances_module.distances(query, gallery, matches.valid, cosine=False), matches, DEFAULT)
    assert found.mean_ap > plain.mean_ap + 0.05


def average_precision(row: Array, same: Array) -> float:
    hits = np.flatnonzero(same[np.argsort(row)])
    return float(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))


@pytest.mark.parametrize(("side", "index"), [("query", 0), ("gallery", 1)])
def test_features_that_are_not_finite_are_refused(side: str, index: int) -> None:
    sides = [torch.zeros(2, 2), torch.zeros(3, 2)]
    sides[index][1, 0] = torch.nan
    with pytest.raises(ValueError, match=rf"1 {side} features hold NaN.*image 1"):
        next(reranked(sides[0], sides[1], np.arange(2), cosine=False, **PAPER))


MEASURE = """
    import resource, sys
    import numpy as np, torch
    from reid.evaluation.reranking import reranked
    torch.set_num_threads(1)

    def run(num_query, num_gallery):
        features = torch.randn(num_query + num_gallery, 64, generator=torch.Generator().manual_seed(0))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in reranked(features[:num_query], features[num_query:], np.arange(num_query),
                          k1=20, k2=6, weight=0.3, cosine=False):
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    run(10, 100)  # what the libraries load when they are first used
    print(run(800, 3200))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in KiB, as Linux does")
def test_no_matrix_of_all_by_all_exists() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(MEASURE)], capture_output=True, text=True, check=True)
    one_matrix = 4 * 4000**2
    assert 1024 * int(done.stdout) < 0.6 * one_matrix


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cosine", [False, True])
def test_a_gpu_finds_the_same(cosine: bool) -> None:
    sides = people(40, 2000)
    there = [torch.from_numpy(side).cuda() for side in sides]
    np.testing.assert_allclose(ours(*there, cosine=cosine, **PAPER), ours(*sides, cosine=cosine, **PAPER), atol=1e-5)
