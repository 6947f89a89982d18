"""The rules under which every test image is query and gallery: leave-one-out, and one drawn image of each identity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.config import Protocol
from reid.evaluation import Embeddings, evaluate
from reid.evaluation.rules import one_shot_draws

# Vector C of the VehicleID protocol: features on a line, in tenths, so that equal distances are equal.
FEATURES = np.array([[0], [4], [11], [10], [13], [20], [22], [16]], np.float32)
IDS = np.array([1, 1, 1, 2, 2, 3, 3, 3])
IMAGES = Embeddings(FEATURES, IDS)


def test_vector_c_leave_one_out() -> None:
    images = Embeddings(FEATURES / 10, IDS)  # rounded to float32, no two distances are equal
    result = evaluate(images, images, Protocol(rule="leave_one_out", ranks=(1, 2, 4)))
    metrics = result.metrics()
    assert [metrics[f"Recall@{k}"] for k in (1, 2, 4)] == pytest.approx([0.5, 0.875, 1.0], abs=1e-6)
    assert result.num_valid == 8


def recall_by_hand(features: np.ndarray, ids: np.ndarray, k: int) -> float:
    hits, asked = 0, 0
    for query in range(len(ids)):
        others = [row for row in range(len(ids)) if row != query]
        if not any(ids[row] == ids[query] for row in others):
            continue
        others.sort(key=lambda row: float(np.square(features[row] - features[query]).sum()))
        asked += 1
        hits += any(ids[row] == ids[query] for row in others[:k])
    return hits / asked


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(4, 30), st.integers(1, 5))
def test_leave_one_out_is_recall_by_hand(seed: int, count: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    features, ids = rng.normal(size=(count, 3)).astype(np.float32), rng.integers(1, 5, count)
    ids[1] = ids[0]  # at least one match
    images = Embeddings(features, ids)
    result = evaluate(images, images, Protocol(rule="leave_one_out", ranks=(k,)))
    assert result.metrics()[f"Recall@{k}"] == pytest.approx(recall_by_hand(features, ids, k))


def test_a_copy_of_the_query_is_a_match_and_only_the_query_itself_is_left_out() -> None:
    """Dropping the nearest neighbour instead of the query would drop the copy, or keep the query."""
    images = Embeddings(np.array([[0.0], [0.0], [5.0]], np.float32), np.array([1, 1, 2]))
    result = evaluate(images, images, Protocol(rule="leave_one_out", ranks=(1,)))
    assert (result.metrics()["Recall@1"], result.num_valid, result.num_skipped) == (1.0, 2, 1)


def test_one_shot_draws_hold_one_image_of_every_identity() -> None:
    seen = set()
    for queries, gallery in one_shot_draws(IDS, draws=300, seed=0):
        assert sorted(IDS[gallery]) == [1, 2, 3]
        assert sorted([*queries, *gallery]) == list(range(8))
        seen.add(tuple(gallery))
    assert len(seen) == 3 * 2 * 3  # every gallery there is


def test_vector_c_over_draws_comes_to_its_expectation() -> None:
    """R1 is 0.633333 over all 18 galleries, mAP 0.8: equal distances count as the expectation over their orders."""
    result = evaluate(IMAGES, IMAGES, Protocol(rule="one_shot", ranks=(1, 5), draws=1500))
    assert result.metrics()["Rank-1"] == pytest.approx(0.633333, abs=0.015)
    assert result.mean_ap == pytest.approx(0.8, abs=0.015)
    assert result.num_valid == 5
    assert result.mean_ap == pytest.approx(result.mean_inp)  # one match each
    assert not np.isnan(result.average_precision).any()


def test_draws_are_averaged_and_follow_their_seed() -> None:
    def score(**settings: int) -> float:
        return evaluate(IMAGES, IMAGES, Protocol(rule="one_shot", **settings)).mean_ap  # type: ignore[arg-type]

    singles = []
    for queries, gallery in one_shot_draws(IDS, draws=3, seed=7):
        query, rest = (Embeddings(FEATURES[rows], IDS[rows]) for rows in (queries, gallery))
        singles.append(evaluate(query, rest, Protocol(rule="query_gallery")).mean_ap)
    assert score(draws=3, draw_seed=7) == pytest.approx(np.mean(singles))
    assert len(set(singles)) > 1
    assert score(draws=2) == score(draws=2) != score(draws=2, draw_seed=1)


def test_an_image_that_is_never_a_query_has_no_score() -> None:
    images = Embeddings(np.arange(5, dtype=np.float32)[:, None], np.array([1, 1, 2, 2, 3]))
    result = evaluate(images, images, Protocol(rule="one_shot", draws=20))
    assert np.isnan(result.average_precision).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("rule", ["leave_one_out", "one_shot"])
def test_other_images_in_the_gallery_are_refused(rule: str) -> None:
    other = Embeddings(FEATURES[:5], IDS[:5])
    with pytest.raises(ValueError, match=rf"rule {rule} ranks images among themselves.*\(there are 8 and 5"):
        evaluate(IMAGES, other, Protocol(rule=rule))  # type: ignore[arg-type]


def test_what_a_protocol_leaves_open_is_filled_in_and_what_it_says_stays() -> None:
    assert Protocol().resolved() == Protocol(rule="cross_camera", ranks=(1, 5, 10))
    own = Protocol(rule="query_gallery", ranks=(1, 20))
    assert own.resolved("leave_one_out", (1, 2)) == own
    assert Protocol(flip=True).resolved("one_shot", (1, 5)) == Protocol(rule="one_shot", ranks=(1, 5), flip=True)


def test_re_ranking_is_one_field_of_the_protocol_and_leaves_junk_out() -> None:
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(1, 9), 5)
    features = (rng.normal(size=(9, 16))[ids] + 0.9 * rng.normal(size=(40, 16))).astype(np.float32)
    cameras = np.tile(np.arange(5), 8)
    query = Embeddings(features[::5], ids[::5], cameras[::5])
    kept = np.flatnonzero(cameras > 0)
    gallery = Embeddings(features[kept], ids[kept], cameras[kept])
    plain, again = evaluate(query, gallery), evaluate(query, gallery, Protocol(rerank=True))
    assert again.mean_ap > plain.mean_ap
    assert evaluate(query, gallery, Protocol(rerank=True, rerank_weight=1.0)).mean_ap == pytest.approx(plain.mean_ap)
    junk = np.concatenate([features[kept], features[::5]])
    with_junk = Embeddings(
        junk, np.concatenate([ids[kept], np.full(8, -1)]), np.concatenate([cameras[kept], np.ones(8, int)])
    )
    assert evaluate(query, with_junk, Protocol(rerank=True)).mean_ap == again.mean_ap


def test_re_ranking_needs_a_gallery_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"rerank is for queries beside a gallery.*turn it off"):
        Protocol(rerank=True).resolved("leave_one_out")
