"""What is here: data sets, environment, disks, locks, trials. It changes nothing, starts no Ray and decodes no image.

What is wrong with it is for `doctor` to say. Whatever is broken, the rest is looked at: of a params.yaml with mistakes,
the sections that are right are used.
"""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline.planning import places
from pipeline.planning.params import ParamsError, Prepare, Profile, Sweep, shares
from pipeline.planning.places import Place
from pipeline.planning.shares import Shares
from pipeline.planning.strict import read_yaml, validate
from pipeline.running import machine
from pipeline.storage import locks
from pipeline.storage.remote import store_at
from pipeline.storage.store import TrialStore
from reid.data import manifest as manifests
from reid.data.layout import AbsentError
from reid.data.manifest import Record
from reid.data.readers import packaged, reader, readers
from reid.data.split import Split

DATA_SECONDS = 6.0  # that reading the data sets' folders may take, so that all of it stays under ten on a slow disk

_CLOSEST = "Closest folder found: "  # how a reader's message ends when there is no such data set

Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A data set as it was downloaded. `differences`: images and identities found, less the published ones, if not 0.

    `missing`, `broken`: not there, not as it should be; `detail` is what its reader says, `closest` the folder that is
    most like it, `root` where it was looked for. `archive`: as it was handed out, at `path`, for prepare to extract.
    `drawn`: not there, as prepare makes it. `late`: not read in time.
    """

    state: Literal["found", "archive", "missing", "broken", "drawn", "late"]
    root: Path | None = None
    path: Path | None = None
    counts: Counts = field(default_factory=dict)
    differences: Counts = field(default_factory=dict)
    detail: str = ""
    closest: str = ""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `data/<key>` holds; of a damaged one, `detail` says what is wrong."""

    state: Literal["absent", "damaged", "packed", "split"]
    digest: str = ""
    counts: Counts = field(default_factory=dict)
    shape: Sequence[int] = ()
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set that can be read; `listed`: params.yaml asks for it."""

    name: str
    listed: bool
    raw: Raw
    prepared: Prepared


@dataclass(frozen=True, kw_only=True)
class Lock:
    """`held` by a process that runs; `stale`: left by one that has ended, and harmless; `damaged`: not readable."""

    name: str
    path: Path | str
    state: Literal["free", "held", "stale", "damaged"]
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """Everything that was looked at in the checkout at `root`. `unreachable`: why a store at a URL could not be."""

    root: Path
    places: Sequence[Place]
    datasets: Mapping[str, DataSet]
    environment: machine.Environment
    disks: Sequence[machine.Disk]
    locks: Sequence[Lock]
    store: str
    unreachable: str
    trials: Mapping[str, int]


class Survey:
    """Reads the data sets' folders in the background: a slow disk must not hold up the rest.

    `listed`, `prepare` and `sweep` are sections of params.yaml; of those that are wrong, nothing or None. `shares`:
    what trials get; None where that cannot be told.
    """

    def __init__(self, root: Path) -> None:
        sections = _sections(root / "params.yaml")
        self.root = root
        self.listed: tuple[str, ...] = sections.get("datasets", ())
        self.prepare: Prepare | None = sections.get("prepare")
        self.sweep: Sweep | None = sections.get("sweep")
        self.shares = _shares(sections)
        setting = self.prepare.root if self.prepare is not None else None
        self.places = places.named(root, option=None, setting=setting)
        self._deadline = time.monotonic() + DATA_SECONDS
        self._found: dict[str, Raw] = {}
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def checkup(self) -> Checkup:
        """Look at the rest, then take what has been found of the data sets by the deadline."""
        root = self.root
        store, unreachable = _store(root, self.sweep)
        environment = machine.environment(root / "requirements.lock")
        disks = machine.disks({"data": root / "data", "results": root / "results", "trials": store.root})
        found = [_sweep_lock(root / locks.LOCK), *_dvc_locks(root / ".dvc" / "tmp")]
        if found[0].state == "free" and not unreachable and (owner := locks.holder_of(store)):
            found[0] = Lock(name="sweep", path=store.place, state="held", owner=owner)  # of another checkout
        states = Counter(map(store.state, store.keys()))
        return Checkup(
            root=root,
            places=self.places,
            datasets=self._datasets(),
            environment=environment,
            disks=disks,
            locks=found,
            store=store.place,
            unreachable=unreachable,
            trials={state: states[state] for state in ("done", "running", "failed")},
        )

    def _datasets(self) -> dict[str, DataSet]:
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        found = dict(self._found)
        return {
            key: DataSet(
                name=name,
                listed=key in self.listed,
                raw=found.get(key, Raw(state="late")),
                prepared=_prepared(self.root / "data" / key),
            )
            for key, name in readers().items()
        }

    def _look(self) -> None:
        drawn = self.root / "data" / "raw" / "synthetic"
        searched = [place.path for place in places.searched(self.places)]
        for key in sorted(readers(), key=lambda key: (key not in self.listed, _published_images(key))):
            if time.monotonic() > self._deadline:
                return
            if key == "synthetic":
                self._found[key] = _read(key, [drawn]) if drawn.is_dir() else Raw(state="drawn")
            else:
                self._found[key] = _read(key, searched)


def _published_images(key: str) -> int:
    """How long a set takes to read, about; the short ones come first, so that a few long ones do not hide them."""
    return sum(expected.images or 0 for expected in reader(key).expected.values())


def _sections(path: Path) -> dict[str, Any]:
    """Those of the sections of params.yaml that say where things are, and are right."""
    hints: dict[str, Any] = {
        "datasets": tuple[str, ...],
        "experiments": tuple[str, ...],
        "prepare": Prepare,
        "profile": str,
        "profiles": dict[str, Profile],
        "sweep": Sweep,
    }
    sections = {}
    with suppress(ParamsError):
        tree = read_yaml(path)
        for name in hints.keys() & tree.keys():
            with suppress(ParamsError):
                sections[name] = validate(hints[name], tree[name], where=name)
    return sections


def _shares(sections: dict[str, Any]) -> Shares | None:
    """What trials get; None where a section of it is wrong."""
    with suppress(KeyError, ValueError):
        found = shares(sections["sweep"], sections["profiles"][sections["profile"]])
        selected = found.by_experiment.keys() & set(sections["experiments"])
        return Shares(found.usual, {name: found.by_experiment[name] for name in sorted(selected)})
    return None


def _read(key: str, searched: Iterable[Path]) -> Raw:
    """The data set where it is first found, whole or not; else as it is missing from the first place."""
    outcomes = []
    for place in searched:
        outcomes.append(_read_from(key, place))
        if outcomes[-1].state != "missing":
            return outcomes[-1]
    return outcomes[0]


def _read_from(key: str, place: Path) -> Raw:
    try:
        home, records = _records(key, place)
    except Exception as error:  # a folder may hold anything, and what trips one reader must not end the check
        if isinstance(error, FileNotFoundError) and (archive := packaged(key, place)) is not None:
            return Raw(state="archive", root=place, path=archive)
        state: Literal["missing", "broken"] = "missing" if isinstance(error, AbsentError) else "broken"
        detail = str(error) or type(error).__name__
        return Raw(state=state, root=place, detail=detail, closest=detail.partition(_CLOSEST)[2])
    columns = {name: [getattr(record, name) for record in records] for name in ("split", "identity", "camera")}
    counts = manifests.counts(pd.DataFrame(columns))
    paths = [record.path for record in records]
    folder = home / os.path.commonpath([os.path.dirname(path) for path in (min(paths), max(paths))])
    return Raw(state="found", root=place, path=folder, counts=counts, differences=_differences(key, counts))


def _records(key: str, place: Path) -> tuple[Path, list[Record]]:
    """The records in a place, or in what prepare has extracted there; with the folder that they are relative to."""
    home = places.extracted(place, key)
    try:
        return place, reader(key).read(place)
    except FileNotFoundError:
        if not home.is_dir():
            raise
    return home, reader(key).read(home)


def _differences(key: str, counts: Counts) -> Counts:
    differences = {}
    for split, expected in reader(key).expected.items():
        found = counts.get(split, {"images": 0, "identities": 0})
        wanted = {"images": expected.images, "identities": expected.identities}
        off = {name: found[name] - number for name, number in wanted.items() if number is not None}
        differences[split] = {name: number for name, number in off.items() if number}
    return {split: off for split, off in differences.items() if off}


def _prepared(folder: Path) -> Prepared:
    """The state of `data/<key>`, by the heads of its files; their content is left to the stages."""
    names = ("info.json", "manifest.parquet", "images.npy")
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        return Prepared(
            state="absent" if len(lacking) == len(names) else "damaged", detail=f"lacks {', '.join(lacking)}"
        )
    try:
        info = json.loads((folder / "info.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        rows = pq.read_metadata(folder / "manifest.parquet").num_rows
        if list(images.shape) != info["shape"] or len(images) != rows:
            raise ValueError(f"{len(images)} images, {rows} rows in the manifest and {info['shape']} in info.json")
        if is_split := (folder / "split.json").is_file():
            Split.load(folder / "split.json")
        shape, state = tuple(images.shape), "split" if is_split else "packed"
        return Prepared(state=state, digest=info["digest"], counts=info["counts"], shape=shape)  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
        return Prepared(state="damaged", detail=" ".join(str(error).split()))


def _store(root: Path, sweep: Sweep | None) -> tuple[TrialStore, str]:
    """The trial store as it is now, and why that cannot be said."""
    if sweep is None:
        return TrialStore(root / "results/trials"), ""
    store = store_at(sweep.store, root, cache=sweep.cache, patience=0)
    try:
        store.refresh()
    except (OSError, ValueError) as error:
        return store, str(error)
    return store, ""


def _sweep_lock(path: Path) -> Lock:
    """The lock of `pipeline.storage.locks`; its file and its owner's stay when a sweep ends, in whatever way."""
    return Lock(name="sweep", path=path, state="held" if locks.held(path) else "free", owner=locks.noted_owner(path))


def _dvc_locks(folder: Path) -> list[Lock]:
    """DVC's two: a lock while it reads and writes its own files, and a list of who reads or writes which output."""
    lock, shared = folder / "lock", folder / "rwlock"
    owner = f"process {lock.read_text().strip()}" if lock.is_file() else ""
    return [
        Lock(name="dvc", path=lock, state="held" if locks.held(lock) else "free", owner=owner),
        _dvc_outputs(shared) if shared.is_file() else Lock(name="dvc outputs", path=shared, state="free"),
    ]


def _dvc_outputs(path: Path) -> Lock:
    try:
        content = json.loads(path.read_text())
        entries = [
            *content.get("write", {}).values(),
            *(entry for some in content.get("read", {}).values() for entry in some),
        ]
        owners = {int(entry["pid"]): f"process {entry['pid']} ({entry['cmd']})" for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Lock(name="dvc outputs", path=path, state="damaged", owner=str(error))
    alive = [owner for pid, owner in owners.items() if _is_alive(pid)]
    state: Literal["free", "held", "stale"] = "held" if alive else "stale" if owners else "free"
    return Lock(name="dvc outputs", path=path, state=state, owner=", ".join(alive or owners.values()))


def _is_alive(pid: int) -> bool:
    with suppress(PermissionError):  # another user's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
