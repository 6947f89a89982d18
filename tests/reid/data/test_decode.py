"""Every kind of file that may lie where an image should: what it becomes, or the reason why it is refused."""

import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from reid.data.decode import NOT_READ, Outcome, Source, decode, decoding, state_of

SIZE = (8, 4)
LIMIT = 10_000


def pixels(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def tried(file: Path, size: tuple[int, int] = SIZE, root: Path | None = None) -> tuple[Outcome, bytes]:
    root = root or file.parent
    with decoding():
        source = Source(file.relative_to(root).as_posix(), None)
        return decode(root, source, size, fit="stretch", max_pixels=LIMIT)


def decoded(file: Path, size: tuple[int, int] = SIZE, root: Path | None = None) -> tuple[Outcome, np.ndarray]:
    outcome, row = tried(file, size, root)
    assert outcome.fault == ""
    return outcome, np.frombuffer(row, np.uint8).reshape(*size, 3)


def fault(file: Path, root: Path | None = None) -> str:
    outcome, row = tried(file, root=root)
    assert row == b""
    assert (outcome.height, outcome.width, outcome.turned) == (0, 0, False)
    assert len(outcome.fault.splitlines()) == 1
    return outcome.fault


def test_what_comes_back_of_a_good_image(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(pixels()).save(file)
    outcome, row = decoded(file)
    np.testing.assert_array_equal(row, pixels())
    state = file.stat()
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert outcome == Outcome(sha256, "", 8, 4, False, state.st_size, state.st_mtime_ns)
    assert state_of(file) == outcome.state


def test_resizing_is_bilinear_and_the_size_is_that_of_the_source(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    outcome, row = decoded(tmp_path / "a.png", (16, 6))
    np.testing.assert_array_equal(row, Image.fromarray(pixels()).resize((6, 16), Image.Resampling.BILINEAR))
    assert (outcome.height, outcome.width) == SIZE


KINDS = ("PNG 1", "PNG L", "PNG P", "PNG LA", "PNG RGBA", "JPEG L", "JPEG CMYK", "BMP 1", "BMP L", "BMP P", "WEBP RGBA")


@pytest.mark.parametrize("kind", KINDS)
def test_every_usual_kind_of_image_becomes_rgb(tmp_path: Path, kind: str) -> None:
    suffix, mode = kind.split()
    value = 255 if mode == "1" else 102
    Image.new("RGB", (4, 8), (value,) * 3).convert(mode).save(tmp_path / "a", format=suffix)
    np.testing.assert_allclose(decoded(tmp_path / "a")[1].astype(int), value, atol=1)


def test_the_inverted_inks_of_a_cmyk_jpeg_are_understood(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(decoded(tmp_path / "a.jpg")[1].astype(int), [[[255, 0, 0]] * 4] * 8, atol=3)


@pytest.mark.parametrize("transparency", [None, 1, bytes([255, 128, 0])], ids=["none", "one colour", "many"])
def test_a_palette_gives_its_colours_transparent_or_not(tmp_path: Path, transparency: int | bytes | None) -> None:
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], dtype=np.uint8)
    indices = np.arange(32, dtype=np.uint8).reshape(SIZE) % 3
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colours.tobytes())
    image.putdata(indices.ravel().tolist())
    if transparency is not None:
        image.info["transparency"] = transparency
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded(tmp_path / "a.png")[1], colours[indices])


def test_transparent_pixels_keep_their_stored_colours(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([pixels(), np.zeros(SIZE, np.uint8)])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded(tmp_path / "a.png")[1], pixels())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_an_image_is_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored, file = Image.fromarray(pixels()), tmp_path / "a"
    stored.save(file, format=kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(file) as image:
        expected = ImageOps.exif_transpose(image)
    outcome, row = decoded(file, (expected.height, expected.width))
    np.testing.assert_array_equal(row, expected)
    assert (outcome.height, outcome.width) == ((4, 8) if orientation > 4 else (8, 4))
    assert outcome.turned == (orientation > 1)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"]
)
def test_damaged_exif_data_do_not_make_an_image_bad(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png", exif=exif)
    outcome, row = decoded(tmp_path / "a.png")
    np.testing.assert_array_equal(row, pixels())
    assert not outcome.turned


def test_of_a_phones_jpeg_with_a_second_frame_the_first_is_taken(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (4, 8), (value,) * 3) for value in (50, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    np.testing.assert_allclose(decoded(tmp_path / "a.jpg")[1].astype(int), 50, atol=1)


@pytest.mark.parametrize("name", ["Fußgänger 图像.jpg", "é" * 125 + "x.jpg"])  # the second has 255 bytes
def test_names_that_are_not_ascii_or_as_long_as_can_be(tmp_path: Path, name: str) -> None:
    Image.fromarray(pixels()).save(tmp_path / name, format="PNG")
    np.testing.assert_array_equal(decoded(tmp_path / name)[1], pixels())


def png(width: int, height: int, *, depth: int = 8, data: bytes = b"") -> bytes:
    """A PNG whose header promises these pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def cut(kind: str) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        Image.fromarray(pixels(0, (64, 32))).save(file, format=kind)
        file.write_bytes(file.read_bytes()[:-400])

    return write


def webp_with_a_large_canvas(file: Path) -> None:
    frames = [Image.fromarray(pixels(seed)) for seed in (0, 1)]
    frames[0].save(file, format="WEBP", save_all=True, append_images=frames[1:], lossless=True)
    content = file.read_bytes()
    at = content.index(b"VP8X") + 12
    file.write_bytes(content[:at] + (16_382).to_bytes(3, "little") * 2 + content[at + 6 :])


def large_text(file: Path) -> None:
    text = PngInfo()
    text.add_itxt("Comment", "a" * 2**24, zip=True)
    Image.fromarray(pixels()).save(file, format="PNG", pnginfo=text)
    assert file.stat().st_size < 100_000


def animated(kind: str) -> Callable[[Path], object]:
    frames = [Image.fromarray(pixels(seed)) for seed in (0, 1, 2)]
    return lambda file: frames[0].save(file, format=kind, save_all=True, append_images=frames[1:])


def saved(kind: str, values: np.ndarray) -> Callable[[Path], object]:
    return lambda file: Image.fromarray(values).save(file, format=kind)


def sparse(file: Path) -> None:
    file.touch()
    os.truncate(file, 2**40)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated JPEG": (cut("JPEG"), r"is damaged \(image file is truncated"),
    "truncated PNG": (cut("PNG"), r"is damaged \(image file is truncated"),
    "truncated BMP": (cut("BMP"), r"is damaged \(image file is truncated"),
    "truncated WEBP": (cut("WEBP"), r"is damaged \("),
    "empty": (lambda file: file.write_bytes(b""), "is empty"),
    "web page": (lambda file: file.write_text("<!DOCTYPE html>"), "is not a JPEG, PNG, BMP, WEBP image"),
    "text that begins as a BMP": (lambda file: file.write_text("BM is a text"), "is not a JPEG, PNG, BMP, WEBP image"),
    "GIF": (saved("GIF", pixels()), "is not a JPEG, PNG, BMP, WEBP image"),
    "TIFF": (saved("TIFF", pixels()), "is not a JPEG, PNG, BMP, WEBP image"),
    "16-bit grey": (saved("PNG", np.full(SIZE, 40_000, np.uint16)), "more than 8 bits a channel; convert it to 8"),
    "16-bit RGB": (
        lambda file: file.write_bytes(png(4, 8, depth=16, data=bytes(8 * 25))),
        "more than 8 bits a channel",
    ),
    "animated PNG": (animated("PNG"), r"is animated \(3 frames\); put one frame in its place"),
    "animated WEBP": (animated("WEBP"), r"is animated \(3 frames\)"),
    "PNG of 10 gigapixels": (
        lambda file: file.write_bytes(png(10**5, 10**5)),
        r"has 100000 x 100000 = 10,000,000,000 pixels, more than prepare.max_pixels \(10,000\)",
    ),
    "WEBP of 268 megapixels": (webp_with_a_large_canvas, r"has 16383 x 16383 = 268,402,689 pixels, more than prepare."),
    "PNG with a large text": (large_text, r"is damaged \(ValueError: Decompressed data too large"),
    "file as large as no image": (
        sparse,
        "has 1,099,511,627,776 bytes, more than an image within prepare.max_pixels can have",
    ),
    "missing": (lambda file: None, "No such file"),
    "folder": (Path.mkdir, "Is a directory"),
    "pipe": (os.mkfifo, "is a pipe or a device, not a file"),
    "device": (lambda file: file.symlink_to("/dev/zero"), "is a link to /dev/zero, outside the data set"),
    "link to nothing": (lambda file: file.symlink_to("nothing.png"), "No such file"),
    "link to itself": (lambda file: file.symlink_to(file), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.timeout(60)
def test_a_bad_file_is_told_with_its_reason(tmp_path: Path, kind: str) -> None:
    damage, reason = BAD[kind]
    damage(tmp_path / "a.jpg")
    assert re.search(reason, fault(tmp_path / "a.jpg"))


def test_a_jpeg_cut_anywhere_is_bad(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(buffer, format="JPEG")
    whole, file = buffer.getvalue(), tmp_path / "a.jpg"
    for length in range(0, len(whole) - 2, 7):  # without the two bytes of the end marker all pixels are there
        file.write_bytes(whole[:length])
        assert fault(file)


def test_the_limit_is_that_of_the_setting_not_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (100, 100)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    decoded(file)
    assert Image.MAX_IMAGE_PIXELS == 10
    Image.new("RGB", (101, 100)).save(file)
    assert "has 101 x 100 = 10,100 pixels" in fault(file)


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (4, 8)).save(file)
    file.chmod(0)
    if os.geteuid() == 0:  # who may read everything

        def refuse(path: str, flags: int) -> int:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(os, "open", refuse)
    outcome, _ = tried(file)
    assert outcome.fault == "Permission denied"
    assert outcome.state == NOT_READ


def test_links_within_the_data_set_are_followed(tmp_path: Path) -> None:
    """The folder of a data set may be a link itself; then what is behind it is the data set."""
    home = tmp_path / "disk" / "market"
    (home / "train").mkdir(parents=True)
    (home / "query").mkdir()
    Image.fromarray(pixels()).save(home / "train" / "a.png")
    (home / "query" / "b.png").symlink_to("../train/a.png")
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "market").symlink_to(home)
    for root in (home, tmp_path / "disk", tmp_path / "sets"):
        below = root if root == home else root / "market"
        np.testing.assert_array_equal(decoded(below / "query" / "b.png", root=root)[1], pixels())


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "sets" / "market", tmp_path / "elsewhere"
    (home / "query").mkdir(parents=True)
    elsewhere.mkdir()
    Image.fromarray(pixels()).save(elsewhere / "a.png")
    link = home / "query" / "b.png"
    for target in (elsewhere / "a.png", Path("../../../elsewhere/a.png")):
        link.symlink_to(target)
        for root in (home, home.parent):
            assert fault(link, root=root) == f"is a link to {elsewhere / 'a.png'}, outside the data set"
        link.unlink()
