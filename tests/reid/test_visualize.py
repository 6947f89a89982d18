"""Lists, erasers, and the images that are made of them, on networks that were trained for a moment."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from reid import methods
from reid.config import Augment, Protocol, Recipe, Sampler, Schedule, TrialConfig
from reid.data.augment import to_float
from reid.data.dataset import ReidData
from reid.evaluation import Embeddings, evaluate
from reid.parts.erasing import most_salient_pixels
from reid.parts.relevance import cg_ram, positive_pairs
from reid.train import build_method, train
from reid.visualize import erasers, images
from reid.visualize.drawing import Strip, at_equal_steps, draw, needs_network
from reid.visualize.lists import Parts, ranking_lists
from reid.visualize.picture import Picture, Shown, What

RECIPE = Recipe(
    backbone="resnet10_w16",
    weights=None,
    image_size=(64, 32),
    sampler=Sampler(identities=4, images=2),
    augment=Augment(cutout_size=8),
    schedule=Schedule(epochs=1, time_scale=0.02),
)


def config(method: str = "bdb", variant: str = "default", **recipe: Any) -> TrialConfig:
    model = methods.variants(method)[variant]
    if method == "han":
        model = replace(model, stripes=4)  # type: ignore[call-arg]
    return TrialConfig(method=method, model=model, recipe=replace(RECIPE, **recipe))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_data: ReidData) -> Path:
    """BDB's."""
    path = tmp_path_factory.mktemp("networks") / "weights.safetensors"
    train(config(), tiny_data, lambda _: None, weights=path)
    return path


def same(one: list[Strip], other: list[Strip]) -> bool:
    return [[tile.image.tolist() for tile in strip.tiles] for strip in one] == [
        [tile.image.tolist() for tile in strip.tiles] for strip in other
    ]


# --- lists ---


def embeddings(count: int, seed: int, *, junk: bool = False) -> Embeddings:
    """Few identities and cameras, so that every rule has something to leave out."""
    draws = np.random.default_rng(seed)
    ids = draws.integers(1, 6, count)
    if junk:
        ids[::7] = -1
        ids[::11] = 0
    return Embeddings(draws.normal(size=(count, 8)), ids, draws.integers(1, 4, count))


PROTOCOLS = [
    Protocol(rule="cross_camera"),
    Protocol(rule="cross_camera", distance="cosine"),
    Protocol(rule="query_gallery"),
    Protocol(rule="leave_one_out"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=str)
def test_lists_are_those_of_a_sort_by_hand(protocol: Protocol) -> None:
    both = protocol.rule == "leave_one_out"
    gallery = embeddings(60, 1, junk=not both)
    query = gallery if both else embeddings(20, 2)
    queries = Parts.of(query, gallery, protocol).matches.valid[::3]
    for number, found in zip(queries, ranking_lists(query, gallery, protocol, queries, count=10), strict=True):
        assert found.tolist() == _by_hand(query, gallery, protocol, int(number))[:10]


def _by_hand(query: Embeddings, gallery: Embeddings, protocol: Protocol, number: int) -> list[int]:
    one, who, camera = (np.asarray(values)[number] for values in (query.features, query.ids, query.cameras))
    ranked = []
    for row, (other, its, view) in enumerate(zip(gallery.features, gallery.ids, gallery.cameras, strict=True)):  # type: ignore[arg-type]
        apart = float(np.linalg.norm(one - other))
        if protocol.distance == "cosine":
            apart = 1 - float(one @ other) / float(np.linalg.norm(one) * np.linalg.norm(other))
        itself = protocol.rule == "leave_one_out" and row == number
        same_view = protocol.rule == "cross_camera" and (its, view) == (who, camera)
        if its != -1 and not itself and not same_view:
            ranked.append((apart, row))
    return [row for _, row in sorted(ranked)]


@pytest.mark.parametrize("rerank", [False, True])
def test_lists_agree_with_the_score(rerank: bool) -> None:
    """AP and the rank of the first match, computed from whole lists, are those of the evaluation."""
    protocol = Protocol(rerank=rerank)
    query, gallery = embeddings(20, 3), embeddings(60, 4, junk=True)
    result = evaluate(query, gallery, protocol)
    queries = Parts.of(query, gallery, protocol).matches.valid
    for number, found in zip(queries, ranking_lists(query, gallery, protocol, queries, count=60), strict=True):
        hits = np.flatnonzero(np.asarray(gallery.ids)[found] == np.asarray(query.ids)[number])
        assert result.first_match_rank[number] == hits[0] + 1
        assert result.average_precision[number] == pytest.approx(np.mean((np.arange(len(hits)) + 1) / (hits + 1)))


def test_a_list_of_one_shot_is_that_of_the_first_draw() -> None:
    images_ = embeddings(40, 5)
    protocol = Protocol(rule="one_shot")
    parts = Parts.of(images_, images_, protocol)
    (found,) = ranking_lists(images_, images_, protocol, parts.numbers[:1], count=10)
    assert sorted(np.asarray(images_.ids)[found]) == [1, 2, 3, 4, 5]
    assert parts.numbers[0] not in found


def test_equal_steps_have_both_ends() -> None:
    assert at_equal_steps(np.arange(10, 20), 4).tolist() == [10, 13, 16, 19]
    assert at_equal_steps(np.arange(3), 24).tolist() == [0, 1, 2]
    assert at_equal_steps(np.arange(3), 1).tolist() == [0]


# --- erasers ---


def batch(data: ReidData) -> tuple[torch.Tensor, torch.Tensor]:
    training = data.training("test")
    pixels = torch.from_numpy(data.images[training.rows[:24]])
    return to_float(pixels, (64, 32)), torch.from_numpy(training.labels[:24])


def masks(method: str, variant: str, data: ReidData) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return erasers.masks(build_method(config(method, variant), data.training("test").num_ids), *batch(data))


def test_the_batch_block_is_one_rectangle_for_all(tiny_data: ReidData) -> None:
    (mask,) = masks("bdb", "default", tiny_data).values()
    assert torch.equal(mask, mask[:1].expand_as(mask))
    assert mask[0].all(1).sum() == round(0.3 * 4)
    assert mask[0].any(1).sum() == round(0.3 * 4)


def test_one_block_an_image_differs_between_images(tiny_data: ReidData) -> None:
    (mask,) = masks("bdb", "dropblock_single", tiny_data).values()
    assert not torch.equal(mask, mask[:1].expand_as(mask))
    assert (mask.all(2).sum(1) == round(0.3 * 4)).all()


def test_dropblock_plus_erases_blocks_of_its_size(tiny_data: ReidData) -> None:
    ((name, mask),) = masks("sona", "bl_db_plus", tiny_data).items()
    assert name == "DropBlock 5 × 8"
    assert mask.shape == (24, 8, 4)
    assert (mask.all(2) == mask.any(2)).all()  # the map is narrower than the block


def test_adaptive_drop_is_the_threshold_on_the_mean_map(tiny_data: ReidData) -> None:
    """Brute force: the bottleneck's map in training mode, its mean over channels, from 0.8 of the maximum on."""
    (mask,) = masks("saadb", "default", tiny_data).values()
    torch.manual_seed(0)
    method: Any = build_method(config("saadb"), tiny_data.training("test").num_ids).train()
    with torch.no_grad():
        seen = method.heads["second"].body[0](method.trunk(batch(tiny_data)[0]))
    for image, erased in zip(seen, mask, strict=True):
        mean = image.numpy().mean(0)
        assert np.array_equal(erased.numpy(), mean >= 0.8 * mean.max())


def test_besm_is_the_most_salient_share_by_cg_ram(tiny_data: ReidData) -> None:
    """Algorithm 1 put together from its parts, in a network of the same weights."""
    (mask,) = masks("esnet", "default", tiny_data).values()
    torch.manual_seed(0)
    method: Any = build_method(config("esnet"), tiny_data.training("test").num_ids).train()
    inputs, labels = batch(tiny_data)
    with torch.no_grad():
        maps = cg_ram(method.own["erasing"], method.shared(inputs), positive_pairs(inputs, labels), layer="layer4")
    expected = most_salient_pixels(maps, (64, 32), ratio=0.2)
    assert expected.any()
    assert (mask == expected).float().mean() > 0.999  # a pixel that has the mean colour anyway


def test_augmentations_are_rectangles_of_the_sizes_asked_for(tiny_data: ReidData) -> None:
    pixels = torch.from_numpy(tiny_data.images[:8])
    recipe = replace(RECIPE, augment=Augment(cutout=0.5, cutout_size=8, random_erasing=0.5, flip=0.5))
    found = erasers.augmentations(pixels, recipe, torch.Generator().manual_seed(0))
    assert list(found) == ["Random Erasing", "Cutout"]
    for mask in found["Cutout"]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert (len(rows), len(columns), int(mask.sum())) == (8, 8, 64)
        assert (int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) == (7, 7)
    for mask in found["Random Erasing"]:
        assert 0.01 < float(mask.float().mean()) < 0.45


@pytest.mark.parametrize(
    ("method", "variant", "needed"),
    [("bdb", "default", False), ("saadb", "default", True), ("esnet", "default", True), ("esnet", "base", False),
     ("sona", "bl_db", False), ("saadb", "attention_only", False)],
)  # fmt: skip
def test_only_erasers_that_look_need_a_network(method: str, variant: str, needed: bool) -> None:
    assert needs_network(config(method, variant), "erasers") == needed
    assert needs_network(config(method, variant), "ranking")


# --- images ---


def noise(height: int = 96, width: int = 48) -> images.Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("shape", "size"), [((384, 128), (128, 43)), ((128, 64), (128, 64)), ((256, 256), (96, 96))])
def test_a_tile_keeps_the_shape_of_its_image(shape: tuple[int, int], size: tuple[int, int]) -> None:
    for shown in get_args(Shown):
        assert images.tile(noise(*shape), shown).shape[:2] == size


def test_a_blurred_image_has_nothing_but_eight_columns() -> None:
    """Whatever is inside a cell of the 8 columns can be shuffled without moving a pixel of what is shown."""
    image = noise()
    cells = image.reshape(16, 6, 8, 6, 3).transpose(0, 2, 1, 3, 4).reshape(16, 8, 36, 3)
    order = np.random.default_rng(1).permutation(36)
    shuffled = cells[:, :, order].reshape(16, 8, 6, 6, 3).transpose(0, 2, 1, 3, 4).reshape(96, 48, 3)
    assert not np.array_equal(image, shuffled)
    cases: tuple[tuple[Shown, bool], ...] = (("blur", True), ("show", False))
    for shown, alike in cases:
        one, other = (images.tile(pixels, shown).astype(int) for pixels in (image, shuffled))
        assert (np.abs(one - other).max() <= 2) == alike  # a mean of means is rounded twice


def test_blurring_takes_the_contrast_out() -> None:
    assert images.tile(noise(), "blur").std() < 0.3 * images.tile(noise(), "show").std()


def test_an_image_left_out_is_plain() -> None:
    assert len(np.unique(images.tile(noise(), "omit"))) == 1


def test_heat_is_blue_at_0_and_red_at_1() -> None:
    base = np.full((64, 32, 3), 128, np.uint8)
    heated = images.heated(base, np.array([[0.0, 0.0], [1.0, 1.0]]))
    assert heated[0, 0, 2] > heated[0, 0, 0]
    assert heated[-1, 0, 0] > heated[-1, 0, 2]


def test_hatching_covers_what_is_erased_and_nothing_else() -> None:
    base = np.full((64, 32, 3), 128, np.uint8)
    mask = np.zeros((4, 2), bool)
    mask[1, 0] = True
    changed = (images.erased(base, mask) != base).any(2)
    expected = np.zeros((64, 32), bool)
    expected[16:32, :16] = True
    assert np.array_equal(changed, expected)


def test_points_lie_in_the_middle_of_their_positions() -> None:
    base = np.full((64, 32, 3), 128, np.uint8)
    marked = images.marked(base, (0, 1), [(3, 0)], (4, 2))
    assert marked[8, 24].tolist() == [60, 220, 90]
    assert marked[56, 8].tolist() == [235, 40, 40]


def test_a_png_is_the_images_side_by_side() -> None:
    parts = [images.tile(noise(), "blur"), np.full((128, 64, 3), 7, np.uint8)]
    read = np.asarray(Image.open(io.BytesIO(images.png(parts))).convert("RGB")).astype(int)
    assert read.shape == (128, 128, 3)
    assert np.abs(read - np.concatenate(parts, 1)).mean() < 4


# --- all of it ---


def picture(what: What, **changes: Any) -> Picture:
    return Picture(**{"what": what, "shown": "show", "count": 3} | changes)


def test_a_ranking_says_who_is_right(weights: Path, tiny_data: ReidData) -> None:
    queries, _ = tiny_data.scored("test")
    for strip in draw(config(), tiny_data, picture("ranking"), weights=weights):
        assert [tile.caption for tile in strip.tiles] == ["image", *map(str, range(1, 11))]
        assert strip.tiles[0].right is None
        assert np.array_equal(strip.tiles[0].image, images.tile(tiny_data.images[queries[strip.number]], "show"))
        who = tiny_data.identities[queries[strip.number]]
        shown = {images.tile(tiny_data.images[row], "show").tobytes(): tiny_data.identities[row] for row in range(144)}
        assert all(tile.right == (shown[tile.image.tobytes()] == who) for tile in strip.tiles[1:])


@pytest.mark.parametrize("what", ["ranking", "activation", "cgram"])
def test_the_same_arguments_give_the_same_pixels(what: What, weights: Path, tiny_data: ReidData) -> None:
    one = draw(config(), tiny_data, picture(what), weights=weights)
    torch.rand(7)  # whoever draws numbers in between
    assert same(one, draw(config(), tiny_data, picture(what), weights=weights))
    assert [strip.number for strip in one] == [0, 12, 23]
    assert len({tile.image.shape for strip in one for tile in strip.tiles}) == 1


def test_erasers_without_a_network_are_the_same_each_time(tiny_data: ReidData) -> None:
    one = draw(config(), tiny_data, picture("erasers"), weights=None)
    torch.rand(7)
    assert same(one, draw(config(), tiny_data, picture("erasers"), weights=None))
    assert [tile.caption for tile in one[0].tiles] == ["image", "Batch DropBlock"]
    (cut, *_) = draw(
        config("baseline", augment=Augment(cutout=1.0, cutout_size=8)), tiny_data, picture("erasers"), weights=None
    )
    assert [tile.caption for tile in cut.tiles] == ["image", "Cutout"]


def test_attention_has_three_reference_points(tiny_data: ReidData, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    train(config("sona"), tiny_data, lambda _: None, weights=path)
    (strip, *_) = draw(config("sona"), tiny_data, picture("attention"), weights=path)
    assert [tile.caption.split()[0] for tile in strip.tiles] == ["image", "body", "legs", "corner"]


@pytest.mark.parametrize(
    ("what", "trial", "problem"),
    [("attention", config(), "no second-order attention"), ("erasers", config("baseline"), "erases anything")],
)
def test_nothing_to_draw_is_said(
    what: What, trial: TrialConfig, problem: str, tiny_data: ReidData, weights: Path
) -> None:
    with pytest.raises(ValueError, match=problem):
        draw(trial, tiny_data, picture(what), weights=weights if what == "attention" else None)
