import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from reid.data import manifest as manifests
from reid.data.decode import Fit, Source, decode, decoding
from reid.data.manifest import Box, Record, SplitName
from reid.data.market1501 import read
from reid.data.pack import BadImagesError, PackInfo, pack

NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("0001_c1.png", "0001_c2.png", "0002_c1.png", "0002_c2.png"),
    "query": ("0003_c1.png",),
    "gallery": ("-1_c1.png", "0000_c3.png", "0003_c2.png"),
}
FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def pixels(seed: int, size: tuple[int, int] = (8, 4)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def make(root: Path, size: tuple[int, int] = (8, 4)) -> list[Path]:
    """A small set in Market-1501's layout, in manifest order; image i is `pixels(i)`, without loss."""
    files = [root / FOLDERS[split] / name for split, names in NAMES.items() for name in names]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number, size)).save(file)
    return files


def packed(
    tmp_path: Path, size: tuple[int, int] = (16, 8), workers: int = 1, skip_bad: bool = False
) -> tuple[PackInfo, np.ndarray]:
    folder = tmp_path / "data" / "synthetic"
    root = tmp_path / "raw"
    info = pack(root, read(root), folder, image_size=size, workers=workers, skip_bad=skip_bad)
    return info, np.load(folder / "images.npy", mmap_mode="r")


def test_a_row_is_the_image_of_its_manifest_row(tmp_path: Path) -> None:
    files = make(tmp_path / "raw")
    info, images = packed(tmp_path)
    manifest = manifests.read(tmp_path / "data" / "synthetic" / "manifest.parquet")
    assert [tmp_path / "raw" / path for path in manifest["path"]] == files
    np.testing.assert_array_equal(images, np.stack([pixels(number) for number in range(8)]))
    assert manifest["sha256"].tolist() == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert manifest["identity"].tolist() == [1, 1, 2, 2, 3, -1, 0, 3]
    assert info.digest == manifests.digest(manifest, images.shape, fit="stretch")


def test_info_says_what_was_packed(tmp_path: Path) -> None:
    make(tmp_path / "raw")
    info, _ = packed(tmp_path)
    written = json.loads((tmp_path / "data" / "synthetic" / "info.json").read_text())
    assert written == {
        "dataset": "synthetic",
        "name": "Embedded set",
        "digest": info.digest,
        "shape": [8, 8, 4, 3],
        "fit": "stretch",
        "resized": False,
        "counts": {
            "train": {"images": 4, "identities": 2, "cameras": 2},
            "query": {"images": 1, "identities": 1, "cameras": 1},
            "gallery": {"images": 3, "identities": 1, "cameras": 3},
        },
        "warnings": [],
        "skipped": [],
    }


def make_many(root: Path, count: int) -> list[Record]:
    root.mkdir()
    for number in range(count):
        Image.fromarray(pixels(number)).save(root / f"{number:03}.png")
    return [Record(f"{number:03}.png", number + 1, 1, "train") for number in range(count)]


def test_several_processes_pack_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reid.data.pack._IMAGES_PER_PROCESS", 1)
    root = tmp_path / "raw"
    records = make_many(root, 70)  # several tasks, the last one short
    for number in (0, 17, 18, 69):
        (root / f"{number:03}.png").write_text("no")
    infos = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers) / "synthetic"
        infos[workers] = pack(root, records, folder, image_size=(8, 4), workers=workers, skip_bad=True)
    images = np.load(tmp_path / "2" / "synthetic" / "images.npy")
    kept = [number for number in range(70) if number not in (0, 17, 18, 69)]
    np.testing.assert_array_equal(images, np.stack([pixels(number) for number in kept]))
    assert infos[1] == infos[2]
    for name in ("images.npy", "manifest.parquet", "info.json"):
        one, two = (tmp_path / str(workers) / "synthetic" / name for workers in (1, 2))
        assert one.read_bytes() == two.read_bytes()


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pack(
        tmp_path / "raw",
        make_many(tmp_path / "raw", 40),
        tmp_path / "synthetic",
        image_size=(8, 4),
        workers=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(32, 40), (40, 40)]


@pytest.mark.parametrize("limit", [(8, 4), (16, 8), (8, 100)])
def test_one_common_size_within_the_limit_is_kept(tmp_path: Path, limit: tuple[int, int]) -> None:
    make(tmp_path / "raw")
    assert packed(tmp_path, limit)[1].shape == (8, 8, 4, 3)


@pytest.mark.parametrize("limit", [(6, 4), (8, 3), (7, 100)])
def test_images_larger_than_the_limit_are_resized(tmp_path: Path, limit: tuple[int, int]) -> None:
    make(tmp_path / "raw")
    _, images = packed(tmp_path, limit)
    assert images.shape == (8, *limit, 3)
    expected = Image.fromarray(pixels(5)).resize(limit[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[5], np.asarray(expected))


def test_images_of_several_sizes_are_resized(tmp_path: Path) -> None:
    files = make(tmp_path / "raw")
    Image.fromarray(pixels(3, (7, 4))).save(files[3])
    _, images = packed(tmp_path, (16, 8))
    assert images.shape == (8, 16, 8, 3)


def test_images_of_one_pixel(tmp_path: Path) -> None:
    make(tmp_path / "raw", size=(1, 1))
    _, images = packed(tmp_path)
    assert images.shape == (8, 1, 1, 3)
    np.testing.assert_array_equal(images[7], pixels(7, (1, 1)))


def truncated_jpeg(file: Path) -> None:
    Image.fromarray(pixels(0, (64, 32))).save(file, format="JPEG")
    file.write_bytes(file.read_bytes()[:-400])


def test_every_bad_file_is_listed_with_its_reason(tmp_path: Path) -> None:
    files = make(tmp_path / "raw")
    records = read(tmp_path / "raw")
    files[0].write_text("not an image")
    truncated_jpeg(files[2])
    files[5].unlink()
    folder = tmp_path / "data" / "synthetic"
    with pytest.raises(BadImagesError) as caught:
        pack(tmp_path / "raw", records, folder, image_size=(16, 8), workers=1)
    said = str(caught.value).splitlines()
    assert said[0] == (
        f"3 of 8 images under {tmp_path / 'raw'} cannot be packed; mend or remove them, or set prepare.skip_bad to go "
        f"on without them:"
    )
    assert said[1] == "  bounding_box_train/0001_c1.png: is not a JPEG, PNG, BMP, WEBP image"
    assert said[2].startswith("  bounding_box_train/0002_c1.png: is damaged (image file is truncated")
    assert said[3:] == ["  bounding_box_test/-1_c1.png: No such file or directory"]
    assert [file.name for file in folder.iterdir()] == [".packing"]


def test_an_image_of_too_many_pixels_is_bad(tmp_path: Path) -> None:
    """The limit is the setting; within it, what Pillow would warn of is a good image."""
    root = tmp_path / "raw"
    records = make_many(root, 2)
    Image.new("L", (10_000, 10_000)).save(root / "001.png")
    packing = functools.partial(pack, root, records, tmp_path / "synthetic", image_size=(8, 4), workers=1)
    with pytest.raises(
        BadImagesError, match=r"001.png: has 10000 x 10000 = 100,000,000 pixels, more than prepare.max_"
    ):
        packing()
    assert packing(max_pixels=100_000_000).shape == (2, 8, 4, 3)


def test_images_that_were_turned_upright_are_counted(tmp_path: Path) -> None:
    files = make(tmp_path / "raw")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for number in (3, 6):
        Image.fromarray(pixels(number)).rotate(90, expand=True).save(files[number], exif=exif)
    info, images = packed(tmp_path)
    np.testing.assert_array_equal(images, np.stack([pixels(number) for number in range(8)]))
    assert info.warnings == ("2 images were turned upright, as their EXIF data say",)


def test_bad_files_can_be_left_out_and_are_recorded(tmp_path: Path) -> None:
    files = make(tmp_path / "raw")
    files[1].write_text("no")
    files[6].write_text("no")
    info, images = packed(tmp_path, skip_bad=True)
    kept = [0, 2, 3, 4, 5, 7]
    np.testing.assert_array_equal(images, np.stack([pixels(number) for number in kept]))
    manifest = manifests.read(tmp_path / "data" / "synthetic" / "manifest.parquet")
    assert [tmp_path / "raw" / path for path in manifest["path"]] == [files[number] for number in kept]
    assert info.counts["train"]["images"] == 3
    assert info.digest == manifests.digest(manifest, images.shape, fit="stretch")
    written = json.loads((tmp_path / "data" / "synthetic" / "info.json").read_text())
    assert written["skipped"] == [
        {"path": "bounding_box_train/0001_c2.png", "box": "", "reason": "is not a JPEG, PNG, BMP, WEBP image"},
        {"path": "bounding_box_test/0000_c3.png", "box": "", "reason": "is not a JPEG, PNG, BMP, WEBP image"},
    ]


def test_leaving_out_changes_the_digits_of_the_header(tmp_path: Path) -> None:
    """10 rows announced, 9 written: the header that is written last has the length of the first."""
    root, folder = tmp_path / "raw", tmp_path / "synthetic"
    records = make_many(root, 10)
    (root / "004.png").write_text("no")
    pack(root, records, folder, image_size=(8, 4), workers=1, skip_bad=True)
    kept = np.stack([pixels(number) for number in range(10) if number != 4])
    np.testing.assert_array_equal(np.load(folder / "images.npy"), kept)
    plain = tmp_path / "plain.npy"
    np.save(plain, kept)
    assert (folder / "images.npy").read_bytes() == plain.read_bytes()


def test_nothing_but_bad_files_is_an_error_even_when_they_may_be_left_out(tmp_path: Path) -> None:
    for file in make(tmp_path / "raw"):
        file.write_text("no")
    with pytest.raises(BadImagesError, match="none of the 8 images"):
        packed(tmp_path, skip_bad=True)


def test_identities_are_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    records = [Record("missing1", 1, 1, "train"), Record("missing2", 1, 2, "gallery")]
    with pytest.raises(ValueError, match="1 identities are in both"):
        pack(tmp_path, records, tmp_path / "synthetic", image_size=(8, 4), workers=1)


def test_warnings_are_kept(tmp_path: Path) -> None:
    files = make(tmp_path / "raw")
    files[4].write_bytes(files[0].read_bytes())
    info = pack(tmp_path / "raw", read(tmp_path / "raw"), tmp_path / "market1501", image_size=(8, 4), workers=1)
    assert "train has 4 images, the published set has 12,936" in info.warnings
    assert any("query/0003_c1.png = bounding_box_train/0001_c1.png" in warning for warning in info.warnings)


def test_the_folder_must_be_named_after_a_reader(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no reader for data set 'elsewhere'"):
        pack(tmp_path, [], tmp_path / "elsewhere", image_size=(8, 4), workers=1)


def test_a_failure_leaves_the_earlier_packing(tmp_path: Path) -> None:
    files = make(tmp_path / "raw")
    packed(tmp_path)
    folder = tmp_path / "data" / "synthetic"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    files[0].write_text("no")
    with pytest.raises(BadImagesError):
        packed(tmp_path)
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


@pytest.mark.parametrize("step", ["write", "info", "replace"])
def test_a_kill_between_the_files_reads_as_not_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Nor does it cost a decoded image."""
    make(tmp_path / "raw")
    packed(tmp_path)
    folder = tmp_path / "data" / "synthetic"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        owner, name = {"write": (manifests, "write"), "info": (Path, "write_text"), "replace": (Path, "replace")}[step]
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            packed(tmp_path)
    assert not (folder / "images.npy").exists()
    monkeypatch.setattr("reid.data.rows.decode", killed)
    packed(tmp_path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


# Boxes


def boxed(path: str, *boxes: Box | None) -> list[Record]:
    return [Record(path, 1, 1, "train", box) for box in boxes]


def packed_boxes(
    tmp_path: Path, records: list[Record], size: tuple[int, int] = (16, 16), **settings: Any
) -> tuple[PackInfo, np.ndarray]:
    folder = tmp_path / "synthetic"
    info = pack(tmp_path / "raw", records, folder, image_size=size, workers=1, **settings)
    return info, np.load(folder / "images.npy")


def test_only_the_box_is_packed(tmp_path: Path) -> None:
    """Boxes of one size are kept at that, as whole images would be; a box is one of the upright image."""
    make_many(tmp_path / "raw", 2)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels(1)).rotate(90, expand=True).save(tmp_path / "raw" / "001.png", exif=exif)
    records = [*boxed("000.png", (1, 2, 4, 7)), *boxed("001.png", (0, 0, 3, 5))]
    info, images = packed_boxes(tmp_path, records)
    np.testing.assert_array_equal(images, np.stack([pixels(0)[2:7, 1:4], pixels(1)[0:5, 0:3]]))
    assert (info.shape, info.resized) == ((2, 5, 3, 3), False)
    assert info.warnings == ("1 images were turned upright, as their EXIF data say",)


def test_what_is_beside_a_box_does_not_reach_into_it(tmp_path: Path) -> None:
    """Resizing takes in neighbours; those outside the box are none."""
    (tmp_path / "raw").mkdir()
    image = np.full((8, 8, 3), 255, np.uint8)
    image[2:6, 2:6] = 7
    Image.fromarray(image).save(tmp_path / "raw" / "a.png")
    _, images = packed_boxes(tmp_path, boxed("a.png", (2, 2, 6, 6), None), (3, 3))
    assert set(images[1].ravel()) == {7}
    assert set(images[0].ravel()) != {7}


def test_parts_of_one_image_are_rows_of_their_own(tmp_path: Path) -> None:
    make_many(tmp_path / "raw", 1)
    boxes: list[Box | None] = [(2, 0, 4, 2), (0, 0, 2, 2), (1, 5, 3, 7)]
    info, images = packed_boxes(tmp_path, boxed("000.png", *boxes))
    table = manifests.read(tmp_path / "synthetic" / "manifest.parquet")
    assert table["box"].tolist() == ["0,0,2,2", "1,5,3,7", "2,0,4,2"]
    assert table["sha256"].nunique() == 1
    for text, row in zip(table["box"], images, strict=True):
        left, top, right, bottom = map(int, text.split(","))
        np.testing.assert_array_equal(row, pixels(0)[top:bottom, left:right])
    assert info.digest == manifests.digest(table, images.shape, fit="stretch")
    moved, _ = packed_boxes(tmp_path, boxed("000.png", (0, 1, 2, 3), *boxes[:2]))
    assert moved.shape == info.shape
    assert moved.digest != info.digest


def test_a_box_that_reaches_beyond_the_image_is_cut_and_counted(tmp_path: Path) -> None:
    make_many(tmp_path / "raw", 1)
    info, images = packed_boxes(tmp_path, boxed("000.png", (1, 2, 5, 9)))
    np.testing.assert_array_equal(images, [pixels(0)[2:, 1:]])
    assert info.warnings == ("1 boxes reach beyond their images and were cut at the border",)
    info, images = packed_boxes(tmp_path, boxed("000.png", (-1, -2, 4, 8)))
    np.testing.assert_array_equal(images, [pixels(0)])
    assert info.warnings == ("1 boxes reach beyond their images and were cut at the border",)


BESIDE: list[Box] = [(4, 0, 8, 8), (0, -9, 4, 0), (0, -9, 4, 8), (0, 0, 40, 80), (9, 9, 9, 9), (3, 3, 2, 2)]


@pytest.mark.parametrize("box", BESIDE)
def test_a_box_of_which_most_is_elsewhere_is_bad(tmp_path: Path, box: Box) -> None:
    """It may be that of another image, or of this one at another size."""
    make_many(tmp_path / "raw", 1)
    text = ",".join(map(str, box))
    reason = f"has 4 x 8 pixels, and most of its box, ({box[0]}, {box[1]}) to ({box[2]}, {box[3]}), is not in them"
    with pytest.raises(BadImagesError) as caught:
        packed_boxes(tmp_path, boxed("000.png", None, box))
    assert str(caught.value).splitlines()[1:] == [f"  000.png [{text}]: {reason}"]
    info, images = packed_boxes(tmp_path, boxed("000.png", None, box), skip_bad=True)
    np.testing.assert_array_equal(images, [pixels(0)])
    assert info.skipped == ({"path": "000.png", "box": text, "reason": reason},)


def test_a_bad_file_is_bad_in_all_its_parts(tmp_path: Path) -> None:
    make_many(tmp_path / "raw", 2)
    (tmp_path / "raw" / "000.png").write_text("no")
    records = [*boxed("000.png", (0, 0, 2, 2), None), *boxed("001.png", (0, 0, 2, 2))]
    info, images = packed_boxes(tmp_path, records, skip_bad=True)
    np.testing.assert_array_equal(images, [pixels(1)[:2, :2]])
    assert [(one["path"], one["box"]) for one in info.skipped] == [("000.png", ""), ("000.png", "0,0,2,2")]


@pytest.mark.parametrize("change", ["box", "fit"])
def test_what_was_decoded_for_another_box_or_fit_is_not_used(tmp_path: Path, change: str) -> None:
    """The journal stays after a bad image, with all that was decoded."""
    make_many(tmp_path / "raw", 3)
    (tmp_path / "raw" / "002.png").write_text("no")
    bad = boxed("002.png", None)
    with pytest.raises(BadImagesError):
        packed_boxes(tmp_path, [*boxed("000.png", (0, 0, 4, 4)), *boxed("001.png", None), *bad])
    Image.fromarray(pixels(2)).save(tmp_path / "raw" / "002.png")
    box: Box = (0, 0, 4, 4) if change == "fit" else (0, 1, 4, 5)
    fit: Fit = "pad" if change == "fit" else "stretch"
    records = [*boxed("000.png", box), *boxed("001.png", None), *bad]
    _, again = packed_boxes(tmp_path, records, fit=fit)
    shutil.rmtree(tmp_path / "synthetic")
    _, anew = packed_boxes(tmp_path, records, fit=fit)
    np.testing.assert_array_equal(again, anew)


# Padding


@given(
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
)
def test_padding_keeps_the_shape_and_centres_it_on_zeros(source: tuple[int, int], size: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", source[::-1], (200, 100, 50)).save(Path(folder) / "a.png")
        with decoding():
            outcome, row = decode(Path(folder), Source("a.png", None), size, fit="pad", max_pixels=10_000)
    assert (outcome.fault, outcome.height, outcome.width) == ("", *source)
    image = np.frombuffer(row, np.uint8).reshape(*size, 3)
    inside = (image == (200, 100, 50)).all(axis=2)
    assert not image[~inside].any()
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    scale = min(size[0] / source[0], size[1] / source[1])
    for spots, side, packed_side in ((rows, source[0], size[0]), (columns, source[1], size[1])):
        assert abs(len(spots) - max(1, side * scale)) <= 0.5 + 1e-9
        assert spots[0] - (packed_side - 1 - spots[-1]) in (0, -1)
    assert len(rows) == size[0] or len(columns) == size[1]


@pytest.mark.parametrize("source", [(8, 4), (4, 8), (8, 8), (3, 5)])
def test_padding_is_that_to_a_square_and_then_resizing(tmp_path: Path, source: tuple[int, int]) -> None:
    """As BDB's code does it, where the two can be compared to the pixel: the inner edges fall on whole pixels."""
    (tmp_path / "raw").mkdir()
    smooth = Image.fromarray(pixels(0, (2, 2))).resize(source[::-1], Image.Resampling.BILINEAR)
    smooth.save(tmp_path / "raw" / "a.png")
    side = 4 * max(source)
    info, images = packed_boxes(tmp_path, boxed("a.png", None), (side, side), fit="pad")
    square = Image.new("RGB", (max(source), max(source)))
    at = ((max(source) - source[1]) // 2, (max(source) - source[0]) // 2)
    square.paste(smooth, at)
    expected = np.asarray(square.resize((side, side), Image.Resampling.BILINEAR)).astype(int)
    top, left = at[1] * 4 + 4, at[0] * 4 + 4  # a source pixel from the edge, where theirs is mixed with zeros
    inner = np.s_[top : top + 4 * source[0] - 8, left : left + 4 * source[1] - 8]
    np.testing.assert_allclose(images[0][inner].astype(int), expected[inner], atol=1)
    assert (info.fit, info.resized) == ("pad", True)


def test_padded_images_are_packed_at_the_size_whatever_theirs_is(tmp_path: Path) -> None:
    records = make_many(tmp_path / "raw", 3)
    info, images = packed_boxes(tmp_path, records, (8, 8), fit="pad")
    np.testing.assert_array_equal(images[:, :, 2:6], np.stack([pixels(number) for number in range(3)]))
    assert not images[:, :, :2].any()
    assert not images[:, :, 6:].any()
    assert info.shape == (3, 8, 8, 3)
    stretched, _ = packed_boxes(tmp_path, records, (8, 8))
    assert stretched.shape == (3, 8, 4, 3)
    assert stretched.digest != info.digest
    table = manifests.read(tmp_path / "synthetic" / "manifest.parquet")
    assert info.digest == manifests.digest(table, info.shape, fit="pad")


# What trials ask for


def test_info_is_read_back(tmp_path: Path) -> None:
    make_many(tmp_path / "raw", 2)
    (tmp_path / "raw" / "001.png").write_text("no")
    records = [*boxed("000.png", (0, 0, 5, 9)), *boxed("001.png", None)]
    info, _ = packed_boxes(tmp_path, records, fit="pad", skip_bad=True)
    assert PackInfo.load(tmp_path / "synthetic") == info
    assert info.warnings
    assert info.skipped


def test_padded_images_cannot_be_asked_for_in_another_shape(tmp_path: Path) -> None:
    records = make_many(tmp_path / "raw", 1)
    padded, _ = packed_boxes(tmp_path, records, (16, 8), fit="pad")
    assert [padded.fault(size) for size in ((16, 8), (8, 4), (32, 16))] == [""] * 3
    assert padded.fault((8, 8)) == (
        "recipe.image_size is 8 x 8, and the images of synthetic are padded to 16 x 8, so that they would lose their "
        "shape; set recipe.image_size to that or a like one, or prepare.by_dataset.synthetic to another size, or its "
        "fit to stretch"
    )
    stretched, _ = packed_boxes(tmp_path, records, (16, 8))
    assert stretched.fault((8, 8)) == ""


def test_a_larger_size_than_that_of_scaled_images_is_warned_of(tmp_path: Path) -> None:
    records = make_many(tmp_path / "raw", 1)
    scaled, _ = packed_boxes(tmp_path, records, (4, 4))
    assert [scaled.warning(size) for size in ((4, 4), (2, 4))] == ["", ""]
    for size in ((5, 4), (4, 5)):
        assert scaled.warning(size) == (
            f"recipe.image_size is {size[0]} x {size[1]}, and the images of synthetic are packed at 4 x 4: they are "
            f"enlarged; to keep more of them, set prepare.by_dataset.synthetic"
        )
    own, _ = packed_boxes(tmp_path, records, (16, 8))
    assert own.shape == (1, 8, 4, 3)
    assert own.warning((16, 8)) == ""
