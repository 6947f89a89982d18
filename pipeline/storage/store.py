"""The trial store: one folder per trial, true after a kill at any moment. What it does not hold has not happened.

    <root>/<key>/
      spec.json       what the key hashes, written ahead
      metrics.jsonl   one line an epoch, each with a checksum
      attempts.jsonl  two lines an attempt: where and from which epoch it started, how it ended
      failure.json    reason, detail, when; gone once the trial is tried again
      per_query.npz   optional arrays behind the metrics
      state.safetensors, weights.safetensors  written by training: its resumable state, and the network that it trained
      result.json     metrics, cost, environment
      DONE            SHA-256 of each file that the result rests on, written last

Every file but the two that grow is replaced atomically. A trial is done only while DONE matches what lies beside it, so
that a record damaged later is trained again instead of believed. Nothing here is pickled.
"""

import hashlib
import io
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.planning.plan import Trial

State = Literal["absent", "running", "done", "failed"]
PerQuery = dict[str, NDArray[Any]]

_KEY = re.compile(r"[0-9a-f]{20}")
_RECORD = ("spec.json", "metrics.jsonl", "per_query.npz", "result.json")  # what DONE vouches for
_SEAL = b', "crc": "'
GONE = ".gone-"  # how the name of a folder that is being deleted starts


@dataclass(frozen=True)
class Held:
    """A file of the store: its bytes, and when it was written, in seconds since 1970."""

    bytes: int
    modified: float


class TrialStore:
    """The trials under one folder. Keeps no memory of its own: two stores on one folder agree.

    Args:
        root: the folder; made when the first trial is opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def place(self) -> str:
        """Where the trials are, for people."""
        return str(self.root)

    def refresh(self, *keys: str) -> None:
        """Learn what others have written of these trials since, or of all. In a folder that is seen at once."""

    def folder(self, key: str) -> Path:
        """The folder of a trial, whether it exists or not.

        Raises:
            ValueError: the key is not one of ours; no other name ever becomes a path.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not a trial key (20 hexadecimal digits)")
        return self.root / key

    def open(self, trial: "Trial") -> Path:
        """Record that a trial is about to run; its folder. What an earlier attempt left stays, for a resume."""
        folder = self.folder(trial.key)
        self.refresh(trial.key)
        folder.mkdir(parents=True, exist_ok=True)
        _sync(self.root)
        self._write(folder / "spec.json", _json(trial.spec))
        self.forget(trial.key)
        return folder

    def append_epoch(self, key: str, metrics: dict[str, float]) -> None:
        """Append one epoch's metrics, `epoch` among them; the record of a trial that is done stays as it is."""
        self.refresh(key)
        if not intact(self.folder(key)):
            self._append(self.folder(key) / "metrics.jsonl", _line(metrics))

    def epochs(self, key: str) -> list[dict[str, float]]:
        """The metrics by epoch; of an epoch run again after a resume the last line counts.

        A line that is torn or damaged does not count, and its epoch is missing.
        """
        records = {record["epoch"]: record for record in _lines(self.folder(key) / "metrics.jsonl")}
        return [records[epoch] for epoch in sorted(records)]

    def attempt(self, key: str, event: dict[str, Any]) -> None:
        """Note how an attempt began or ended; `event["event"]` says which of the two, as "started" or "ended"."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self.refresh(key)
        self._append(self.folder(key) / "attempts.jsonl", _line({"time": when, **event}))

    def attempts(self, key: str) -> list[dict[str, Any]]:
        """Every attempt at a trial, in order: when it `started` (ISO, UTC) and `ended`, with all that was noted then.

        One that nobody saw the end of, because the sweep was killed with it, has no `ended` and no `outcome`.
        """
        found: list[dict[str, Any]] = []
        for line in _lines(self.folder(key) / "attempts.jsonl"):
            event, when = line.pop("event"), line.pop("time")
            if event == "started" or not found or "ended" in found[-1]:
                found.append({})
            found[-1] |= {event: when, **line}
        return found

    def finish(self, key: str, result: dict[str, Any], per_query: PerQuery | None = None) -> None:
        """Record the result of a trial; it is done when this returns, and not before its last step.

        A trial that is done stays as it is: of two workers on one trial the first to finish is right.

        Raises:
            ValueError: `result["status"]` is neither "done" nor "pruned".
        """
        if result["status"] not in ("done", "pruned"):
            raise ValueError(f"result['status'] is {result['status']!r}, allowed: done, pruned")
        folder = self.folder(key)
        self.refresh(key)
        if intact(folder):
            return
        content = _json(result)
        self.remove(folder / "per_query.npz")
        if per_query is not None:
            self._write(folder / "per_query.npz", _npz(per_query))
        self._write(folder / "result.json", content)
        self.remove(folder / "failure.json")
        self._write(folder / "DONE", _seals(folder))

    def fail(self, key: str, reason: str, detail: str = "") -> None:
        """Record that a trial failed: a short reason for tables, a detail for people. A trial that is done stays so."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self._write(self.folder(key) / "failure.json", _json({"reason": reason, "detail": detail, "when": when}))

    def forget(self, key: str) -> None:
        """Remove the failure of a trial from the record, where there is one: it is `running`, and can be resumed."""
        self.remove(self.folder(key) / "failure.json")

    def state(self, key: str) -> State:
        """`running` means that it was opened and has no end on record, whether a process is at it or not."""
        folder = self.folder(key)
        if intact(folder):
            return "done"
        if (folder / "failure.json").exists():
            return "failed"
        return "running" if (folder / "spec.json").exists() else "absent"

    def result(self, key: str) -> dict[str, Any]:
        """The result of a trial that is done.

        Raises:
            LookupError: it is not.
        """
        if not intact(self.folder(key)):
            raise LookupError(f"trial {key} has no result: it is {self.state(key)}")
        return self._read(key, "result.json")

    def failure(self, key: str) -> dict[str, Any]:
        """Reason, detail and time (ISO, UTC) of a failed trial.

        A damaged record is still a failure; its reason says that no more is known.

        Raises:
            LookupError: there is no failure on record.
        """
        try:
            failure = self._read(key, "failure.json")
            return {name: str(failure[name]) for name in ("reason", "detail", "when")}
        except (ValueError, KeyError, TypeError) as error:
            when = datetime.fromtimestamp((self.folder(key) / "failure.json").stat().st_mtime, UTC)
            reason = "unknown: the record of the failure is damaged; the next sweep tries the trial again"
            return {"reason": reason, "detail": str(error), "when": when.isoformat(timespec="seconds")}

    def spec(self, key: str) -> dict[str, Any]:
        """What a trial was opened with.

        Raises:
            LookupError: it never was.
            ValueError: the record is damaged.
        """
        return self._read(key, "spec.json")

    def per_query(self, key: str) -> PerQuery | None:
        """The arrays that `finish` was given; None when it was given none.

        Raises:
            LookupError: the trial is not done.
        """
        self.result(key)
        path = self.folder(key) / "per_query.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def state_file(self, key: str) -> Path:
        """Where training keeps the resumable state of a trial."""
        return self.folder(key) / "state.safetensors"

    def weights(self, key: str) -> Path:
        """Where the trained network of a trial is, if it was kept."""
        return self.folder(key) / "weights.safetensors"

    def has_weights(self, key: str) -> bool:
        """Whether it was."""
        return self.has(self.weights(key))

    def has(self, path: Path) -> bool:
        """Whether the store has this file of a trial."""
        return path.is_file()

    def fetch(self, path: Path) -> None:
        """Bring a state or a network here, before it is read by its path; in a folder it is there."""

    def upload(self, path: Path) -> None:
        """Take in a state or a network that was written by its path; in a folder it is there."""

    def remove(self, path: Path) -> None:
        """Delete a file of a trial, if there is one."""
        if self.has(path):
            path.unlink()
            _sync(path.parent)

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged file of a trial, so that it is in nobody's way and can be looked at; its new path."""
        aside = path.with_suffix(f".damaged{path.suffix}")
        path.replace(aside)
        _sync(path.parent)
        return aside

    def files(self) -> dict[str, dict[str, Held]]:
        """All that the store holds, ours or not: the files of each folder, by their paths in it."""
        folders = [path for path in self.root.glob("*") if path.is_dir() and not path.is_symlink()]
        return {folder.name: dict(_held(folder)) for folder in folders}

    def delete(self, folder: str) -> None:
        """Delete a folder of `files`. It is renamed first, so that a kill leaves scratch and no half of a trial."""
        path = self.root / folder
        gone = path if folder.startswith(".") else self.root / f"{GONE}{folder}"
        path.replace(gone)
        shutil.rmtree(gone)

    def keys(self) -> list[str]:
        """The keys of all trials that were ever opened, sorted."""
        return sorted(path.parent.name for path in self.root.glob("*/spec.json") if _KEY.fullmatch(path.parent.name))

    def _write(self, path: Path, content: bytes) -> None:
        write_whole(path, content)

    def _append(self, path: Path, line: bytes) -> None:
        """Append a line. One torn by an earlier kill is closed off first."""
        with path.open("ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            torn = end and os.pread(file.fileno(), 1, end - 1) != b"\n"
            file.write(b"\n" + line if torn else line)
            os.fsync(file.fileno())

    def _read(self, key: str, name: str) -> dict[str, Any]:
        path = self.folder(key) / name
        if not path.exists():
            raise LookupError(f"trial {key} has no {name}: it is {self.state(key)}")
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); remove it: the next sweep runs that trial again") from error
        return content


def intact(folder: Path) -> bool:
    """Whether DONE is there and holds the checksums of the record beside it."""
    try:
        said = (folder / "DONE").read_bytes()
    except FileNotFoundError:
        return False
    return b"  result.json\n" in said and said == _seals(folder)


def _seals(folder: Path) -> bytes:
    """The checksums of a trial's record as `sha256sum` prints and checks them."""
    paths = [folder / name for name in _RECORD]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths if path.exists()]
    return "".join(lines).encode()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()


def _npz(arrays: PerQuery) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _line(record: dict[str, Any]) -> bytes:
    """A record as one line with its checksum."""
    body = json.dumps(record).encode()[:-1]
    return body + _SEAL + b'%08x"}\n' % zlib.crc32(body)


def _held(folder: Path) -> Iterator[tuple[str, Held]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            stat = path.stat()
            yield path.relative_to(folder).as_posix(), Held(stat.st_size, stat.st_mtime)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of the lines that are as they were written; a torn one never is."""
    for line in path.read_bytes().splitlines() if path.exists() else []:
        body, _, seal = line.rpartition(_SEAL)
        if seal == b'%08x"}' % zlib.crc32(body):
            yield json.loads(body + b"}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, and a reader after a power cut, sees the old content or all of the new."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
