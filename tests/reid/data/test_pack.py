import hashlib
import json
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.data import manifest as manifests
from reid.data.manifest import Record, SplitName
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
    assert info.digest == manifests.digest(manifest, images.shape)


def test_info_says_what_was_packed(tmp_path: Path) -> None:
    make(tmp_path / "raw")
    info, _ = packed(tmp_path)
    written = json.loads((tmp_path / "data" / "synthetic" / "info.json").read_text())
    assert written == {
        "dataset": "synthetic",
        "name": "Embedded set",
        "digest": info.digest,
        "shape": [8, 8, 4, 3],
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
    assert seen == [(16, 40), (32, 40), (40, 40)]


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


KINDS = ("PNG L", "PNG P", "PNG LA", "PNG RGBA", "JPEG L", "JPEG CMYK", "BMP L", "BMP P", "BMP RGBA", "WEBP RGBA")


@pytest.mark.parametrize("kind", KINDS)
def test_every_usual_kind_of_image_becomes_rgb(tmp_path: Path, kind: str) -> None:
    files = make(tmp_path / "raw")
    suffix, mode = kind.split()
    grey = Image.fromarray(np.full((8, 4), 102, dtype=np.uint8)).convert("RGB")
    grey.convert(mode).save(files[0], format=suffix)
    _, images = packed(tmp_path)
    np.testing.assert_allclose(images[0].astype(int), 102, atol=1)


def truncated_jpeg(file: Path) -> None:
    Image.fromarray(pixels(0, (64, 32))).save(file, format="JPEG")
    file.write_bytes(file.read_bytes()[:-400])


def announce(file: Path, side: int) -> None:
    """A small PNG whose header promises `side` x `side` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    packed_chunks = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed_chunks))


BAD = {
    "truncated JPEG": (truncated_jpeg, "truncated"),
    "text": (lambda file: file.write_text("not an image"), "is not a JPEG, PNG, BMP, WEBP image"),
    "GIF": (lambda file: Image.fromarray(pixels(0)).save(file, format="GIF"), "is not a JPEG, PNG, BMP, WEBP image"),
    "empty": (lambda file: file.write_bytes(b""), "is not a JPEG, PNG, BMP, WEBP image"),
    "missing": (lambda file: file.unlink(), "No such file"),
    "bomb": (lambda file: announce(file, 32_000), "exceeds limit"),
    "large": (lambda file: announce(file, 10_000), "exceeds limit"),  # Pillow itself would only warn
    "16 bits": (
        lambda file: Image.fromarray(np.full((8, 4), 40_000, dtype=np.uint16)).save(file, format="PNG"),
        "more than 8 bits a channel",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_fails_the_packing_with_its_reason(tmp_path: Path, kind: str) -> None:
    damage, reason = BAD[kind]
    file = make(tmp_path / "raw")[2]
    records = read(tmp_path / "raw")
    damage(file)
    folder = tmp_path / "data" / "synthetic"
    with pytest.raises(BadImagesError, match=rf"1 of 8 files.*\n  bounding_box_train/0002_c1.png: .*{reason}"):
        pack(tmp_path / "raw", records, folder, image_size=(16, 8), workers=1)
    assert list(folder.iterdir()) == []


def test_every_bad_file_is_listed(tmp_path: Path) -> None:
    files = make(tmp_path / "raw")
    files[1].write_text("no")
    truncated_jpeg(files[6])
    with pytest.raises(BadImagesError) as caught:
        packed(tmp_path)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  bounding_box_train/0001_c2.png",
        "  bounding_box_test/0000_c3.png",
    ]


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
    assert info.digest == manifests.digest(manifest, images.shape)
    written = json.loads((tmp_path / "data" / "synthetic" / "info.json").read_text())
    assert written["skipped"] == [
        {"path": "bounding_box_train/0001_c2.png", "reason": "is not a JPEG, PNG, BMP, WEBP image"},
        {"path": "bounding_box_test/0000_c3.png", "reason": "is not a JPEG, PNG, BMP, WEBP image"},
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
    with pytest.raises(BadImagesError, match="none of the 8 files"):
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
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from reid.data.market1501 import read
from reid.data.pack import pack
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
def progress(done, total):
    os.kill(os.getpid(), signal.SIGKILL)
pack(root, read(root), folder, image_size=(8, 4), workers=1, progress=progress)
"""


def test_a_kill_leaves_nothing_half_written_and_can_be_repeated(tmp_path: Path) -> None:
    make(tmp_path / "raw")
    folder = tmp_path / "data" / "synthetic"
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "raw", folder], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [file.name for file in folder.iterdir()] == [".images.npy.tmp"]
    packed(tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["images.npy", "info.json", "manifest.parquet"]


def test_a_kill_between_the_files_reads_as_not_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "raw")
    packed(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifests, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path)
    assert not (tmp_path / "data" / "synthetic" / "info.json").exists()
