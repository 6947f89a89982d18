"""The trial store where machines share no disk: the objects below a URL, mirrored in a folder of each machine.

Objects have the names that the files have in a folder, and are written in the same order: DONE last. The URL is the
truth. A write goes there first and to the mirror then, so that the mirror never knows more; reads are of the mirror,
and `refresh` brings it up to date: one listing, and what has changed. States and networks come when they are fetched.

What keeps two workers out of one trial in a folder, a lock, holds for the workers of one machine here. For those of
others, an attempt is over as soon as its trial's attempts.jsonl says more than what it said when that attempt began:
it writes nothing more.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.storage.objects import PATIENCE_SECONDS, Objects, Version
from pipeline.storage.store import Held, TrialStore, intact, write_whole

_RECORDS = ("spec.json", "metrics.jsonl", "attempts.jsonl", "failure.json", "per_query.npz", "result.json", "DONE")
_KNOWN = ".versions.json"  # of a mirrored trial: the token of each file that is as the URL had it
_FETCHED_AT_ONCE = 16


class TakenOverError(OSError):
    """Another worker, or the sweep, has gone on with this trial: what this one does counts no more."""


class RemoteStore(TrialStore):
    """The trials below a URL.

    Args:
        url: `s3://bucket/prefix` or another one of fsspec's.
        cache: folder of this machine that holds the mirror; `~` is the home folder on each machine.
        objects: those of the URL; None for the usual ones.
    """

    def __init__(self, url: str, cache: str, *, objects: Objects | None = None) -> None:
        self.objects = objects or Objects(url)
        self._cache, self._refused = cache, ""
        self._listed: dict[str, dict[str, Version]] = {}
        self._claims: dict[str, bytes] = {}  # attempts.jsonl as it was when an attempt of this process began
        name = hashlib.sha256(self.objects.url.encode()).hexdigest()[:16]
        super().__init__(Path(cache).expanduser() / "stores" / name)

    def __reduce__(self) -> tuple[type["RemoteStore"], tuple[str, str]]:
        return RemoteStore, (self.objects.url, self._cache)  # to a worker, whose machine has a home of its own

    @property
    def place(self) -> str:
        """Where the trials are, for people."""
        return self.objects.url

    def refuse(self, reason: str) -> None:
        """Write nothing more: every write is an error from now on, for this reason."""
        self._refused = reason

    def refresh(self, *keys: str) -> None:
        """Bring the mirror of these trials up to date, or of all: their records, not states and networks.

        Raises:
            OSError: the server does not answer.
            TakenOverError: somebody else has gone on with one of these trials, which an attempt of this process is at.
        """
        if keys:
            for key in keys:
                self._bring(key)
            return
        listed = _by_folder(self.objects.list())
        mirrored = {path.name for path in self.root.glob("[!.]*")}
        stale = [key for key in listed.keys() | mirrored if self._is_stale(key, listed.get(key, {}))]
        self._listed = listed
        with ThreadPoolExecutor(_FETCHED_AT_ONCE) as threads:
            list(threads.map(lambda key: self._bring(key, listed.get(key, {})), sorted(stale)))

    def attempt(self, key: str, event: dict[str, Any]) -> None:
        """As of any store; one that has `started` is this process's until somebody else notes another."""
        super().attempt(key, event)
        self._claims.pop(key, None)
        if event["event"] == "started":
            self._claims[key] = self._attempts_of(key)

    def has(self, path: Path) -> bool:
        """Whether the store has this file of a trial, as far as was last seen."""
        return path.is_file() or path.name in self._listed.get(path.parent.name, {})

    def fetch(self, path: Path) -> None:
        """Bring a state or a network here, unless the mirror has it as it is."""
        key, name = path.parent.name, path.name
        self._bring(key)
        version = self._listed[key].get(name)
        with self._locked(key):
            known = self._known(key)
            if version is not None and known.get(name) != version.token:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.objects.get_file(self._name(path), path)
                self._remember(key, known | {name: version.token})

    def upload(self, path: Path) -> None:
        """Take in a state or a network that was written to the mirror."""
        key, name = path.parent.name, path.name
        self._bring(key)
        if key in self._claims and not self._is_mine(key):
            return  # it is done, and this attempt with it: a search trial that was stopped
        self._check()
        with self._locked(key):
            self.objects.put_file(self._name(path), path)
            self._listed[key] = self.objects.list(key)
            self._remember(key, self._known(key) | {name: self._listed[key][name].token})

    def remove(self, path: Path) -> None:
        """Delete a file of a trial, if there is one."""
        if self.has(path):
            self._check()
            key = path.parent.name
            with self._locked(key):
                self.objects.delete([self._name(path)])
                path.unlink(missing_ok=True)
                self._forget(key, path.name)

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged file of a trial, so that it is in nobody's way and can be looked at; its new path."""
        self._check()
        key, listed = path.parent.name, self.has(path) and path.name in self._listed.get(path.parent.name, {})
        with self._locked(key):
            aside = super().set_aside(path)
            if listed:
                self.objects.move(self._name(path), self._name(aside))
            self._forget(key, path.name)
        return aside

    def files(self) -> dict[str, dict[str, Held]]:
        """All that lies below the URL, ours or not: the files of each folder, by their paths in it."""
        return {
            folder: {name: Held(version.bytes, version.modified) for name, version in found.items()}
            for folder, found in _by_folder(self.objects.list()).items()
        }

    def delete(self, folder: str) -> None:
        """Delete a folder of `files`: DONE first and spec.json last, so that a kill leaves what is found again."""
        self._check()
        names = self.objects.list(folder)
        last = [name for name in names if name == "spec.json"]
        first = [name for name in names if name == "DONE"]
        rest = [name for name in names if name not in (*first, *last)]
        with self._locked(folder):
            self.objects.delete(f"{folder}/{name}" for name in (*first, *rest, *last))
            shutil.rmtree(self.root / folder, ignore_errors=True)
            self._listed.pop(folder, None)

    def _write(self, path: Path, content: bytes) -> None:
        self._check()
        key = path.parent.name
        with self._locked(key):
            token = self.objects.put(self._name(path), content)
            write_whole(path, content)
            self._remember(key, self._known(key) | {path.name: token})

    def _append(self, path: Path, line: bytes) -> None:
        """Write all of it with a line more: objects do not grow. What is there was brought here a moment ago."""
        content = path.read_bytes() if path.exists() else b""
        self._write(path, content + (b"\n" if content and not content.endswith(b"\n") else b"") + line)

    def _bring(self, key: str, listed: dict[str, Version] | None = None) -> None:
        """Bring one trial up to date, by a listing that may be from a moment ago."""
        folder = self.folder(key)
        with self._locked(key):
            known = self._known(key)
            if listed is None or known.keys() - listed.keys():  # which may have been written since that listing
                listed = self.objects.list(key)
            self._listed[key] = listed
            if known and not listed:
                shutil.rmtree(folder, ignore_errors=True)  # others have deleted the trial
                return
            for name in sorted(known.keys() - listed.keys()):  # DONE, in capitals, is the first
                (folder / name).unlink(missing_ok=True)
            kept = set() if self._is_harmed(key, listed) else known.keys() & listed.keys()
            found = {name: known[name] for name in kept}
            stale = [name for name in _RECORDS if name in listed and found.get(name) != listed[name].token]
            for name in stale:
                found |= self._get(folder / name, listed[name])
            if found != known:
                self._remember(key, found)
        if key in self._claims and not self._is_mine(key) and not intact(folder):
            raise TakenOverError(f"{self.place}/{key}: another worker has begun with this trial, and this one gives up")

    def _get(self, path: Path, version: Version) -> dict[str, str]:
        """Bring a small file here; its name and token, nothing if it has gone since it was listed."""
        try:
            content = self.objects.get(self._name(path))
        except FileNotFoundError:
            return {}
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
            os.utime(path, (version.modified, version.modified))
        return {path.name: version.token}

    def _is_stale(self, key: str, listed: dict[str, Version]) -> bool:
        try:
            self.folder(key)
        except ValueError:
            return False  # not ours
        known = self._known(key)
        wanted = {name: version.token for name, version in listed.items() if name in _RECORDS or name in known}
        return wanted != known or self._is_harmed(key, listed)

    def _is_harmed(self, key: str, listed: dict[str, Version]) -> bool:
        """Whether a trial that is done at the URL is not in the mirror, as far as that tells."""
        return "DONE" in listed and not intact(self.folder(key))

    def _is_mine(self, key: str) -> bool:
        return self._attempts_of(key) == self._claims[key]

    def _attempts_of(self, key: str) -> bytes:
        path = self.folder(key) / "attempts.jsonl"
        return path.read_bytes() if path.exists() else b""

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _check(self) -> None:
        if self._refused:
            raise OSError(self._refused)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Keep the other processes of this machine from the mirror of a trial."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / key).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _known(self, key: str) -> dict[str, str]:
        try:
            known: dict[str, str] = json.loads((self.root / key / _KNOWN).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):  # without it everything is brought once more
            return {}
        return known

    def _remember(self, key: str, known: dict[str, str]) -> None:
        folder = self.folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _KNOWN, json.dumps(known).encode())

    def _forget(self, key: str, name: str) -> None:
        known = self._known(key)
        if known.pop(name, None) is not None:
            self._remember(key, known)
        self._listed.get(key, {}).pop(name, None)


def _by_folder(listed: dict[str, Version]) -> dict[str, dict[str, Version]]:
    found: dict[str, dict[str, Version]] = {}
    for path, version in listed.items():
        folder, slash, name = path.partition("/")
        if slash:
            found.setdefault(folder, {})[name] = version
    return found


def store_at(place: str, root: Path, *, cache: str, patience: float = PATIENCE_SECONDS) -> TrialStore:
    """The trial store that params.yaml names.

    Args:
        place: `sweep.store`: a folder, relative to the checkout or not, or a URL.
        root: the checkout.
        cache: `sweep.cache`, for the mirror of one at a URL.
        patience: seconds for which a failure to reach a URL is tried again.
    """
    if "://" not in place:
        return TrialStore(root / place)
    return RemoteStore(place, cache, objects=Objects(place, patience=patience))
