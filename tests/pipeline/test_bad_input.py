"""Bad and odd data sets at the command line: one clear line with path and fix, exit 2, nothing half-written; or exit 0.

Everything goes through `cli.main`, on a miniature of which one thing is wrong, and all files of the checkout and of the
raw folder are compared before and after.
"""

import io
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reid.data import manifest as manifests
from tests.pipeline.planning.test_params import TEXT
from tests.pipeline.test_cli import call
from tests.reid.data import matwriter, miniatures
from tests.reid.data.miniatures import Shot

QUERY = "Market-1501-v15.09.15/query/0007_c1s1_000701_00.jpg"
GALLERY = "Market-1501-v15.09.15/bounding_box_test"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: object
    out: str
    err: str


class Desk:
    """A checkout with nothing but params.yaml, and a folder for raw data that REID_DATASETS names."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.raw = folder / "checkout", folder / "raw"
        self.root.mkdir()
        self.raw.mkdir()
        self.patch, self.capture = monkeypatch, capsys
        self.settings = TEXT.replace("[bdb_table1, bdb_table2, bdb_block_height]", "[bdb_block_height]")
        monkeypatch.chdir(self.root)
        monkeypatch.setenv("REID_DATASETS", str(self.raw))

    def set(self, old: str, new: str) -> None:
        """Change params.yaml."""
        assert old in self.settings
        self.settings = self.settings.replace(old, new, 1)

    def prepare(self, dataset: str, *options: str) -> Ended:
        """`python -m pipeline prepare`."""
        self.set("datasets: [synthetic]", f"datasets: [{dataset}]")
        (self.root / "params.yaml").write_text(self.settings)
        code = call(self.patch, "prepare", dataset, *options)
        printed = self.capture.readouterr()
        assert "Traceback" not in printed.err
        return Ended(code, printed.out, printed.err)

    def files(self) -> dict[Path, bytes | str]:
        """All files and links of both, params.yaml and what packing goes on from (`.packing`) left out."""
        paths = [path for top in (self.root, self.raw) for path in top.rglob("*") if not path.is_dir()]
        kept = [path for path in paths if path.name != "params.yaml" and ".packing" not in path.parts]
        return {path: str(path.readlink()) if path.is_symlink() else path.read_bytes() for path in kept}

    def refused(self, dataset: str, *options: str) -> str:
        """What is said of a data set that is refused, and nothing is written."""
        before = self.files()
        ended = self.prepare(dataset, *options)
        assert ended.code == 2, ended
        assert self.files() == before
        return ended.err.removesuffix("\n")

    def table(self, dataset: str) -> pd.DataFrame:
        """The manifest that was written."""
        return manifests.read(self.root / "data" / dataset / "manifest.parquet")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    monkeypatch.delenv("FASTREID_DATASETS", raising=False)
    return Desk(tmp_path, monkeypatch, capsys)


def encoded(mode: str, form: str, **options: Any) -> bytes:
    """An image of a mode, as a file of a format."""
    pixels = np.random.default_rng(0).integers(0, 255, (32, 16, 4), dtype=np.uint8)
    image = Image.fromarray(pixels[..., :3]).convert(mode) if mode != "I;16" else Image.new(mode, (16, 32), 40_000)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# Images

BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda whole: whole[: len(whole) // 2], "(?i:truncated)"),
    "0 bytes": (lambda whole: b"", "not a JPEG, PNG, BMP, WEBP image|empty"),
    "HTML named .jpg": (lambda whole: b"<!DOCTYPE html><title>404</title>", "not a JPEG, PNG, BMP, WEBP image"),
    "PNG bomb": (lambda whole: bomb(), r"3,600,000,000 pixels.*prepare\.max_pixels"),
    "16 bits": (lambda whole: encoded("I;16", "PNG"), "8 bits"),
    "GIF named .jpg": (lambda whole: encoded("P", "GIF"), "not a JPEG, PNG, BMP, WEBP image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_named_with_its_reason(kind: str, desk: Desk) -> None:
    change, reason = BAD[kind]
    miniatures.write("market1501", desk.raw)
    (desk.raw / QUERY).write_bytes(change((desk.raw / QUERY).read_bytes()))
    first, second = desk.refused("market1501").splitlines()
    assert re.match(rf"1 of 38 images under {desk.raw} cannot be packed; .*skip_bad", first), first
    assert re.match(rf"  {re.escape(QUERY)}:? .*(?:{reason})", second), second


def test_every_bad_image_has_its_line_and_may_be_left_out(desk: Desk) -> None:
    records = miniatures.write("market1501", desk.raw)
    bad = [QUERY, *(record.path for record in records if record.split == "train")][:3]
    for path in bad:
        (desk.raw / path).write_bytes(b"")
    assert [line.split(":")[0].strip() for line in desk.refused("market1501").splitlines()[1:]] == sorted(
        bad, key=lambda path: (path == QUERY, path)
    )
    desk.set("skip_bad: false", "skip_bad: true")
    desk.set("datasets: [market1501]", "datasets: [synthetic]")
    ended = desk.prepare("market1501")
    assert ended.code == 0
    assert all(f"left out: {path}" in ended.out for path in bad)
    assert not set(bad) & set(desk.table("market1501")["path"])


FINE: dict[str, tuple[str, bytes]] = {
    "CMYK": ("0008_c1s1_1.jpg", encoded("CMYK", "JPEG")),
    "palette": ("0008_c1s1_1.png", encoded("P", "PNG")),
    "EXIF-rotated": (
        "0008_c1s1_1.jpg",
        encoded("RGB", "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"),
    ),
    "non-ASCII name": ("0008_c1s1_é_行人.jpg", encoded("RGB", "JPEG")),
    "name of 255 bytes": (f"0008_c1s1_{'x' * 241}.jpg", encoded("RGB", "JPEG")),
}


@pytest.mark.parametrize("kind", FINE)
def test_an_odd_but_whole_image_is_packed(kind: str, desk: Desk) -> None:
    name, content = FINE[kind]
    miniatures.write("market1501", desk.raw)
    (desk.raw / GALLERY / name).write_bytes(content)
    ended = desk.prepare("market1501")
    assert (ended.code, ended.err) == (0, "")
    assert ("turned upright" in ended.out) == (kind == "EXIF-rotated")
    assert f"{GALLERY}/{name}" in desk.table("market1501")["path"].tolist()


# Folders and lists


def test_a_link_out_of_the_data_set(desk: Desk) -> None:
    miniatures.write("market1501", desk.raw)
    outside = desk.raw.parent / "outside.jpg"
    outside.write_bytes(encoded("RGB", "JPEG"))
    (desk.raw / QUERY).unlink()
    (desk.raw / QUERY).symlink_to(outside)
    said = desk.refused("market1501")
    assert said.startswith(
        f"{desk.raw / QUERY} is a link to {outside}, outside the data set; put the file itself there"
    )
    assert len(said.splitlines()) == 1


def test_a_missing_query_folder(desk: Desk) -> None:
    miniatures.write("market1501", desk.raw)
    shutil.rmtree((desk.raw / QUERY).parent)
    first, second, third, *tree, closest = desk.refused("market1501").splitlines()
    usual = f"{desk.root}/datasets (./datasets, no such folder)"
    assert first == f"Market-1501 was looked for in {desk.raw} (REID_DATASETS), {usual}"
    assert second == f"Market-1501 is not under {desk.raw}"
    assert third.startswith("Set REID_DATASETS to the folder that holds it.")
    assert "    query/" in tree
    assert closest == f"Closest folder found: {desk.raw / 'Market-1501-v15.09.15'} (lacks query)"


def test_an_identity_in_train_and_test(desk: Desk) -> None:
    miniatures.write("market1501", desk.raw)
    miniatures.paint(desk.raw / GALLERY / "0002_c1s1_9.jpg", Shot(2, 1, 9, "gallery"))
    said = desk.refused("market1501")
    assert said.startswith(f"{desk.raw}: 1 identities are in both the training and the test split: 2; ")
    assert len(said.splitlines()) == 1


def test_files_that_a_list_names_are_missing(desk: Desk) -> None:
    """Such a set is there, and broken: no other place is asked for it."""
    (gone, *_) = miniatures.write("sop", desk.raw)
    miniatures.write("sop", desk.root / "datasets")
    (desk.raw / gone.path).unlink()
    said = desk.refused("sop")
    assert re.match(rf"{desk.raw}/.*Ebay_train.txt names 1 files that are not in .*; unpack the data set again", said)
    assert len(said.splitlines()) == 1


WRONG_MAT: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "CUHK03": (
        "cuhk03_detected",
        "cuhk03_new_protocol_config_detected.mat",
        {"filelist": ["1_001_1_01.png"], "labels": np.array([[1]], "u2")},
        "gallery_idx",
    ),
    "CARS196": ("cars196", "cars_annos.mat", {"annotation": np.array([[1]], "u1")}, "annotations"),
}


@pytest.mark.parametrize("kind", WRONG_MAT)
def test_wrong_keys_in_a_mat_file(kind: str, desk: Desk) -> None:
    dataset, name, content, lacking = WRONG_MAT[kind]
    home = desk.raw / "cuhk03" if kind == "CUHK03" else desk.raw / "cars196"
    (home / "images_detected").mkdir(parents=True)
    (home / "car_ims").mkdir()
    matwriter.write(home / name, content)
    said = desk.refused(dataset)
    assert said.startswith(str(home / name))
    assert lacking in said
    assert re.search(r"; \w+ ", said), "no fix"
    assert len(said.splitlines()) == 1


# Manifests


def edited(desk: Desk, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """The miniature of a manifest with a change."""
    miniatures.write("manifest", desk.raw)
    file = desk.raw / "manifest.csv"
    change(pd.read_csv(file)).to_csv(file, index=False)
    return file


WRONG_MANIFEST: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "a missing column": (
        lambda rows: rows.drop(columns="identity"),
        " has the columns path, camera, split; it lacks identity of path, identity, split",
    ),
    "an unknown column": (
        lambda rows: rows.rename(columns={"camera": "camid"}),
        " has a column 'camid', allowed: .*; did you mean camera",
    ),
    "a path outside": (
        lambda rows: rows.replace({"path": {"images/0.jpg": "../0.jpg"}}),
        ", line 2, column path: '../0.jpg' leaves .*; write the path relative to that folder",
    ),
    "an absolute path": (
        lambda rows: rows.replace({"path": {"images/0.jpg": "/etc/passwd"}}),
        ", line 2, column path: '/etc/passwd' leaves .*; write the path relative to that folder",
    ),
    "a NUL in a path": (
        lambda rows: rows.replace({"path": {"images/0.jpg": "images/\0.jpg"}}),
        r", line 2, column path: 'images/\\x00.jpg' is no path; write the file's name again",
    ),
    "a folder's name that no disk takes": (
        lambda rows: rows.replace({"path": {"images/0.jpg": f"{'x' * 300}/0.jpg"}}),
        " names 1 files that are not in .*; unpack the data set again, or mend the list: xxx",
    ),
    "no query": (
        lambda rows: rows[rows["split"] != "query"],
        " has no query row; a ranking needs query and gallery",
    ),
}


@pytest.mark.parametrize("kind", WRONG_MANIFEST)
def test_a_wrong_manifest(kind: str, desk: Desk) -> None:
    change, expected = WRONG_MANIFEST[kind]
    file = edited(desk, change)
    said = desk.refused("manifest")
    assert re.match(re.escape(str(file)) + expected, said), said
    assert len(said.splitlines()) == 1


# Boxes


def framed(desk: Desk, rows: list[tuple[Any, ...]]) -> None:
    """Frames with people in boxes, as open-metric-learning has them: frame, label, split, query, gallery, box."""
    columns = ["path", "label", "split", "is_query", "is_gallery", "x_1", "y_1", "x_2", "y_2"]
    pd.DataFrame(rows, columns=columns).to_csv(desk.raw / "manifest.csv", index=False)
    for path in {row[0] for row in rows}:
        (desk.raw / path).write_bytes(encoded("RGB", "PNG"))


FRAMES: list[tuple[Any, ...]] = [
    ("train.png", 1, "train", None, None, 0, 0, 8, 16),
    ("train.png", 2, "train", None, None, 8, 0, 16, 16),
    ("one.png", 3, "validation", True, True, 0, 0, 8, 16),
    ("one.png", 4, "validation", True, True, 8, 0, 16, 16),
    ("two.png", 3, "validation", True, True, 0, 0, 8, 16),
    ("two.png", 4, "validation", True, True, 8, 0, 16, 16),
]


def boxed(desk: Desk, row: int, *box: Any) -> None:
    framed(desk, [frame if number != row else (*frame[:5], *box) for number, frame in enumerate(FRAMES)])
    desk.set("      recipe.weights: null", "      recipe.weights: null\n      recipe.protocol.rule: leave_one_out")


def test_frames_with_several_people_are_packed_by_their_boxes(desk: Desk) -> None:
    boxed(desk, 0, *FRAMES[0][5:])
    ended = desk.prepare("manifest")
    assert (ended.code, ended.err) == (0, "")
    assert desk.table("manifest")["box"].tolist() == ["0,0,8,16", "8,0,16,16"] * 3


def test_a_box_out_of_its_image(desk: Desk) -> None:
    """The other person in the frame is not bad, but with this one left out, nobody is like the other 4."""
    boxed(desk, 3, 16, 0, 24, 16)
    first, second = desk.refused("manifest").splitlines()
    assert re.match(rf"1 of 6 images under {desk.raw} cannot be packed; .*skip_bad", first), first
    assert second == (
        "  one.png [16,0,24,16]: has 16 x 32 pixels, and most of its box, (16, 0) to (24, 16), is not in them"
    )
    desk.set("skip_bad: false", "skip_bad: true")
    desk.set("datasets: [manifest]", "datasets: [synthetic]")
    ended = desk.prepare("manifest")
    assert (ended.code, ended.err) == (0, "")
    assert "left out: one.png [16,0,24,16] has 16 x 32 pixels" in ended.out
    assert "warning: 1 of 3 queries have no match by the rule leave_one_out" in ended.out
    assert desk.table("manifest")["path"].tolist() == ["train.png", "train.png", "one.png", "two.png", "two.png"]


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((0, 0, 0, 16), ", line 5, column x_2 is '0', allowed: more than 0, where the box begins"),
        ((0, 0.5, 8, 16), ", line 5, column y_1 is '0.5', allowed: whole numbers"),
        ((0, None, 8, 16), ": a box has x_1, y_1, x_2, y_2, and y_1 is missing; fill it in"),
        ((0, 0, 8, 16), ", line 5, column path: 'one.png' is already in .*manifest.csv, line 4; remove one"),
    ],
)
def test_a_box_that_is_none(box: tuple[Any, ...], said: str, desk: Desk) -> None:
    boxed(desk, 3, *box)
    error = desk.refused("manifest")
    assert re.match(rf"{desk.raw}/manifest.csv(, line 5)?{said}$", error), error


# Queries without a match


def test_no_query_has_a_match_for_want_of_cameras(desk: Desk) -> None:
    edited(desk, lambda rows: rows.drop(columns="camera"))
    assert desk.refused("manifest") == (
        f"{desk.raw}: no query has a match by the rule cross_camera: 6 have theirs in their own camera alone, where "
        f"they are not ranked; mend identities, cameras and splits, or set in the profile's overrides: "
        f"recipe.protocol.rule: query_gallery"
    )
    desk.set("datasets: [manifest]", "datasets: [synthetic]")
    desk.set("      recipe.weights: null", "      recipe.weights: null\n      recipe.protocol.rule: query_gallery")
    ended = desk.prepare("manifest")
    assert (ended.code, ended.err) == (0, "")
    assert "warning: " not in ended.out


def test_no_query_is_anybody_of_the_gallery(desk: Desk) -> None:
    edited(desk, lambda rows: rows.assign(identity=rows["identity"] + 10 * (rows["split"] == "query")))
    assert desk.refused("manifest") == (
        f"{desk.raw}: no query has a match by the rule cross_camera: 6 have an identity of which no other image is "
        f"ranked; mend identities and splits"
    )


def test_some_queries_have_no_match(desk: Desk) -> None:
    """The gallery loses identity 7's images of camera 1, and identity 8 as a whole."""
    edited(
        desk,
        lambda rows: rows[(rows["split"] != "gallery") | ~((rows["identity"] == 8) | rows["path"].isin(gone(rows)))],
    )
    ended = desk.prepare("manifest")
    assert ended.code == 0
    (warning,) = [line for line in ended.out.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(
        "warning: 3 of 6 queries have no match by the rule cross_camera and will not be scored: 2 have an identity of "
        "which no other image is ranked and 1 have theirs in their own camera alone, where they are not ranked: images/"
    )


def gone(rows: pd.DataFrame) -> list[str]:
    return rows.loc[(rows["identity"] == 7) & (rows["camera"] == 1), "path"].tolist()


def test_what_is_left_without_bad_files_has_no_match(desk: Desk) -> None:
    rows = [
        (f"{split}{number}.jpg", 2 if split != "train" else 1, number, split)
        for split in ("train", "query", "gallery")
        for number in (1, 2)
    ]
    pd.DataFrame(rows, columns=["path", "identity", "camera", "split"]).to_csv(desk.raw / "manifest.csv", index=False)
    for path, *_ in rows:
        (desk.raw / path).write_bytes(encoded("RGB", "JPEG"))
    (desk.raw / "gallery1.jpg").write_bytes(b"")
    (desk.raw / "query1.jpg").write_bytes(b"<html>")
    desk.set("skip_bad: false", "skip_bad: true")
    first, second, *left_out = desk.refused("manifest").splitlines()
    assert first.startswith(
        f"{desk.raw}: no query has a match by the rule cross_camera: 1 have theirs in their own camera"
    )
    assert second == "left out, as prepare.skip_bad says:"
    assert [line.split(":")[0].strip() for line in left_out] == ["query1.jpg", "gallery1.jpg"]


# Archives


def zip_slip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Market-1501-v15.09.15/readme.txt", b"hello")
        archive.writestr("../../escaped.txt", b"out")


def tar_bomb(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("Market-1501-v15.09.15/zeros.jpg")
        info.size = 24 * 2**20
        archive.addfile(info, io.BytesIO(bytes(info.size)))


def no_archive(path: Path) -> None:
    path.write_bytes(b"PK?")


def packed(path: Path) -> None:
    miniatures.write("market1501", path.parent.parent / "made")
    shutil.make_archive(str(path).removesuffix(".zip"), "zip", path.parent.parent / "made")


ARCHIVES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "zip-slip": ("zip", zip_slip, "'../../escaped.txt' leads out of the destination; nothing was extracted: get"),
    "tar bomb": ("tar.gz", tar_bomb, r"'Market.*zeros.jpg' .*nothing was extracted: "),
    "more members than are allowed": ("zip", packed, r"'Market-.*prepare\.archives\.members"),
    "no archive": ("zip", no_archive, "is not a whole zip.*: download or copy it again"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_bad_archive_is_not_extracted(kind: str, desk: Desk) -> None:
    suffix, write, said = ARCHIVES[kind]
    archive = desk.raw / f"Market-1501-v15.09.15.{suffix}"
    write(archive)
    if "members" in said:
        desk.set("    members: 1000000", "    members: 10")
    error = desk.refused("market1501")
    assert re.match(rf"{archive}: {said}", error), error
    assert len(error.splitlines()) == 1
    assert not (desk.raw.parent / "escaped.txt").exists()
    assert [path.name for path in desk.raw.iterdir()] == [archive.name]


def test_a_place_that_may_not_be_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(root: Path) -> None:
        raise PermissionError(13, "Permission denied", str(desk.raw))

    monkeypatch.setattr("reid.data.market1501.locate", lambda root, *rest, **more: forbidden(root))
    assert desk.refused("market1501") == (
        f"[Errno 13] Permission denied: '{desk.raw}'; change its owner or permissions"
    )
