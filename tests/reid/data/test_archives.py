"""Hostile and broken archives leave nothing behind; good ones come out whole, in every format."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reid.data import archives
from reid.data.archives import ArchiveError, Limits, find_archive
from tests.conftest import ROOT

FORMATS = ("zip", "tar", "tar.gz", "tgz", "tar.xz")
FILES = {"readme.txt": b"hello", "set/query/0001_c1.jpg": b"one" * 50, "set/train/0002_c2.jpg": b""}


def extract(archive: Path, destination: Path, **settings: Any) -> list[Path]:
    """As the function under test, within the limits that a user has who sets none."""
    return archives.extract(archive, destination, **({"limits": Limits()} | settings))


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    """An archive of the format that its suffix says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    return tar(path, *(member(name, content) for name, content in files.items()))


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    mode = {"tar": "w", "gz": "w:gz", "tgz": "w:gz", "xz": "w:xz"}[path.name.rpartition(".")[2]]
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive: Path, said: str, **limits: float) -> str:
    """The archive is refused in one line that names it, and leaves no trace."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(ArchiveError, match=said) as caught:
        extract(archive, archive.parent / "out", limits=Limits(**limits))  # type: ignore[arg-type]
    line = str(caught.value)
    assert line.startswith(f"{archive}: ")
    assert len(line.splitlines()) == 1
    assert sorted(archive.parent.rglob("*")) == before
    return line


@pytest.mark.parametrize("kind", FORMATS)
def test_files_come_out_as_they_went_in(tmp_path: Path, kind: str) -> None:
    archive = pack(tmp_path / f"set.{kind}", FILES)
    out = tmp_path / "data" / "out"
    assert extract(archive, out) == [out / name for name in FILES]
    assert contents(out) == FILES
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_format_is_read_from_the_content_not_the_name(tmp_path: Path, kind: str) -> None:
    archive = pack(tmp_path / f"set.{kind}", FILES).rename(tmp_path / "download")
    extract(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/\\:"), min_size=1)
TREES = st.dictionaries(
    st.lists(
        NAMES.filter(
            lambda name: name not in (".", "..", "__MACOSX") and name[:2] != "._" and len(name.encode()) <= 255
        ),
        min_size=1,
        max_size=3,
    ).map("/".join),
    st.binary(max_size=50),
    min_size=1,
    max_size=4,
).filter(lambda tree: not any(one.startswith(f"{other}/") for one in tree for other in tree))


@given(tree=TREES, kind=st.sampled_from(FORMATS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_of_plain_names_comes_out(
    tree: dict[str, bytes], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    extract(pack(folder / f"set.{kind}", tree), folder / "out")
    assert contents(folder / "out") == tree


@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_are_not_ascii_or_as_long_as_can_be(tmp_path: Path, kind: str) -> None:
    longest = "é" * 125 + "x.jpg"  # 255 bytes
    files = {f"图像/{longest}": b"1", "Fußgänger/größe 1.jpg": b"2"}
    extract(pack(tmp_path / f"set.{kind}", files), tmp_path / "out")
    assert contents(tmp_path / "out") == files


@pytest.mark.parametrize("kind", FORMATS)
def test_a_longer_name_is_refused(tmp_path: Path, kind: str) -> None:
    refused(pack(tmp_path / f"set.{kind}", {"a/" + "x" * 256: b"1"}), r"has a name of more than 255 bytes; nothing was")


UNSAFE = {
    "../evil": "leads out of the destination",
    "set/../../evil": "leads out of the destination",
    "set/..": "leads out of the destination",
    "__MACOSX/../../evil": "leads out of the destination",
    "/etc/evil": "has an absolute path",
    "//evil": "has an absolute path",
    "C:/evil": "has an absolute path",
    "c:evil": "has an absolute path",
    "C:\\evil": "has an absolute path",
    "..\\evil": "has a backslash in its name",
    "set\\evil": "has a backslash in its name",
    "new\nline": "has a control character in its name",
}


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    inner = tmp_path / "deep" / "inner"
    inner.mkdir(parents=True)
    line = refused(pack(inner / f"set.{kind}", {"good": b"1", name: b"evil"}), UNSAFE[name])
    assert repr(name) in line
    assert not list(tmp_path.rglob("evil"))


def test_a_nul_in_a_name_does_not_shorten_it(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.zip", {"a.jpg_x": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"a.jpg_x", b"a.jpg\0x"))
    refused(archive, "control character")
    archive = tar(tmp_path / "set.tar", member("x", b"1", pax_headers={"path": "a.jpg\0x"}))
    refused(archive, "control character")


LINKS: dict[str, dict[str, Any]] = {
    "symbolic link": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "hard link": {"type": tarfile.LNKTYPE, "linkname": "good"},
    "character device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "block device": {"type": tarfile.BLKTYPE},
    "pipe": {"type": tarfile.FIFOTYPE},
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: str) -> None:
    refused(
        tar(tmp_path / "set.tar", member("good", b"1"), member("bad", **LINKS[kind])),
        "'bad' is a link, a device or a sparse file",
    )


def test_a_file_behind_a_link_to_elsewhere_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = member("set", type=tarfile.SYMTYPE, linkname=str(tmp_path / "elsewhere"))
    refused(tar(tmp_path / "set.tar", link, member("set/evil", b"1")), "'set' is a link")


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}
    refused(tar(tmp_path / "set.tar", member("bad", b"1", pax_headers=sparse)), "sparse file")


@pytest.mark.parametrize("mode", [0o120777, 0o060644, 0o010644, 0o140644])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, mode: int) -> None:
    info = zipfile.ZipInfo("bad")
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "set.zip", "'bad' is a link or a device")


def test_an_encrypted_zip_is_refused_with_what_to_do(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.zip", {"a.jpg": b"1"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    archive.write_bytes(content)
    refused(archive, "'a.jpg' is encrypted; nothing was extracted: unpack it yourself, with its password")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "names", [("a", "a"), ("a/b", "a//b"), ("a", "./a"), ("a", "a/b"), ("a", "a/b/c"), ("a/b", "a")]
)
def test_two_members_in_one_place_are_refused(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    path = tmp_path / f"set.{kind}"
    if kind == "tar":
        tar(path, *(member(name, b"1") for name in names))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"1")
    refused(path, f"{names[1]!r} has the place of another member")


@pytest.mark.parametrize("kind", FORMATS)
def test_what_macos_adds_is_passed_over(tmp_path: Path, kind: str) -> None:
    added = {"__MACOSX/set/._a.jpg": b"x", "set/._a.jpg": b"x", "._set": b"x", "set/__MACOSX/b.jpg": b"x"}
    extract(pack(tmp_path / f"set.{kind}", added | FILES), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_folders_are_made_for_their_files_only(tmp_path: Path) -> None:
    folders = [member("./", type=tarfile.DIRTYPE), member("./empty/", type=tarfile.DIRTYPE)]
    extract(tar(tmp_path / "set.tar", *folders, member("./a/b", b"1")), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["a", "b"]


def test_modes_are_plain(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    extract(
        tar(tmp_path / "set.tar", member("tool", b"1", mode=0o6777), member("shut", b"1", mode=0)), tmp_path / "out"
    )
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_a_bomb_is_refused_before_it_is_written(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 2**20)
    archive = pack(tmp_path / f"set.{kind}", {"zeros": bytes(2 * 2**20)})
    monkeypatch.setattr(archives, "_write", None)  # it does not get that far
    refused(archive, r"'zeros' brings the total to 2,097,152 bytes, over 50 times the archive's size")


def test_a_bomb_of_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 2**20)
    kernel = {f"{number}": bytes(2**18) for number in range(9)}
    refused(pack(tmp_path / "set.zip", kernel), "'4' brings the total to 1,310,720 bytes, over 50 times")


def test_a_zip_whose_members_share_their_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 0)
    archive = pack(tmp_path / "set.zip", {"a": os.urandom(4000)})
    content = archive.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry, tail = content[start:end], bytearray(content[end:])
    tail[8:12] = (200).to_bytes(2, "little") * 2
    tail[12:16] = (200 * len(entry)).to_bytes(4, "little")
    archive.write_bytes(content[:start] + entry * 200 + tail)
    refused(archive, "has the place of another member|over 50 times")


def test_lists_in_a_small_archive_may_shrink_well(tmp_path: Path) -> None:
    files = {"list.txt": b"0001_c1.jpg 1\n" * 100_000}
    archive = pack(tmp_path / "set.tar.gz", files)
    assert archive.stat().st_size * Limits().ratio < len(files["list.txt"])
    extract(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == files


BYTE = 1 / 2**30


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("members", 2, r"'c' is one member too many: at most 2 are extracted \(prepare.archives.members\)"),
        (
            "file_gigabytes",
            5 * BYTE,
            r"'b' has 6 bytes, more than the 5 of one file \(prepare.archives.file_gigabytes\)",
        ),
        ("gigabytes", 12 * BYTE, r"'c' brings the total to 13 bytes, more than the 12 of prepare.archives.gigabytes"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_limits(tmp_path: Path, kind: str, limit: str, value: float, said: str) -> None:
    archive = pack(tmp_path / f"set.{kind}", {"a": b"12345", "b": b"123456", "c": b"12"})
    at_it = {"members": 3, "file_gigabytes": 6 * BYTE, "gigabytes": 13 * BYTE}
    extract(archive, tmp_path / "before", limits=Limits(**at_it))  # type: ignore[arg-type]
    refused(archive, said, **(at_it | {limit: value}))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_the_ratio_is_a_setting(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 2**15)
    archive = pack(tmp_path / f"set.{kind}", {"zeros": bytes(2**16)})
    refused(archive, r"over 2.5 times the archive's size, as a bomb does \(prepare.archives.ratio\)", ratio=2.5)
    extract(archive, tmp_path / "out", limits=Limits(ratio=2**16))


def test_limits_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Limits.members is 0, allowed: 1 or more"):
        Limits(members=0)
    with pytest.raises(ValueError, match=r"Limits.ratio is 0.5, allowed: 1 or more"):
        Limits(ratio=0.5)


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    archive = tar(tmp_path / "set.tar", member("a", b"1", pax_headers={"size": "-512"}))
    refused(archive, "negative size|not a whole")


def test_a_header_as_large_as_memory_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**32
    archive = tmp_path / "set.tar"
    archive.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    refused(archive, "a header of 4,294,967,296 bytes")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_an_archive_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    archive = pack(tmp_path / f"set.{kind}", {"a.jpg": b"1" * 600, "b.jpg": b"2"})
    whole = archive.read_bytes()
    end = len(whole.rstrip(b"\0")) if kind == "tar" else len(whole)
    for cut in range(0, end, max(1, end // 60)):
        archive.write_bytes(whole[:cut])
        refused(archive, "is not a whole zip, tar, tar.gz or tar.xz archive|is damaged")
    if kind == "tar":
        archive.write_bytes(whole[:2560])  # both members, and nothing that says that there are no more
        refused(archive, "not a whole")


@pytest.mark.parametrize("bit", [lambda place: place % 8, lambda place: 6 - place % 2], ids=["any", "high"])
@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_a_flipped_bit_is_never_believed(tmp_path: Path, kind: str, bit: Callable[[int], int]) -> None:
    files = {"a.jpg": b"some content", "b.jpg": b"1"}
    archive = pack(tmp_path / f"set.{kind}", files)
    whole = archive.read_bytes()
    refusals = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit(place)
        archive.write_bytes(damaged)
        out = tmp_path / f"out{place}"
        try:
            extract(archive, out)
        except ArchiveError:
            refusals += 1
            assert not out.exists()
        else:
            assert contents(out) == files
    assert refusals > len(whole) / 4


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_its_end(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.tar", {"a": b"1", "b": b"2", "c": b"3"})
    content = bytearray(archive.read_bytes())
    content[1024] ^= 1  # the name of b
    archive.write_bytes(content)
    refused(archive, "not a whole .*bad checksum")


def test_two_tars_in_one_file_are_refused(tmp_path: Path) -> None:
    one, other = (pack(tmp_path / f"{name}.tar", {name: b"1"}) for name in "ab")
    one.write_bytes(one.read_bytes() + other.read_bytes())
    refused(one, "there is more after its end")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>Sign in</html>" * 40, b"PK\x03\x04", bytes(1024)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    refused(path, r"is not a whole zip, .* download or copy it again|holds no file")


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.zip", {"a": b"12345"})
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (9).to_bytes(4, "little")
    archive.write_bytes(content)
    refused(archive, "'a' has 5 bytes where 9 are declared")


def test_a_zip_with_a_comment_and_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.comment = b"from the authors"
        archive.mkdir("a")
        archive.mkdir("empty")
        archive.writestr("a/b.jpg", b"1")
    extract(tmp_path / "set.zip", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["a", "b.jpg"]


def test_a_compression_that_is_not_known_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.zip", {"a": b"12345"})
    content = bytearray(archive.read_bytes())
    for start, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        content[content.index(start) + offset] = 9  # Deflate64, as Windows writes large files
    archive.write_bytes(content)
    refused(archive, "compression method")


def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "set.zip", r"cannot be read \(No such file or directory\); check its path")


def test_a_destination_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_chunks", full)
    refused(
        pack(tmp_path / "set.zip", FILES), rf"to {tmp_path / 'out'} \(No space left on device\); nothing was extracted"
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_the_second_time_nothing_is_written(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / f"set.{kind}", FILES | {"._x": b"1"})
    first = extract(archive, tmp_path / "out")
    (tmp_path / "out" / "note.txt").write_text("a person's own")
    monkeypatch.setattr(archives, "_write", None)
    assert extract(archive, tmp_path / "out") == first
    assert (tmp_path / "out" / "note.txt").exists()


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_a_destination_that_holds_something_else_stays(tmp_path: Path, change: Callable[[Path], object]) -> None:
    archive = pack(tmp_path / "set.zip", FILES)
    extract(archive, tmp_path / "out")
    change(tmp_path / "out" / "set/query/0001_c1.jpg")
    before = contents(tmp_path / "out")
    refused(archive, r"out is there already, but without 'set/query/0001_c1.jpg' of 150 bytes; move that folder away")
    assert contents(tmp_path / "out") == before


def test_an_empty_destination_is_used_and_a_file_is_not(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.zip", FILES)
    (tmp_path / "empty").mkdir()
    extract(archive, tmp_path / "empty")
    assert contents(tmp_path / "empty") == FILES
    (tmp_path / "out").write_text("mine")
    refused(archive, r"cannot be extracted to .*out \(Not a directory\)")


def test_progress_ends_at_the_size_of_the_archive(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    archive = pack(tmp_path / "set.tar", {f"{number}": bytes(700_000) for number in range(4)})
    extract(archive, tmp_path / "out", progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 3), (2, 3), (3, 3), (3, 3)]


EXTRACT_AND_HANG = """
import sys, time
from pathlib import Path
from reid.data.archives import Limits, extract
def hang(done, total):
    print("written", flush=True)
    time.sleep(60)
extract(Path(sys.argv[1]), Path(sys.argv[2]), limits=Limits(), progress=hang)
"""


def test_after_a_kill_the_next_try_starts_clean(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.zip", FILES)
    out, partial = tmp_path / "out", tmp_path / ".out.extracting"
    command = [sys.executable, "-c", EXTRACT_AND_HANG, str(archive), str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        with pytest.raises(ArchiveError, match="out: another process is extracting there; wait for it"):
            extract(archive, out)
        process.kill()
    assert not out.exists()
    assert contents(partial / "content") == {"readme.txt": b"hello"}
    (partial / "content" / "left.txt").touch()
    extract(archive, out)
    assert contents(out) == FILES
    assert not partial.exists()


def test_after_a_kill_between_the_last_two_steps_only_the_rest_goes(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.zip", FILES)
    extract(archive, tmp_path / "out")
    (tmp_path / ".out.extracting").mkdir()
    (tmp_path / ".out.extracting" / "lock").touch()
    extract(archive, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["out", "set.zip"]


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("Market-1501-v15.09.15.zip", ("market1501", "Market-1501-v15.09.15")),
        ("market1501.TGZ", ("Market1501",)),
        ("veri/VeRi.tar.gz", ("veri/VeRi",)),
        ("MSMT17_V2.tar.xz", ("MSMT17_V2",)),
    ],
)
def test_an_archive_is_found_by_its_usual_names(tmp_path: Path, file: str, names: tuple[str, ...]) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    for other in ("readme.txt", "Market-1501-v15.09.15.rar", "other.zip"):
        (tmp_path / other).touch()
    assert find_archive(tmp_path, names) is None
    (tmp_path / file).touch()
    assert find_archive(tmp_path, names) == tmp_path / file


def test_of_several_archives_the_first_name_counts(tmp_path: Path) -> None:
    for name in ("b.zip", "a.tar", "a.zip"):
        (tmp_path / name).touch()
    (tmp_path / "c.zip").mkdir()
    assert find_archive(tmp_path, ("c", "b", "a")) == tmp_path / "b.zip"
    assert find_archive(tmp_path, ("a", "b")) == tmp_path / "a.tar"
    assert find_archive(tmp_path / "missing", ("a",)) is None


def test_a_stored_zip_keeps_its_checksum(tmp_path: Path) -> None:
    """A member whose bytes changed on the way is refused although its sizes are right."""
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as stored:
        stored.writestr("a", b"content")
    assert zlib.crc32(b"contenT") != zlib.crc32(b"content")
    archive.write_bytes(archive.read_bytes().replace(b"content", b"contenT"))
    refused(archive, r"'a' is damaged \(Bad CRC-32")
