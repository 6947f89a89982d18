"""Packed data sets where machines share no disk: published once by the sweep, staged once by each machine.

A published data set is a folder `<data set>-<digest>` with the files of `data/<data set>` and SHA256SUMS, written last,
which lists them with their checksums; the digest is that list's own. So what has a name never changes, and what does
not match it is refused. Trials map what was staged, and the trials of a machine share it.
"""

import errno
import fcntl
import hashlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pipeline.planning.words import size
from pipeline.storage.objects import Objects

_FILES = ("info.json", "manifest.parquet", "split.json", "images.npy")
_SUMS = "SHA256SUMS"
_SPARE_BYTES = 100 * 2**20  # for what trials write beside it


class DataSets(Protocol):
    """Where a worker finds prepared data sets."""

    def folder(self, dataset: str) -> Path:
        """The folder of a data set; it may take a while until it is there."""


class InPlace:
    """Data sets that every machine reaches in one folder, by the same path."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def folder(self, dataset: str) -> Path:
        """The folder of a data set."""
        return self.root / dataset


class Published:
    """Data sets that a machine stages before it uses them.

    Args:
        place: where they are published, a URL or a folder.
        digests: of each, by its key.
        cache: folder of a machine to stage them in; `~` is the home folder on each machine.
    """

    def __init__(self, place: str, digests: Mapping[str, str], *, cache: str) -> None:
        self.place, self.digests, self.cache = place, dict(digests), cache

    def folder(self, dataset: str) -> Path:
        """The folder of a data set in the cache, brought there by the first process of this machine that asks.

        Raises:
            OSError: it is not there, it cannot be reached, or it does not fit on this machine's disk.
            ValueError: it is not what was published.
        """
        name = _name(dataset, self.digests[dataset])
        home = Path(self.cache).expanduser() / "data" / name
        if not home.is_dir():
            home.parent.mkdir(parents=True, exist_ok=True)
            with _alone(home.parent / f".{name}.lock"):
                if not home.is_dir():  # another process may have brought it while this one waited
                    self._stage(dataset, home)
        return home / dataset  # what is in it is called after its folder

    def _stage(self, dataset: str, home: Path) -> None:
        objects = Objects(f"{self.place.rstrip('/')}/{home.name}")
        sums, sizes = _published(objects, self.digests[dataset])
        _make_sure_of_room(home, sum(sizes[name] for name in sums))
        temporary = home.with_name(f".{home.name}.tmp")  # there is one process here; what it finds, a kill has left
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / dataset).mkdir(parents=True)
        for name, expected in sums.items():
            path = temporary / dataset / name
            objects.get_file(name, path)
            if _sha256(path) != expected:
                shutil.rmtree(temporary)
                raise ValueError(
                    f"{objects.url}/{name} is not what was published; remove {objects.url}: the next sweep writes it "
                    "again"
                )
        temporary.rename(home)


def ready(root: Path, datasets: Iterable[str], place: str | None, *, cache: str) -> DataSets:
    """Data sets for the workers of a sweep, published where they are to be staged from.

    Args:
        root: folder of the prepared data sets.
        datasets: those that are needed.
        place: `sweep.data`: where they are published; None: workers use `root` itself.
        cache: `sweep.cache`.
    """
    if place is None:
        return InPlace(root)
    digests = {dataset: publish(root / dataset, place) for dataset in sorted(datasets)}
    return Published(place, digests, cache=cache)


def publish(folder: Path, place: str) -> str:
    """Publish a prepared data set, if it is not yet; its digest.

    Args:
        folder: `data/<data set>`.
        place: URL or folder.

    Raises:
        OSError: it cannot be written there.
    """
    lines = "".join(f"{_sha256(folder / name)}  {name}\n" for name in _FILES).encode()
    digest = hashlib.sha256(lines).hexdigest()
    objects = Objects(f"{place.rstrip('/')}/{_name(folder.name, digest)}")
    there = {name: version.bytes for name, version in objects.list().items()}
    sizes = {name: (folder / name).stat().st_size for name in _FILES} | {_SUMS: len(lines)}
    if there != sizes:
        print(f"publishing {folder.name} ({size(sum(sizes.values()))}) at {objects.url}", file=sys.stderr, flush=True)
        objects.delete([_SUMS] if _SUMS in there else [])
        for name in _FILES:
            if there.get(name) != sizes[name]:
                objects.put_file(name, folder / name)
        objects.put(_SUMS, lines)
    return digest


def _published(objects: Objects, digest: str) -> tuple[dict[str, str], dict[str, int]]:
    """The checksum of each file of a published data set, and the bytes.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: its list of files is not the one of that digest.
    """
    try:
        lines = objects.get(_SUMS)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            errno.ENOENT, "the data set is not published there; start the sweep again", objects.url
        ) from error
    if hashlib.sha256(lines).hexdigest() != digest:
        raise ValueError(
            f"{objects.url}/{_SUMS} is not what was published; remove {objects.url}: the next sweep writes"
        )
    pairs = [line.split("  ", 1) for line in lines.decode().splitlines()]
    return {name: checksum for checksum, name in pairs}, {
        name: version.bytes for name, version in objects.list().items()
    }


def _make_sure_of_room(home: Path, needed: int) -> None:
    """Refuse before anything is brought here what would not fit."""
    free = shutil.disk_usage(home.parent).free
    if needed + _SPARE_BYTES > free:
        raise OSError(
            errno.ENOSPC,
            f"the data set takes {size(needed)}, and {size(free)} are free; delete other data sets there, or set "
            "sweep.cache to a larger disk",
            str(home.parent),
        )


def _name(dataset: str, digest: str) -> str:
    return f"{dataset}-{digest[:20]}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
