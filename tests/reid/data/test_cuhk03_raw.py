"""cuhk-03.mat becomes the folder that its reader reads, or one line says why not and nothing is left behind."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from reid.data import cuhk03, cuhk03_raw
from reid.data.archives import ArchiveError, Limits
from reid.data.cuhk03 import Boxes
from reid.data.manifest import Record, tabulate
from tests.conftest import ROOT
from tests.reid.data import matwriter, miniatures

KINDS: tuple[Boxes, ...] = ("detected", "labeled")
PROTOCOL = "cuhk03_new_protocol_config_detected.mat"
RAW = "cuhk03/cuhk03_release/cuhk-03.mat"
NAME = "1_001_1_01.png"  # the first image that is read
STORED = f"#refs#/detected{NAME}"  # where it is in the miniature
Pixels = npt.NDArray[np.uint8]


def extract(root: Path, out: Path, boxes: Boxes = "detected", *, limits: Limits = Limits(), **changes: Any) -> None:  # noqa: B008
    found = changes.pop("source", None) or cuhk03_raw.find(root)
    assert found is not None
    progress = changes.pop("progress", lambda done, total: None)
    cuhk03_raw.extract(found, out, root=root, boxes=boxes, limits=limits, progress=progress)


def refused(root: Path, said: str, **changes: Any) -> None:
    """It is refused in one line that names the source, and the tree is as it was."""
    before = tree(root)
    source = changes.get("source") or cuhk03_raw.find(root)
    with pytest.raises(ArchiveError) as caught:
        extract(root, root / "out", **changes)
    message = str(caught.value)
    assert said in message
    assert message.startswith(f"{source}: ")
    assert "\n" not in message
    assert tree(root) == before


def tree(root: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in root.rglob("*") if not path.is_dir()}


def contents(root: Path, records: list[Record]) -> list[tuple[str, int, int, bytes]]:
    """What a trial sees of records: all but the paths."""

    def pixels(path: str) -> bytes:
        with Image.open(root / path) as image:
            return np.asarray(image.convert("RGB")).tobytes()

    return sorted((r.split, r.identity, r.camera, pixels(r.path)) for r in records)


@pytest.mark.parametrize("boxes", KINDS)
def test_the_forms_hold_the_same_images(tmp_path: Path, boxes: Boxes) -> None:
    """Market-1501's folders, images beside the protocol's file, and cuhk-03.mat: the same but for the paths."""
    raw = miniatures.write_raw(f"cuhk03_{boxes}", tmp_path / "raw")
    extract(tmp_path / "raw", tmp_path / "out", boxes)
    found = cuhk03.read(tmp_path / "out", boxes=boxes)
    assert tabulate(found).equals(tabulate(raw))
    folders = miniatures.write(f"cuhk03_{boxes}", tmp_path / "folders")
    assert contents(tmp_path / "out", found) == contents(tmp_path / "folders", folders)
    (tmp_path / "images").mkdir()
    miniatures.cuhk03_protocol(tmp_path / "images", boxes)
    beside = cuhk03.read(tmp_path / "images", boxes=boxes)
    assert tabulate(found).equals(tabulate(beside))
    assert contents(tmp_path / "out", found) == contents(tmp_path / "images", beside)


def test_only_images_of_the_protocol_are_written(tmp_path: Path) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    extract(tmp_path, tmp_path / "out")
    protocol = tmp_path / "cuhk03" / PROTOCOL
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [PROTOCOL, "images_detected"]
    assert (tmp_path / "out" / PROTOCOL).read_bytes() == protocol.read_bytes()
    written = {path.name for path in (tmp_path / "out" / "images_detected").iterdir()}
    assert written == {image.name for image in cuhk03.listed(protocol)}
    assert "1_010_1_01.png" not in written


def test_an_image_is_transposed_back(tmp_path: Path) -> None:
    """Person 2's third image of camera 2, written out: column 8 of MATLAB's cell, [height, width, 3] there."""
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(4, 2, 3)
    protocol_of(tmp_path, {"3_002_2_08.png": image})
    extract(tmp_path, tmp_path / "out")
    with Image.open(tmp_path / "out" / "images_detected" / "3_002_2_08.png") as written:
        assert written.size == (2, 4)
        assert written.getpixel((1, 3)) == tuple(image[3, 1])
        np.testing.assert_array_equal(np.asarray(written), image)


def protocol_of(root: Path, images: dict[str, Pixels], *, named: list[str] | None = None) -> Path:
    """cuhk-03.mat with these detected images and a protocol's file that names them, or others."""
    names = list(images) if named is None else named
    (root / RAW).parent.mkdir(parents=True)
    miniatures.cuhk03_mat(root / RAW, {"detected": images})
    one = np.array([[1]], "u1")
    labels, parts = np.ones((len(names), 1), "u1"), np.arange(1, len(names) + 1, dtype="u2")[:, None]
    variables = {"filelist": names, "labels": labels, "train_idx": parts, "query_idx": one, "gallery_idx": one}
    matwriter.write(root / "cuhk03" / PROTOCOL, variables)
    return root / RAW


@pytest.mark.parametrize("home", ["cuhk03", "CUHK03", "cuhk03_new", "CUHK03_New", "."])
@pytest.mark.parametrize("raw", ["cuhk03_release/cuhk-03.mat", "cuhk-03.mat"])
@pytest.mark.parametrize("beside", ["raw", "home", "root"])
def test_where_people_put_the_files(tmp_path: Path, home: str, raw: str, beside: str) -> None:
    expected = miniatures.write_raw("cuhk03_detected", tmp_path)
    source = tmp_path / home / raw
    source.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / RAW).rename(source)
    folder = {"raw": source.parent, "home": tmp_path / home, "root": tmp_path}[beside]
    (tmp_path / "cuhk03" / PROTOCOL).rename(folder / PROTOCOL)
    assert cuhk03_raw.find(tmp_path) == source
    extract(tmp_path, tmp_path / "out")
    assert tabulate(cuhk03.read(tmp_path / "out", boxes="detected")).equals(tabulate(expected))


def stored_anew(file: h5py.File, image: Pixels, **how: Any) -> None:
    """Store the first image in another way."""
    del file[STORED]
    refer(file, file.create_dataset(STORED, data=image.transpose(2, 1, 0), **how))


def refer(file: h5py.File, target: Any) -> None:
    cell = file[file["detected"][0, 0]]
    cell[0, 0] = target.ref if target is not None else h5py.Reference()


def without_filter(file: h5py.File, image: Pixels) -> None:
    """HDF5 leaves out a filter that does not help, and notes that with the chunk."""
    del file[STORED]
    data = np.ascontiguousarray(image.transpose(2, 1, 0))
    stored = file.create_dataset(STORED, data.shape, "u1", chunks=data.shape, compression="gzip")
    stored.id.write_direct_chunk((0, 0, 0), data.tobytes(), filter_mask=1)
    refer(file, stored)


STORAGE: dict[str, Callable[[h5py.File, Pixels], None]] = {
    "contiguous": stored_anew,
    "chunks": lambda file, image: stored_anew(file, image, chunks=(2, 5, 7)),
    "deflated chunks": lambda file, image: stored_anew(file, image, chunks=(2, 5, 7), compression="gzip"),
    "shuffled": lambda file, image: stored_anew(file, image, chunks=(3, 16, 8), compression="gzip", shuffle=True),
    "growing": lambda file, image: stored_anew(file, image, chunks=(3, 64, 64), maxshape=(None, None, None)),
    "filter left out": without_filter,
}


@pytest.mark.parametrize("how", STORAGE)
def test_however_hdf5_stores_an_image(tmp_path: Path, how: str) -> None:
    images = {NAME: np.random.default_rng(0).integers(0, 256, (33, 17, 3), dtype=np.uint8)}
    with h5py.File(protocol_of(tmp_path, images), "r+") as file:
        STORAGE[how](file, images[NAME])
        np.testing.assert_array_equal(file[STORED][()], images[NAME].transpose(2, 1, 0))
    extract(tmp_path, tmp_path / "out")
    with Image.open(tmp_path / "out" / "images_detected" / NAME) as written:
        np.testing.assert_array_equal(np.asarray(written), images[NAME])


def test_progress_counts_images(tmp_path: Path) -> None:
    count = len(miniatures.write_raw("cuhk03_detected", tmp_path))
    seen: list[tuple[int, int]] = []
    extract(tmp_path, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, count) for done in range(1, count + 1)]


def test_a_second_run_writes_nothing(tmp_path: Path) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    extract(tmp_path, tmp_path / "out")
    before = tree(tmp_path)
    extract(tmp_path, tmp_path / "out", progress=lambda done, total: pytest.fail("it extracts again"))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (lambda out: (out / "images_detected" / NAME).unlink(), f"images_detected/{NAME}"),
        (lambda out: (out / PROTOCOL).unlink(), PROTOCOL),
        (lambda out: (out / PROTOCOL).write_bytes(b"another"), PROTOCOL),
        (lambda out: (out / "images_detected").rename(out / "images"), "images_detected/1_001_1_01.png"),
    ],
)
def test_a_folder_that_holds_something_else_is_left_alone(
    tmp_path: Path, change: Callable[[Path], None], lacking: str
) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    extract(tmp_path, tmp_path / "out")
    change(tmp_path / "out")
    refused(tmp_path, f"{tmp_path / 'out'} is there already, but without its {lacking}; move that folder away")


KILLED = f"""
import os, signal, sys
from pathlib import Path
from reid.data import cuhk03_raw
from reid.data.archives import Limits
def progress(done, total):
    if done == 20:
        os.kill(os.getpid(), signal.SIGKILL)
root = Path(sys.argv[1])
cuhk03_raw.extract(root / {RAW!r}, root / "out", root=root, boxes="detected", limits=Limits(), progress=progress)
"""


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    expected = miniatures.write_raw("cuhk03_detected", tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out*/**/*.png"))) == 20
    extract(tmp_path, tmp_path / "out")
    assert tabulate(cuhk03.read(tmp_path / "out", boxes="detected")).equals(tabulate(expected))
    assert not list(tmp_path.glob(".*"))


def test_a_second_process_is_told_to_wait(tmp_path: Path) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    told = []

    def second(done: int, total: int) -> None:
        if done == 2:
            with pytest.raises(ArchiveError, match="another process is extracting there; wait for it to end") as caught:
                extract(tmp_path, tmp_path / "out")
            told.append(caught)

    extract(tmp_path, tmp_path / "out", progress=second)
    assert told
    assert len(list((tmp_path / "out" / "images_detected").iterdir())) == 36


def test_the_first_fault_by_name_is_the_one_that_is_said(tmp_path: Path) -> None:
    names = [NAME, *(f"1_001_2_{number:02}.png" for number in range(10, 5, -1)), "1_001_1_05.png", "1_001_1_03.png"]
    protocol_of(tmp_path, {NAME: np.zeros((4, 2, 3), np.uint8)}, named=names)
    refused(tmp_path, ": 1_001_1_03.png: detected{1}{1,3} is empty, or no image")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    plain, calls = Image.Image.save, itertools.count()

    def save(image: Image.Image, path: Path) -> None:
        if next(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        plain(image, path)

    monkeypatch.setattr(Image.Image, "save", save)
    refused(tmp_path, f"cannot be extracted to {tmp_path / 'out'} ([Errno 28] No space left on device")


def zipped(root: Path, *names: str) -> Path:
    """The archive that the set is handed out in, in place of the files that go into it."""
    archive = root / "CUHK03_release.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("cuhk03_release/README.md", "about")
        for name in names:
            file.write(root / "cuhk03" / name, name)
            (root / "cuhk03" / name).unlink()
    return archive


@pytest.mark.parametrize("inside", [[], [PROTOCOL]])
def test_the_archive_of_the_raw_set(tmp_path: Path, inside: list[str]) -> None:
    """The protocol's file comes from elsewhere, but some have packed it with the images."""
    expected = miniatures.write_raw("cuhk03_detected", tmp_path)
    archive = zipped(tmp_path, "cuhk03_release/cuhk-03.mat", *inside)
    assert cuhk03_raw.find(tmp_path) == archive
    before = tree(tmp_path)
    for _ in range(2):
        extract(tmp_path, tmp_path / "out")
        assert tabulate(cuhk03.read(tmp_path / "out", boxes="detected")).equals(tabulate(expected))
        new = {path.relative_to(tmp_path).parts[0] for path in tree(tmp_path).keys() - before.keys()}
        assert new == {"out"}


def test_an_archive_without_the_raw_set(tmp_path: Path) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    archive = zipped(tmp_path, PROTOCOL)
    refused(tmp_path, "holds no cuhk-03.mat; nothing was extracted", source=archive)


def test_an_archive_over_the_limits(tmp_path: Path) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    zipped(tmp_path, "cuhk03_release/cuhk-03.mat")
    with pytest.raises(ArchiveError, match="one member too many: at most 1 are extracted"):
        extract(tmp_path, tmp_path / "out", limits=Limits(members=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CUHK03_release.zip", "cuhk03"]


@pytest.mark.parametrize("home", ["cuhk03", "."])
def test_without_the_protocol_s_file(tmp_path: Path, home: str) -> None:
    miniatures.write_raw("cuhk03_labeled", tmp_path)
    (tmp_path / "cuhk03").rename(tmp_path / "aside")
    (tmp_path / home).mkdir(exist_ok=True)
    (tmp_path / "aside" / "cuhk03_release").rename(tmp_path / home / "cuhk03_release")
    said = f"put the new protocol's file at {tmp_path / home / PROTOCOL} (it is in the repository of the paper"
    refused(tmp_path, said)


def test_a_protocol_s_file_that_is_not_one(tmp_path: Path) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    (tmp_path / "cuhk03" / PROTOCOL).write_text("<html>")
    with pytest.raises(ValueError, match=f"{PROTOCOL} is not a MATLAB file of version 5"):
        extract(tmp_path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["cuhk03"]


@pytest.mark.parametrize(
    "change",
    [lambda data: b"", lambda data: b"<html>not found</html>", lambda data: data[:-100], lambda data: data[:3000]],
    ids=["empty", "html", "short", "cut"],
)
def test_a_file_that_is_not_whole_hdf5(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    (tmp_path / RAW).write_bytes(change((tmp_path / RAW).read_bytes()))
    refused(tmp_path, "it is not a whole MATLAB 7.3 (HDF5) file: ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("6_001_1_01.png", "there is no cell detected{6}{1,1}"),
        ("0_001_1_01.png", "there is no cell detected{0}{1,1}"),
        ("1_002_1_01.png", "there is no cell detected{1}{2,1}"),
        ("1_000_1_01.png", "there is no cell detected{1}{0,1}"),
        ("1_001_2_11.png", "there is no cell detected{1}{1,11}"),
        ("1_001_1_00.png", "there is no cell detected{1}{1,0}"),
        ("1_001_2_05.png", "number 5 is not of camera 2"),
        ("1_001_1_06.png", "number 6 is not of camera 1"),
        ("1_001_2_07.png", "detected{1}{1,7} is empty, or no image"),
    ],
)
def test_a_name_without_an_image(tmp_path: Path, name: str, said: str) -> None:
    protocol_of(tmp_path, {NAME: np.zeros((4, 2, 3), np.uint8)}, named=[NAME, name])
    refused(tmp_path, f"{name}: {said}; nothing was extracted: get cuhk-03.mat and the protocol's file from")


def replaced(name: str, **how: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **how)

    return change


def linked(link: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.move("detected", "other")
        file["detected"] = link

    return change


def group(file: h5py.File) -> None:
    file.move("detected", "other")
    file.create_group("detected")


def pair(shape: tuple[int, ...]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file["#refs#/pair"] = np.full(shape, file[STORED].ref, h5py.ref_dtype)
        file["detected"][0, 2] = file["#refs#/pair"].ref

    return change


def null_pair(file: h5py.File) -> None:
    file["detected"][0, 2] = h5py.Reference()


def packed_pair(file: h5py.File) -> None:
    """References in one piece of a size that only a bomb has."""
    cell = file.create_dataset("#refs#/pair", (10, 5), h5py.ref_dtype, chunks=(10, 9999), maxshape=(10, None))
    file["detected"][0, 2] = cell.ref


def bulky_pair(file: h5py.File) -> None:
    """References of 400 bytes that take 200,000: inflated they might be a thousand times as much."""
    cell = file.create_dataset("#refs#/pair", (10, 5), h5py.ref_dtype, chunks=(10, 5), compression="gzip")
    cell.id.write_direct_chunk((0, 0), bytes(200_000))
    file["detected"][0, 2] = cell.ref


CELLS: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "missing": (lambda file: file.move("detected", "x\nz"), r"detected: there is none; it has: '#refs#', 'x\nz'"),
    "a group": (group, "detected is no cell array of two dimensions"),
    "numbers": (replaced("detected", data=np.zeros((1, 5))), "detected is no cell array of two dimensions"),
    "nothing": (replaced("detected", data=h5py.Empty(h5py.ref_dtype)), "detected is no cell array"),
    "regions": (replaced("detected", shape=(1, 5), dtype=h5py.regionref_dtype), "detected is no cell array"),
    "one dimension": (replaced("detected", shape=(5,), dtype=h5py.ref_dtype), "is no cell array of two dimensions"),
    "four pairs": (replaced("detected", shape=(1, 4), dtype=h5py.ref_dtype), "has 4 cells, 5 are expected"),
    "a null pair": (null_pair, "its variable detected: "),
    "a pair of nines": (pair((9, 3)), "detected{3} is (9, 3), (10, persons) is expected"),
    "a crowd": (pair((10, 1000)), "detected{3} is (10, 1000), at most 999 persons are read"),
    "a pair in pieces": (packed_pair, "detected{3} is stored in pieces of (10, 9999), more than are read"),
    "a bulky pair": (bulky_pair, "detected{3} takes 200,000 bytes, more than references do"),
    "another file": (linked(h5py.ExternalLink("secret.h5", "/detected")), "detected: there is none; it has: "),
    "a soft link": (linked(h5py.SoftLink("/other")), "detected: there is none; it has: "),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_variable_that_is_not_as_it_should_be(tmp_path: Path, case: str) -> None:
    change, said = CELLS[case]
    with h5py.File(protocol_of(tmp_path, {NAME: np.zeros((4, 2, 3), np.uint8)}), "r+") as file:
        change(file)
    (tmp_path / "cuhk03/cuhk03_release/secret.h5").write_bytes((tmp_path / RAW).read_bytes())
    refused(tmp_path, said.replace("\n", " "))


def stored(**how: Any) -> Callable[[h5py.File], None]:
    """The first image is this data set instead."""

    def change(file: h5py.File) -> None:
        del file[STORED]
        refer(file, file.create_dataset(STORED, **how))

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 2, 4), "u1")
    layout[:] = h5py.VirtualSource("secret.h5", STORED, shape=(3, 2, 4))
    refer(file, file.create_virtual_dataset("virtual", layout))


def chunked(content: bytes) -> Callable[[h5py.File], None]:
    """The image's only chunk is these bytes."""

    def change(file: h5py.File) -> None:
        del file[STORED]
        image = file.create_dataset(STORED, (3, 2, 4), "u1", chunks=(3, 2, 4), compression="gzip")
        image.id.write_direct_chunk((0, 0, 0), content)
        refer(file, image)

    return change


def grown(file: h5py.File) -> None:
    """The chunks of what has been added are not there: HDF5 would say zeros."""
    stored(data=np.zeros((3, 2, 4), np.uint8), chunks=(3, 2, 4), maxshape=(3, 2, None))(file)
    file[STORED].resize((3, 2, 8))


IMAGES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "floats": (stored(data=np.zeros((3, 2, 4))), "is float64 (3, 2, 4), uint8 (3, width, height) is expected"),
    "four channels": (stored(data=np.zeros((4, 2, 4), "u1")), "is uint8 (4, 2, 4), uint8 (3, width, height)"),
    "no pixel": (stored(shape=(3, 0, 4), dtype="u1"), "is uint8 (3, 0, 4), uint8 (3, width, height) is expected"),
    "grey": (stored(data=np.zeros((2, 4), "u1")), "detected{1}{1,1} is empty, or no image"),
    "text": (stored(data="image"), "detected{1}{1,1} is empty, or no image"),
    "a group": (lambda file: refer(file, file["#refs#"]), "detected{1}{1,1} is empty, or no image"),
    "null": (lambda file: refer(file, None), f"{NAME}: "),
    "huge": (stored(shape=(3, 2000, 2001), dtype="u1"), "has 4,002,000 pixels, more than the 4,000,000 that are read"),
    "vast": (stored(shape=(3, 1 << 30, 1 << 30), dtype="u1", chunks=(1, 9, 9)), "pixels, more than the 4,000,000"),
    "huge pieces": (
        stored(shape=(3, 2, 4), dtype="u1", chunks=(3, 4000, 4000), maxshape=(None, None, None)),
        "is stored in pieces of (3, 4000, 4000), more than are read",
    ),
    "external": (
        stored(shape=(3, 2, 4), dtype="u1", external=[("secret.h5", 0, 24)]),
        "detected{1}{1,1} lies in another file",
    ),
    "virtual": (virtual, "detected{1}{1,1} lies in another file"),
    "another filter": (
        stored(data=np.zeros((3, 2, 4), "u1"), compression="lzf"),
        "is packed in a way that MATLAB does not use (filter 32000)",
    ),
    "checksums": (stored(data=np.zeros((3, 2, 4), "u1"), fletcher32=True), "does not use (filter 3)"),
    "never written": (stored(shape=(3, 2, 4), dtype="u1"), "it is not whole"),
    "no pieces": (stored(shape=(3, 2, 4), dtype="u1", chunks=(3, 2, 4)), "its piece at (0, 0, 0) is not there"),
    "a lacking piece": (grown, "its piece at (0, 0, 4) is not there"),
    "a large piece": (chunked(bytes(5000)), "its piece at (0, 0, 0) is not there, or too large"),
    "no stream": (chunked(b"plain"), "Error -3 while decompressing data: incorrect header check"),
    "half a stream": (chunked(zlib.compress(bytes(24))[:-5]), "it ends early, or is larger than declared"),
    "a short stream": (chunked(zlib.compress(bytes(23))), "its piece at (0, 0, 0) has 23 bytes, 24 are expected"),
    "a long stream": (chunked(zlib.compress(bytes(26))), "it ends early, or is larger than declared"),
    "a longer stream": (chunked(zlib.compress(bytes(25))), "its piece at (0, 0, 0) has 25 bytes, 24 are expected"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_is_not_as_it_should_be(tmp_path: Path, case: str) -> None:
    change, said = IMAGES[case]
    protocol_of(tmp_path, {NAME: np.zeros((4, 2, 3), np.uint8)})
    (tmp_path / "cuhk03/cuhk03_release/secret.h5").write_bytes((tmp_path / RAW).read_bytes())
    with h5py.File(tmp_path / RAW, "r+") as file:
        change(file)
    refused(tmp_path, f": {NAME}: ")
    refused(tmp_path, said)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """A piece of 300 kB that inflates to 64 MB: within what may be packed; HDF5's own filter would allocate it all."""
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    protocol_of(tmp_path, {NAME: np.zeros((4, 2, 3), np.uint8)})
    with h5py.File(tmp_path / RAW, "r+") as file:
        stored(shape=(3, 300, 300), dtype="u1", chunks=(3, 300, 300), compression="gzip")(file)
        file[STORED].id.write_direct_chunk((0, 0, 0), bomb)
    tracemalloc.start()
    refused(tmp_path, f"{NAME}: it ends early, or is larger than declared")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_references_that_are_packed_are_read(tmp_path: Path) -> None:
    expected = miniatures.write_raw("cuhk03_detected", tmp_path)
    with h5py.File(tmp_path / RAW, "r+") as file:
        cell = file[file["detected"][0, 0]][()]
        packed = file.create_dataset("#refs#/packed", data=cell, chunks=(4, 3), compression="gzip", shuffle=True)
        file["detected"][0, 0] = packed.ref
    extract(tmp_path, tmp_path / "out")
    assert tabulate(cuhk03.read(tmp_path / "out", boxes="detected")).equals(tabulate(expected))


@pytest.mark.parametrize("limits", [Limits(gigabytes=2e-3, ratio=1e6), Limits(ratio=1)])
def test_one_image_in_all_cells_is_a_bomb_too(tmp_path: Path, limits: Limits) -> None:
    """20 images of 1 MB each (21.6 MB in all), of which the file holds one, packed."""
    names = [f"1_{person:03}_1_01.png" for person in range(1, 21)]
    protocol_of(tmp_path, {name: np.zeros((1, 1, 3), np.uint8) for name in names})
    with h5py.File(tmp_path / RAW, "r+") as file:
        file.create_dataset("#refs#/one", data=np.zeros((3, 600, 600), "u1"), compression="gzip")
        cell = file[file["detected"][0, 0]]
        cell[0, :] = [file["#refs#/one"].ref] * 20
    refused(tmp_path, "more than prepare.archives.gigabytes and prepare.archives.ratio allow", limits=limits)
    extract(tmp_path, tmp_path / "out", limits=Limits(ratio=1000))


def outcome(root: Path, out: Path) -> str:
    try:
        extract(root, out)
    except ArchiveError as error:
        return str(error)
    return ""


def test_random_damage_is_found_or_harmless(tmp_path: Path) -> None:
    """Whatever bytes change, one line is the answer, or images of the right number."""
    miniatures.write_raw("cuhk03_detected", tmp_path)
    good, rng = (tmp_path / RAW).read_bytes(), np.random.default_rng(0)
    found = 0
    for attempt in range(60):
        content = bytearray(good)
        for at in rng.integers(512, 6000 if attempt % 2 else len(good) - 8, 4):
            content[at : at + 8] = rng.bytes(8)
        (tmp_path / RAW).write_bytes(content)
        out = tmp_path / str(attempt)
        said = outcome(tmp_path, out)
        assert out.exists() == (not said)
        assert not said or (said.startswith(f"{tmp_path / RAW}: ") and "\n" not in said)
        assert said or len(cuhk03.read(out, boxes="detected")) == 36
        assert not list(tmp_path.glob(".*"))
        found += bool(said)
    assert found > 10


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(tmp_path, "h5py, which reads it, is not installed; `pip install h5py`, or use the folders of CUHK03-NP")


def test_readers_need_no_h5py() -> None:
    code = "import sys; sys.modules['h5py'] = None; import reid.data.readers"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)
