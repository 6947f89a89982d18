"""Unpacking of archives that strangers made: regular files inside the destination, all of them or none.

zip, tar, tar.gz and tar.xz, told apart by their first bytes. An archive that holds anything else than files and folders
with plain names, or more than a data set can have, is refused as a whole.
"""

import functools
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, BinaryIO

from reid.config import Count, Range, Settings
from reid.data import lock

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz")

FREE_BYTES = 16 * 2**20  # up to which the ratio does not matter: a small archive of lists harms nobody
MAX_NAME_BYTES = 255  # of a file or folder: what Linux file systems take

_GIGABYTE = 2**30
_HEADER_BYTES = 2**20  # of a tar's extra header, which is read into memory at once
_CHUNK = 2**20
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP_START, _XZ_START = b"\x1f\x8b", b"\xfd7zXZ\x00"
_ENCRYPTED = "is encrypted"
_EXTRA_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

Progress = Callable[[int, int], None]
_Stream = BinaryIO | gzip.GzipFile | lzma.LZMAFile


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """What an archive may hold, as it declares it: section `prepare.archives` of params.yaml.

    Of the sets that are read here MSMT17 has most images, 126,000, and none has more than some ten GB. Images hardly
    shrink and lists shrink ten times, where bombs of DEFLATE and LZMA reach a ratio of a thousand and more.

    Args:
        members: files and folders.
        gigabytes: of all files, of 2**30 bytes.
        file_gigabytes: of one file, such as all images of CUHK03 in one MATLAB file.
        ratio: bytes of all files over bytes of the archive; up to 16 MB of files it does not matter.
    """

    members: Count = 1_000_000
    gigabytes: Annotated[float, Range(0.0)] = 64.0
    file_gigabytes: Annotated[float, Range(0.0)] = 8.0
    ratio: Annotated[float, Range(1.0)] = 50.0


class ArchiveError(ValueError):
    """An archive was not extracted; one line says which, the member, the reason and what to do."""


@dataclass(frozen=True, kw_only=True)
class _Member:
    """What the archive says of a member; `flaw` is a reason to refuse it."""

    name: str
    size: int
    is_folder: bool
    flaw: str
    open: Callable[[], IO[bytes]]

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)


def extract(
    archive: Path, destination: Path, *, limits: Limits, progress: Progress = lambda done, total: None
) -> list[Path]:
    """Extract all files of an archive into a new folder; the folder appears when everything is in it.

    Until then the files lie in a hidden folder beside it. What a killed process left there is removed at the next try.
    Folders without files, and the `__MACOSX` and `._` copies that macOS adds, are passed over. Files get plain modes.
    Where the destination holds all files already, with their sizes, nothing is written.

    Args:
        archive: zip, tar, tar.gz or tar.xz, whatever its name.
        destination: missing, empty, or extracted from this archive before.
        limits: what it may hold.
        progress: called with the MB read of the archive and its MB in all, after each file.

    Returns:
        The files, in the archive's order.

    Raises:
        ArchiveError: it is damaged, encrypted or not safe, the destination holds something else or cannot be written,
            or another process is extracting there.
    """
    with _opened(archive) as file:
        try:
            with _workplace(destination) as content:
                if destination.is_dir() and any(destination.iterdir()):
                    return _compare(archive, file, destination, limits)
                paths = _unpack(archive, file, content, limits, progress)
                os.sync()  # so that after a power cut, too, a folder that is there is whole
                content.rename(destination)
        except OSError as error:  # of writing: those of reading are an ArchiveError already
            raise ArchiveError(
                f"{archive}: cannot be extracted to {destination} ({error.strerror}); nothing was extracted: mend that "
                f"or name another folder"
            ) from error
    return [destination / path for path in paths]


def find_archive(root: Path, names: Iterable[str]) -> Path | None:
    """The first archive under `root` whose name is one of `names` with a suffix of ours, capitals or not."""
    for name in names:
        wanted = {f"{Path(name).name}{suffix}".casefold() for suffix in SUFFIXES}
        folder = (root / name).parent
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        for path in found:
            if path.name.casefold() in wanted and path.is_file():
                return path
    return None


@contextmanager
def _opened(archive: Path) -> Iterator[BinaryIO]:
    try:
        file = archive.open("rb")
    except OSError as error:
        raise ArchiveError(f"{archive}: cannot be read ({error.strerror}); check its path and permissions") from error
    with file:
        yield file


@contextmanager
def _workplace(destination: Path) -> Iterator[Path]:
    """An empty folder beside the destination at which this process is alone; gone when the block ends."""
    folder = destination.with_name(f".{destination.name}.extracting")
    content, locked = folder / "content", folder / "lock"
    try:
        descriptor = lock.take(locked)
    except BlockingIOError as error:
        raise ArchiveError(f"{destination}: another process is extracting there; wait for it to end") from error
    try:
        shutil.rmtree(content, ignore_errors=True)
        content.mkdir()
        yield content
    finally:
        # The lock's file goes after all that it guards: from then on the place may be another process's.
        shutil.rmtree(content, ignore_errors=True)
        locked.unlink()
        with suppress(OSError):
            folder.rmdir()
        os.close(descriptor)


def _unpack(archive: Path, file: BinaryIO, content: Path, limits: Limits, progress: Progress) -> list[PurePosixPath]:
    paths = []
    total = os.fstat(file.fileno()).st_size
    for member in _files(archive, file, limits):
        _write(archive, member, content / member.path)
        paths.append(member.path)
        progress(-(-file.tell() // 10**6), -(-total // 10**6))
    if not paths:
        raise ArchiveError(f"{archive}: holds no file; download or copy it again")
    return paths


def _write(archive: Path, member: _Member, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for chunk in _chunks(archive, member):
                file.write(chunk)
            if file.tell() != member.size:
                raise _refused(archive, member, f"has {file.tell()} bytes where {member.size} are declared")
    except (FileExistsError, NotADirectoryError) as error:
        raise _refused(archive, member, "has the place of another member") from error


def _chunks(archive: Path, member: _Member) -> Iterator[bytes]:
    with _damage(archive, f"{_shown(member.name)} is damaged"), member.open() as source:
        while chunk := source.read(_CHUNK):
            yield chunk


def _compare(archive: Path, file: BinaryIO, destination: Path, limits: Limits) -> list[Path]:
    """The files of the archive in a folder that has them all."""
    targets = []
    for member in _files(archive, file, limits):
        target = destination / member.path
        if not target.is_file() or target.stat().st_size != member.size:
            raise ArchiveError(
                f"{archive}: {destination} is there already, but without {_shown(member.name)} of {member.size} bytes; "
                f"move that folder away, then try again"
            )
        targets.append(target)
    return targets


def _files(archive: Path, file: BinaryIO, limits: Limits) -> Iterator[_Member]:
    """The members that are files and safe to write, checked one by one.

    Sizes are those declared: no more is read, so that what is within the limits here is within them on disk.
    """
    size = os.fstat(file.fileno()).st_size
    total = 0
    for number, member in enumerate(_members(archive, file), start=1):
        total += member.size
        flaw = _name_flaw(member.name) or _size_flaw(limits, size, number, member.size, total)
        if not flaw and (member.is_folder or _is_macos_copy(member.path)):
            continue
        if flaw := flaw or member.flaw:
            raise _refused(archive, member, flaw)
        yield member


def _refused(archive: Path, member: _Member, flaw: str) -> ArchiveError:
    advice = "get the archive from its official source again, or unpack it yourself after a look inside"
    if flaw == _ENCRYPTED:
        advice = "unpack it yourself, with its password"
    return ArchiveError(f"{archive}: {_shown(member.name)} {flaw}; nothing was extracted: {advice}")


def _name_flaw(name: str) -> str:
    path = PurePosixPath(name)
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "has a control character in its name"
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if "\\" in name:
        return "has a backslash in its name"
    if ".." in path.parts:
        return "leads out of the destination"
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        return f"has a name of more than {MAX_NAME_BYTES} bytes"
    return ""


def _size_flaw(limits: Limits, archive_size: int, number: int, size: int, total: int) -> str:
    most, most_of_one = round(limits.gigabytes * _GIGABYTE), round(limits.file_gigabytes * _GIGABYTE)
    if number > limits.members:
        return f"is one member too many: at most {limits.members:,} are extracted (prepare.archives.members)"
    if size < 0:
        return "has a negative size"
    if size > most_of_one:
        return f"has {size:,} bytes, more than the {most_of_one:,} of one file (prepare.archives.file_gigabytes)"
    if total > most:
        return f"brings the total to {total:,} bytes, more than the {most:,} of prepare.archives.gigabytes"
    if total > max(FREE_BYTES, limits.ratio * archive_size):
        times = f"over {limits.ratio:g} times the archive's size"
        return f"brings the total to {total:,} bytes, {times}, as a bomb does (prepare.archives.ratio)"
    return ""


def _is_macos_copy(path: PurePosixPath) -> bool:
    return "__MACOSX" in path.parts or path.name.startswith("._")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 300 else f"{name[:300]}...")


def _members(archive: Path, file: BinaryIO) -> Iterator[_Member]:
    start = file.read(len(_XZ_START))
    file.seek(0)
    with _damage(archive, "is not a whole zip, tar, tar.gz or tar.xz archive"):
        if start.startswith(_ZIP_STARTS):
            yield from _zip_members(file)
        elif start.startswith(_GZIP_START):
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield from _tar_members(unzipped)
        elif start == _XZ_START:
            with lzma.LZMAFile(file) as unpacked:
                yield from _tar_members(unpacked)
        else:
            yield from _tar_members(file)


@contextmanager
def _damage(archive: Path, said: str) -> Iterator[None]:
    """Whatever a decoder raises on damaged bytes, which may be anything, becomes one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArchiveError(f"{archive}: {said} ({reason}); nothing was extracted: download or copy it again") from error


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        _check_count(archive, file)
        for info in archive.infolist():
            is_folder = info.is_dir() and not info.file_size
            mode = info.external_attr >> 16  # as Unix has it; 0 from other systems
            plain = stat.S_IFMT(mode) in (0, stat.S_IFREG) or is_folder
            yield _Member(
                name=info.orig_filename,  # `filename` ends at a NUL
                size=info.file_size,
                is_folder=is_folder,
                flaw=_ENCRYPTED if info.flag_bits & 1 else "" if plain else "is a link or a device",
                open=functools.partial(archive.open, info),
            )


def _check_count(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    """Compare the members with their number in the last record, which `zipfile` does not look at.

    One whose comment is damaged would take others with it. From 65,535 members on the number is elsewhere, or wraps.
    """
    file.seek(-22 - len(archive.comment), os.SEEK_END)
    record = file.read(22)
    number = int.from_bytes(record[10:12], "little")
    if record[:4] != b"PK\x05\x06" or number not in (len(archive.infolist()) % 2**16, 0xFFFF):
        raise zipfile.BadZipFile(f"{number} members are declared, {len(archive.infolist())} found")


class _Header(tarfile.TarInfo):
    """A header of a tar. `tarfile` takes damage in the middle for the end of the archive; here it is an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end, as it should be
                raise
            raise tarfile.ReadError(str(error)) from None
        if header.type in _EXTRA_HEADERS and header.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


def _tar_members(stream: _Stream) -> Iterator[_Member]:
    with tarfile.TarFile(fileobj=stream, tarinfo=_Header) as archive:
        for info in iter(archive.next, None):
            archive.members.clear()  # type: ignore[attr-defined]  # it would remember them all
            yield _Member(
                name=info.name,
                size=info.size,
                is_folder=info.isdir(),
                flaw="" if info.isreg() and not info.issparse() else "is a link, a device or a sparse file",
                open=functools.partial(tarfile.ExFileObject, archive, info),
            )
    _check_end(stream)


def _check_end(stream: _Stream) -> None:
    """Read what is after the last member: zeros, and a checksum of the compressed stream that they lead to."""
    read = 0
    while chunk := stream.read(_CHUNK):
        read += len(chunk)
        if chunk.strip(b"\0") or read > FREE_BYTES:
            raise tarfile.ReadError("there is more after its end")
