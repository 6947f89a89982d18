"""The trial store: one folder per trial, true after a kill at any moment. What it does not hold has not happened.

    <root>/<key>/
      spec.json       what the key hashes, written ahead
      metrics.jsonl   one line an epoch
      failure.json    reason, detail, when; gone once the trial is tried again
      per_query.npz   optional arrays behind the metrics
      weights.safetensors  the trained network, where another trial scores it
      result.json     metrics, cost, environment
      DONE            SHA-256 of result.json, written last

Every file but `metrics.jsonl` is replaced atomically. A trial is done only while DONE matches `result.json`, so that a
result damaged later is trained again instead of believed. Nothing here is pickled.
"""

import hashlib
import io
import json
import os
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.plan import Trial

State = Literal["absent", "running", "done", "failed"]
PerQuery = dict[str, NDArray[Any]]

_KEY = re.compile(r"[0-9a-f]{20}")


class TrialStore:
    """The trials under one folder. Keeps no memory of its own: two stores on one folder agree.

    Args:
        root: the folder; made when the first trial is opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

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
        folder.mkdir(parents=True, exist_ok=True)
        _sync(self.root)
        _replace(folder / "spec.json", _json(trial.spec))
        if (folder / "failure.json").exists():
            (folder / "failure.json").unlink()
            _sync(folder)
        return folder

    def append_epoch(self, key: str, metrics: dict[str, float]) -> None:
        """Append one epoch's metrics, `epoch` among them. A line torn by an earlier kill is closed off first."""
        line = json.dumps(metrics).encode() + b"\n"
        with (self.folder(key) / "metrics.jsonl").open("ab+", buffering=0) as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                line = b"\n" + line
            file.write(line)
            os.fsync(file.fileno())

    def epochs(self, key: str) -> list[dict[str, float]]:
        """The metrics by epoch. Torn lines are dropped; of an epoch run again after a resume the last line counts."""
        path = self.folder(key) / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        records = {record["epoch"]: record for record in map(_parsed, lines) if record}
        return [records[epoch] for epoch in sorted(records)]

    def finish(self, key: str, result: dict[str, Any], per_query: PerQuery | None = None) -> None:
        """Record the result of a trial; it is done when this returns, and not before its last step.

        A trial that is done stays as it is: of two workers on one trial the first to finish is right.

        Raises:
            ValueError: `result["status"]` is neither "done" nor "pruned".
        """
        if result["status"] not in ("done", "pruned"):
            raise ValueError(f"result['status'] is {result['status']!r}, allowed: done, pruned")
        folder = self.folder(key)
        if _intact(folder):
            return
        content = _json(result)
        (folder / "per_query.npz").unlink(missing_ok=True)
        if per_query is not None:
            _replace(folder / "per_query.npz", _npz(per_query))
        _replace(folder / "result.json", content)
        (folder / "failure.json").unlink(missing_ok=True)
        _replace(folder / "DONE", hashlib.sha256(content).hexdigest().encode())

    def fail(self, key: str, reason: str, detail: str = "") -> None:
        """Record that a trial failed: a short reason for tables, a detail for people. A trial that is done stays so."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        _replace(self.folder(key) / "failure.json", _json({"reason": reason, "detail": detail, "when": when}))

    def state(self, key: str) -> State:
        """`running` means that it was opened and has no end on record, whether a process is at it or not."""
        folder = self.folder(key)
        if _intact(folder):
            return "done"
        if (folder / "failure.json").exists():
            return "failed"
        return "running" if (folder / "spec.json").exists() else "absent"

    def result(self, key: str) -> dict[str, Any]:
        """The result of a trial that is done.

        Raises:
            LookupError: it is not.
        """
        if not _intact(self.folder(key)):
            raise LookupError(f"trial {key} has no result: it is {self.state(key)}")
        return self._read(key, "result.json")

    def failure(self, key: str) -> dict[str, Any]:
        """Reason, detail and time (ISO, UTC) of a failed trial.

        Raises:
            LookupError: there is no failure on record.
        """
        return self._read(key, "failure.json")

    def spec(self, key: str) -> dict[str, Any]:
        """What a trial was opened with.

        Raises:
            LookupError: it never was.
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

    def weights(self, key: str) -> Path:
        """Where the trained network of a trial is, if it was kept."""
        return self.folder(key) / "weights.safetensors"

    def has_weights(self, key: str) -> bool:
        """Whether it was."""
        return self.weights(key).is_file()

    def keys(self) -> list[str]:
        """The keys of all trials that were ever opened, sorted."""
        return sorted(path.parent.name for path in self.root.glob("*/spec.json") if _KEY.fullmatch(path.parent.name))

    def _read(self, key: str, name: str) -> dict[str, Any]:
        path = self.folder(key) / name
        if not path.exists():
            raise LookupError(f"trial {key} has no {name}: it is {self.state(key)}")
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content


def _intact(folder: Path) -> bool:
    """Whether DONE is there and holds the checksum of the result beside it."""
    try:
        return (folder / "DONE").read_bytes() == hashlib.sha256(
            (folder / "result.json").read_bytes()
        ).hexdigest().encode()
    except FileNotFoundError:
        return False


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()


def _npz(arrays: PerQuery) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _parsed(line: bytes) -> dict[str, float] | None:
    """The record of one line; None for the rest of a torn one, which is never a whole object."""
    try:
        record: dict[str, float] = json.loads(line)
    except ValueError:
        return None
    return record


def _replace(path: Path, content: bytes) -> None:
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
