from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from reid.config import IMAGENET_MEAN, IMAGENET_STD, Augment
from reid.data.augment import augment, to_float

MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
OFF = Augment(flip=0.0, cutout_size=4)
FLIP, CUT, ERASE = replace(OFF, flip=1.0), replace(OFF, cutout=1.0), replace(OFF, random_erasing=1.0)
ALL = Augment(flip=0.5, crop_padding=2, cutout=0.5, cutout_size=4, random_erasing=0.5)
SIZES = [(24, 8), (48, 16), (12, 6)]


def uint8(count: int, height: int = 24, width: int = 8) -> Tensor:
    """Random bytes. None of the 256 normalises to 0, so that zeros are what was erased."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def apply(pixels: Tensor, settings: Augment, *, size: tuple[int, int] | None = None, seed: int = 0) -> Tensor:
    return augment(pixels, size or (pixels.shape[1], pixels.shape[2]), settings, torch.Generator().manual_seed(seed))


def plain(pixels: Tensor) -> Tensor:
    """What the pixels look like to a network without augmentation; `to_float` has oracles of its own."""
    return to_float(pixels, (pixels.shape[1], pixels.shape[2]))


def boxes(result: Tensor) -> list[tuple[int, int, int, int] | None]:
    """Top, left, height and width of what is zero in each image; fails unless it is one rectangle in all channels."""
    found: list[tuple[int, int, int, int] | None] = []
    for image in result:
        zero = image == 0
        assert (zero == zero[:1]).all()
        rows, columns = (np.flatnonzero(zero[0].any(axis).numpy()) for axis in (1, 0))
        if not len(rows):
            found.append(None)
            continue
        box = (int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
        assert int(zero[0].sum()) == box[2] * box[3]
        found.append(box)
    return found


def test_to_float_normalises_as_imagenet_does() -> None:
    pixels = uint8(4, 6, 5)
    expected = torch.stack([(image.permute(2, 0, 1) / 255 - MEAN) / STD for image in pixels])
    result = to_float(pixels, (6, 5))
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 8), (40, 20), (5, 3), (40, 3), (1, 1)])
def test_to_float_resizes_as_pillow_does(size: tuple[int, int]) -> None:
    pixels = uint8(3, 16, 8)
    expected = [
        np.asarray(Image.fromarray(image.numpy()).resize(size[::-1], Image.Resampling.BILINEAR)) for image in pixels
    ]
    result = to_float(pixels, size) * STD + MEAN
    levels = (result * 255).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(levels, np.stack(expected), atol=1.001)


def test_to_float_takes_a_single_pixel() -> None:
    result = to_float(torch.full((2, 1, 1, 3), 255, dtype=torch.uint8), (6, 3))
    torch.testing.assert_close(result, ((1 - MEAN) / STD).expand(2, 3, 6, 3))


def test_to_float_leaves_the_pixels_alone() -> None:
    pixels = uint8(2, 4, 4)
    before = pixels.clone()
    to_float(pixels, (4, 4))
    assert torch.equal(pixels, before)


def test_no_byte_normalises_to_zero() -> None:
    assert (plain(torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(-1, 1, 1, 3)) != 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_with_everything_off_it_is_to_float(size: tuple[int, int]) -> None:
    pixels = uint8(5)
    result = apply(pixels, OFF, size=size)
    assert torch.equal(result, to_float(pixels, size))
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


@given(
    st.builds(
        Augment,
        flip=st.floats(0, 1),
        crop_padding=st.integers(0, 3),
        cutout=st.floats(0, 1),
        cutout_size=st.integers(1, 6),
        random_erasing=st.floats(0, 1),
    ),
    st.sampled_from(SIZES),
    st.integers(0, 100),
)
def test_the_input_is_left_alone_and_the_seed_decides(settings: Augment, size: tuple[int, int], seed: int) -> None:
    pixels = uint8(4)
    before = pixels.clone()
    first, second = (apply(pixels, settings, size=size, seed=seed) for _ in range(2))
    assert torch.equal(pixels, before)
    assert torch.equal(first, second)
    assert first.shape == (4, 3, *size)
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_another_seed_gives_another_batch() -> None:
    one, other = (apply(uint8(16), ALL, seed=seed) for seed in (0, 1))
    assert not torch.equal(one, other)


def test_a_batch_done_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = uint8(300, 64, 32)
    results = []
    for cached in (1, 2**18, 2**30):  # one image, 128 images, all images at a time
        monkeypatch.setattr("reid.data.augment._CACHED_PIXELS", cached)
        results.append(apply(pixels, ALL))
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[2])


def test_an_empty_batch_stays_empty() -> None:
    assert apply(uint8(0), ALL, size=(48, 16)).shape == (0, 3, 48, 16)


def test_the_default_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    apply(uint8(4), ALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_flip_is_the_mirror_image() -> None:
    pixels = uint8(400)
    images = plain(pixels)
    assert torch.equal(apply(pixels, FLIP), images.flip(3))
    mixed = apply(pixels, replace(OFF, flip=0.5))
    mirrored = [torch.equal(one, other.flip(2)) for one, other in zip(mixed, images, strict=True)]
    kept = [torch.equal(one, other) for one, other in zip(mixed, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250  # standard deviation 10


@pytest.mark.parametrize("size", SIZES)
def test_a_flipped_image_is_resized_as_any_other(size: tuple[int, int]) -> None:
    pixels = uint8(16)
    assert torch.equal(apply(pixels, FLIP, size=size), to_float(pixels.flip(2), size))
    levels = apply(pixels, FLIP, size=size) - to_float(pixels, size).flip(3)
    assert (levels.abs() * STD * 255).max() < 1.01  # flipping after resizing may round a byte differently


def windows(image: Tensor, padding: int) -> dict[tuple[int, int], Tensor]:
    """Every crop of a normalised image in a frame of black, by its top and left."""
    _, height, width = image.shape
    framed = plain(torch.zeros(1, height + 2 * padding, width + 2 * padding, 3, dtype=torch.uint8))[0]
    framed[:, padding : padding + height, padding : padding + width] = image
    places = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    return {(y, x): framed[:, y : y + height, x : x + width] for y, x in places}


@pytest.mark.parametrize("source", [(6, 4), (9, 10)])
def test_a_crop_is_a_window_of_the_resized_image_in_a_black_frame(source: tuple[int, int]) -> None:
    pixels = uint8(600, *source)
    places = set()
    cropped = apply(pixels, replace(OFF, crop_padding=3), size=(6, 4))
    for one, other in zip(to_float(pixels, (6, 4)), cropped, strict=True):
        found = [place for place, window in windows(one, 3).items() if torch.equal(window, other)]
        assert found
        places.update(found)
    assert len(places) == 49


@pytest.mark.parametrize("source", [(8, 6), (24, 8)])
def test_all_of_it_together(source: tuple[int, int]) -> None:
    """What is not erased is one window of the image or of its mirror image; what is erased is cut out and erased."""
    pixels = uint8(60, *source)
    images, mirrored = (to_float(each, (8, 6)) for each in (pixels, pixels.flip(2)))
    sure = replace(ALL, cutout=1.0, random_erasing=1.0)
    together, cut, erased = (
        apply(pixels, settings, size=(8, 6))
        for settings in (sure, replace(sure, random_erasing=0.0), replace(sure, cutout=0.0))
    )
    for number, result in enumerate(together):
        kept = result != 0
        candidates = [window for image in (images, mirrored) for window in windows(image[number], 2).values()]
        assert any(torch.equal(result[kept], window[kept]) for window in candidates)
    assert torch.equal(together == 0, (cut == 0) | (erased == 0))
    assert None not in boxes(cut) + boxes(erased)


def test_cutout_is_one_square_inside_the_image() -> None:
    pixels = uint8(3000)
    result = apply(pixels, replace(CUT, cutout=0.5))
    found = [box for box in boxes(result) if box]
    assert all(box[2:] == (4, 4) for box in found)
    assert {box[:2] for box in found} == {(y, x) for y in range(21) for x in range(5)}
    assert 1350 < len(found) < 1650  # standard deviation 27
    assert torch.equal(result[result != 0], plain(pixels)[result != 0])


def test_cutout_places_are_uniform() -> None:
    found = [box for box in boxes(apply(uint8(4000), CUT)) if box]
    assert len(found) == 4000
    lefts = np.bincount([box[1] for box in found], minlength=5)
    assert np.abs(lefts - 800).max() < 130  # standard deviation 25


def test_a_clipped_cutout_has_its_centre_anywhere_and_loses_what_is_outside() -> None:
    """As DeVries and Taylor: of a side of 5, rows -2 to +2 around the centre, as far as they exist."""
    pixels = uint8(4000)
    gone = (apply(pixels, replace(CUT, cutout_size=5, cutout_at="clipped")) == 0).all(1)
    rows, columns = gone.any(2), gone.any(1)
    height, width = rows.sum(1), columns.sum(1)
    assert (gone.sum((1, 2)) == height * width).all()
    assert set(height.tolist()) == set(width.tolist()) == {3, 4, 5}
    assert (height == 3).float().mean().item() == pytest.approx(2 / 24, abs=0.02)
    assert (width == 3).float().mean().item() == pytest.approx(2 / 8, abs=0.03)
    centre = rows.float().argmax(1) + 2
    assert (centre[height == 5] >= 2).all()


def test_a_clipped_cutout_may_be_larger_than_the_image() -> None:
    assert (apply(uint8(3), replace(CUT, cutout_size=99, cutout_at="clipped"), size=(24, 8)) == 0).all()


def test_cutout_may_fill_the_smaller_side_of_the_resized_image_and_no_more() -> None:
    pixels = uint8(50, 6, 6)
    result = apply(pixels, replace(CUT, cutout_size=8), size=(24, 8))
    assert all(box and box[1:] == (0, 8, 8) for box in boxes(result))
    with pytest.raises(ValueError, match=r"cutout_size is 9, at most 8 fits into an image of 24 x 8"):
        apply(pixels, replace(CUT, cutout=0.5, cutout_size=9), size=(24, 8))


def test_cutout_and_erasing_do_not_depend_on_each_other() -> None:
    pixels = uint8(4000, 32, 32)
    settings = (replace(OFF, cutout=0.5), replace(OFF, random_erasing=0.5))
    cut, erased = (boxes(apply(pixels, each)) for each in settings)
    both = [(one, other) for one, other in zip(cut, erased, strict=True) if one and other]
    assert 860 < len(both) < 1140  # a quarter; standard deviation 27
    tops = [(one[0], other[0] / (33 - other[2])) for one, other in both]
    lefts = [(one[1], other[1] / (33 - other[3])) for one, other in both]
    for pairs in (tops, lefts):
        assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.13  # standard deviation 0.032


def test_the_default_size_does_not_matter_while_cutout_is_off() -> None:
    assert apply(uint8(1), Augment(cutout=0.0, cutout_size=64)).shape == (1, 3, 24, 8)


def erasing_oracle(generator: np.random.Generator, height: int, width: int) -> tuple[int, int] | None:
    """Algorithm 1 of Random Erasing, one image at a time, with the ratio uniform as in BDB's and HAN's code."""
    for _ in range(100):
        area = generator.uniform(0.02, 0.4) * height * width
        ratio = generator.uniform(0.3, 1 / 0.3)
        h, w = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if h < height and w < width:
            return h, w
    return None


@pytest.mark.parametrize(("height", "width"), [(48, 16), (40, 40)])
def test_erasing_has_the_distribution_of_the_published_loop(height: int, width: int) -> None:
    count = 4000
    found = [box for box in boxes(apply(uint8(count, height, width), ERASE)) if box]
    assert len(found) == count
    generator = np.random.default_rng(0)
    expected = [sides for _ in range(count) if (sides := erasing_oracle(generator, height, width))]
    for ours, theirs in (
        ([box[2] for box in found], [sides[0] for sides in expected]),
        ([box[3] for box in found], [sides[1] for sides in expected]),
        ([box[2] * box[3] for box in found], [h * w for h, w in expected]),
        ([box[2] / box[3] for box in found], [h / w for h, w in expected]),
    ):
        assert _largest_gap(ours, theirs) < 0.045  # two-sample Kolmogorov-Smirnov, 4000 each: 0.0436 at p = 0.001
    assert all(box[0] + box[2] <= height and box[1] + box[3] <= width for box in found)


def _largest_gap(one: Sequence[float], other: Sequence[float]) -> float:
    points = np.unique([*one, *other])
    shares = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_erasing_uses_every_valid_place() -> None:
    found = [box for box in boxes(apply(uint8(4000, 8, 5), ERASE)) if box]
    chosen = [box[:2] for box in found if box[2:] == (3, 3)]
    assert len(chosen) > 150
    assert set(chosen) == {(y, x) for y in range(6) for x in range(3)}


def test_erasing_has_its_probability_and_leaves_the_rest() -> None:
    pixels = uint8(2000)
    result = apply(pixels, replace(ERASE, random_erasing=0.3))
    assert 500 < sum(box is not None for box in boxes(result)) < 700  # standard deviation 20
    assert torch.equal(result[result != 0], plain(pixels)[result != 0])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 1)])
def test_an_image_too_small_for_any_rectangle_is_left_alone_or_erased_in_part(size: tuple[int, int]) -> None:
    for box in boxes(apply(uint8(200, *size), replace(ERASE, flip=0.5))):
        assert box is None or (box[2] < size[0] and box[3] < size[1])


def test_settings_do_not_shift_the_stream() -> None:
    """A trial that erases sees the same flips as one that does not, and leaves its generator in the same state."""
    pixels, states = uint8(64), []
    for settings in (OFF, ALL):
        generator = torch.Generator().manual_seed(3)
        augment(pixels, (24, 8), settings, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)
    half = replace(OFF, flip=0.5)
    flipped, erased = apply(pixels, half), apply(pixels, replace(half, random_erasing=0.7))
    assert torch.equal(erased[erased != 0], flipped[erased != 0])
    cut, both = (apply(pixels, replace(OFF, cutout=0.5, random_erasing=erasing)) for erasing in (0.0, 0.5))
    assert ((cut == 0) <= (both == 0)).all()


def test_placing_never_leaves_the_image() -> None:
    """The largest number a generator gives, times any bound, stays below the bound in float32."""
    bounds = torch.arange(1, 5000, dtype=torch.float32)
    assert ((torch.tensor(1 - 2**-24) * bounds).long() == bounds.long() - 1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_with_the_cpu() -> None:
    pixels = uint8(16, 16, 8)
    device = torch.device("cuda")
    torch.testing.assert_close(
        to_float(pixels.to(device), (24, 12)).cpu(), to_float(pixels, (24, 12)), rtol=0, atol=0.02
    )
    one, other = (apply(images, ALL).cpu() for images in (pixels, pixels.to(device)))
    torch.testing.assert_close(one, other)


def test_a_crop_is_a_window_of_the_resized_image_anywhere_in_it() -> None:
    pixels = uint8(200, 12, 10)
    result = apply(pixels, replace(OFF, crop=(8, 7)))
    whole = plain(pixels)
    places = set()
    for image, cropped in zip(whole, result, strict=True):
        found = [
            (top, left)
            for top in range(5)
            for left in range(4)
            if torch.equal(image[:, top : top + 8, left : left + 7], cropped)
        ]
        assert len(found) == 1
        places.add(found[0])
    assert places == {(top, left) for top in range(5) for left in range(4)}


def test_a_crop_moves_no_other_draw() -> None:
    pixels = uint8(50, 12, 10)
    mirrored = apply(pixels, replace(OFF, flip=0.5))
    cropped = apply(pixels, replace(OFF, flip=0.5, crop=(12, 9)))
    assert all(
        torch.equal(one, image[:, :, :9]) or torch.equal(one, image[:, :, 1:])
        for one, image in zip(cropped, mirrored, strict=True)
    )
