"""How far a sweep is, from its note, the store and the lock: no Ray, no torch, and nothing is written.

    declared = done + pruned + failed + running + waiting

A sweep leaves a note of what it declares (`pipeline.running.declaration`). What its searches have declared since is
what was opened since. Without a note everything in the store counts as declared.
"""

import json
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.planning.strict import ParamsError, read_yaml
from pipeline.planning.words import counted, duration
from pipeline.running.declaration import Note, fingerprint, read_note
from pipeline.storage import census, locks
from pipeline.storage.remote import store_at
from pipeline.storage.store import TrialStore

_WATCH_SECONDS, _SHOWN, _LONGEST = 2.0, 8, 140
_REMEDIES = {  # by the kind that a reason begins with
    "diverged": "the same again would diverge again: lower recipe.schedule.peak_lr for it, or leave it out",
    "out of memory": "give it room: fewer trials at a time (sweep.concurrent, sweep.resources); then make retry",
    "timeout": "see where it hung, below; raise sweep.trial_minutes or sweep.silent_minutes; then make retry",
    "worker lost": "see whether the machine is well (dmesg, disk, memory); then make retry",
    "file or network error": "mend what the reason names; then make retry",
    "damaged weights": "make retry trains that network again",
    "unknown": "make retry",
}
_ERROR_REMEDY = "an error in the code or the settings, which would come again: mend it, then make retry"


def name_of(key: str, note: Note | None, store: TrialStore) -> str:
    """The name of a trial, by the note, or else by what is on record of it; its key where that is lacking."""
    if note and key in note.trials:
        return str(note.trials[key]["name"])
    try:
        return census.plain_name(key, store.spec(key))
    except (LookupError, ValueError, TypeError):  # a record that was never written, or is damaged
        return key


@dataclass(frozen=True, kw_only=True)
class Running:
    """A trial that a worker is at. `epoch_seconds`: of its last epochs, None before the first; `silent_seconds`: since
    anything was heard of it."""

    key: str
    name: str
    epoch: int
    epochs: int | None
    epoch_seconds: float | None
    silent_seconds: float


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A trial that failed: why, the last line of what it left, and what mends it."""

    key: str
    name: str
    reason: str
    last_line: str
    remedy: str
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """`declared` = `done` + `pruned` + `failed` + len(`running`) + `waiting`; `failed` is the sum of `failed_by`.

    `owner`: who holds the lock of the sweep; empty if nobody does. `later`: trials that searches may ask for besides.
    `eta_seconds`: of what is declared; None without a sweep, or before anything was measured. `stale`: params.yaml has
    changed since the note was written. `noted`: there is a note.
    """

    store: str
    owner: str
    noted: bool
    stale: bool
    declared: int
    done: int
    pruned: int
    failed: int
    failed_by: dict[str, int]
    running: list[Running]
    waiting: int
    later: int
    eta_seconds: float | None
    cpu_hours: float
    gpu_hours: float
    failures: list[Failed]


def run(root: Path, *, as_json: bool, watch: bool) -> None:
    """Print how far the sweep of the checkout at `root` is; with `watch` every two seconds until it has ended."""
    status = read(root)
    if as_json:
        print(json.dumps(asdict(status)))
    elif watch and status.owner and sys.stdout.isatty():
        _watch(root)
    else:
        print(describe(status))
        while watch and status.owner:
            time.sleep(_WATCH_SECONDS)
            status = read(root)
            print(describe(status).partition("\n")[0], flush=True)


def _watch(root: Path) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            status = read(root)
            live.update(Text(describe(status)), refresh=True)
            if not status.owner:
                return
            time.sleep(_WATCH_SECONDS)


def store_of(root: Path) -> TrialStore:
    """The trial store that params.yaml names.

    Raises:
        ParamsError: it names none.
    """
    sweep = read_yaml(root / "params.yaml").get("sweep")
    store, cache = (sweep.get(name) if isinstance(sweep, dict) else None for name in ("store", "cache"))
    if not isinstance(store, str) or not isinstance(cache, str):
        lacking = "store" if not isinstance(store, str) else "cache"
        raise ParamsError([f"{root / 'params.yaml'}: sweep.{lacking} is missing, or no text"])
    return store_at(store, root, cache=cache, patience=0)


def read(root: Path) -> Status:
    """Look at everything.

    Raises:
        ParamsError: params.yaml is missing or names no store.
        ValueError: the note is damaged.
    """
    return _Count(root).status()


class _Count:
    """The trials of a store, gone through once."""

    def __init__(self, root: Path) -> None:
        self.root, self.store, self.note = root, store_of(root), read_note(root)
        self.store.refresh()
        self.owner = locks.holder(root, self.store)
        self.states: Counter[str] = Counter()
        self.failed_by: Counter[str] = Counter()
        self.running: list[Running] = []
        self.failures: list[Failed] = []
        self.waiting: list[str] = []
        self.cpu_seconds = self.gpu_seconds = 0.0
        self.paces: dict[str, list[float]] = defaultdict(list)

    def status(self) -> Status:
        """Count and sum up."""
        known = self.note.trials if self.note else {}
        later = self._opened_since()
        for key in (*known, *later):
            self._count(key)
        return Status(
            store=self.store.place,
            owner=self.owner,
            noted=self.note is not None,
            stale=self.note is not None and self.note.params != fingerprint(self.root),
            declared=len(known) + len(later),
            done=self.states["done"],
            pruned=self.states["pruned"],
            failed=sum(self.failed_by.values()),
            failed_by=dict(sorted(self.failed_by.items(), key=lambda pair: (-pair[1], pair[0]))),
            running=sorted(self.running, key=lambda one: one.name),
            waiting=len(self.waiting),
            later=max(0, self.note.later - len(later)) if self.note else 0,
            eta_seconds=self._eta() if self.owner else None,
            cpu_hours=self.cpu_seconds / 3600,
            gpu_hours=self.gpu_seconds / 3600,
            failures=self.failures,
        )

    def _opened_since(self) -> list[str]:
        """The trials that the note does not have: those opened since; all, where there is no note."""
        known, since = (self.note.trials, self.note.started) if self.note else ({}, 0.0)
        names = (os.path.basename(folder) for folder in census.folders(self.store))
        return sorted(key for key in names if key not in known and self._modified(key, "spec.json") >= max(since, 1.0))

    def _modified(self, key: str, name: str) -> float:
        try:
            return os.stat(f"{self.store.root}/{key}/{name}").st_mtime
        except OSError:
            return 0.0

    def _count(self, key: str) -> None:
        look = census.look(f"{self.store.root}/{key}")
        if look.result is not None:
            self.states[look.result["status"]] += 1
            self._spend(key, look.result)
        elif look.state == "failed" and not self._will_be_tried(key):
            self._fail(key)
        elif look.state == "running" and self._is_running(key):
            self._run(key)
        else:
            self.waiting.append(key)

    def _spend(self, key: str, result: Mapping[str, Any]) -> None:
        cost = result["cost"]
        self.cpu_seconds += cost["seconds"] * cost["cpus"]
        self.gpu_seconds += cost["seconds"] * cost["gpus"]
        self.paces[self._kind(key)].append(cost["seconds"] / max(1, result["epochs"]))

    def _will_be_tried(self, key: str) -> bool:
        """A sweep tries again what failed before it."""
        return bool(self.owner) and self.note is not None and self._modified(key, "failure.json") < self.note.started

    def _is_running(self, key: str) -> bool:
        """Whether a worker of this sweep is at it: it was opened since, and no attempt has ended since."""
        opened = self._modified(key, "spec.json")
        if not self.owner or self.note is None or opened < self.note.started:
            return False
        attempts = self.store.attempts(key)
        return not attempts or "ended" not in attempts[-1] or _seconds(attempts[-1]["ended"]) < int(opened)

    def _run(self, key: str) -> None:
        lines = self.store.epochs(key)
        heard = max(self._modified(key, name) for name in ("spec.json", "attempts.jsonl", "metrics.jsonl"))
        took = [line["seconds"] for line in lines[-5:] if "seconds" in line]
        one = Running(
            key=key,
            name=self._name(key),
            epoch=int(lines[-1]["epoch"]) if lines else 0,
            epochs=self.note.trials[key]["epochs"] if self.note and key in self.note.trials else None,
            epoch_seconds=statistics.median(took) if took else None,
            silent_seconds=max(0.0, time.time() - heard),
        )
        self.running.append(one)
        self.paces[self._kind(key)] += took

    def _fail(self, key: str) -> None:
        failure = self.store.failure(key)
        kind = failure["reason"].partition(":")[0]
        lines = [line.strip() for line in failure["detail"].splitlines() if line.strip()]
        self.failed_by[kind] += 1
        self.failures.append(
            Failed(
                key=key,
                name=self._name(key),
                reason=failure["reason"],
                last_line=lines[-1] if lines else "",
                remedy=_remedy(kind, failure["reason"]),
                attempts=len(self.store.attempts(key)),
            )
        )

    def _eta(self) -> float | None:
        """Seconds until what is declared has ended, if as many trials run at a time as do now."""
        every = [pace for found in self.paces.values() for pace in found]
        if not every:
            return None
        usual = statistics.median(every)
        paces = {kind: statistics.median(found) for kind, found in self.paces.items() if found}
        left = 0.0
        for one in self.running:
            pace = one.epoch_seconds or paces.get(self._kind(one.key), usual)
            left += max(0, (one.epochs or one.epoch) - one.epoch) * pace
        for key in self.waiting:
            epochs = self.note.trials[key]["epochs"] if self.note and key in self.note.trials else 0
            left += max(1, epochs) * paces.get(self._kind(key), usual)
        return left / max(1, len(self.running))

    def _kind(self, key: str) -> str:
        return str(self.note.trials[key]["kind"]) if self.note and key in self.note.trials else ""

    def _name(self, key: str) -> str:
        return name_of(key, self.note, self.store)


def _remedy(kind: str, reason: str) -> str:
    if reason.endswith("whose network it scores, failed"):
        return "mend that one: it is scored with it"
    return _REMEDIES.get(kind, _ERROR_REMEDY)


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def describe(status: Status) -> str:
    """The status for people; the first line is the count."""
    by = ", ".join(f"{number} {kind}" for kind, number in status.failed_by.items())
    first = (
        f"{counted(status.declared, 'trial')} declared = {status.done} done + {status.pruned} pruned + "
        f"{status.failed} failed{f' ({by})' * bool(by)} + {len(status.running)} running + {status.waiting} waiting"
    )
    more = f"; searches may ask for up to {status.later} more" * bool(status.later)
    return "\n".join([first + more, *_sweep_lines(status), *_running_lines(status), *_failure_lines(status)])


def _sweep_lines(status: Status) -> list[str]:
    eta = f"; about {duration(status.eta_seconds)} left" if status.eta_seconds is not None else ""
    lines = [f"sweep: {status.owner}{eta}" if status.owner else "sweep: none is running"]
    if not status.noted:
        lines.append(
            "no sweep has left a note here: these are all trials of the store; python -m pipeline plan declares"
        )
    if status.stale:
        lines.append(
            "params.yaml has changed since that sweep started: python -m pipeline plan says what it declares now"
        )
    gpu = f"{status.gpu_hours:.2f} GPU-hours, " * bool(status.gpu_hours)
    return [*lines, f"spent on what is done: {gpu}{status.cpu_hours:.2f} CPU-hours"]


def _running_lines(status: Status) -> list[str]:
    lines = []
    for one in status.running:
        epochs = f"{one.epoch}/{one.epochs}" if one.epochs is not None else str(one.epoch)
        pace = f", {one.epoch_seconds:.1f} s an epoch" if one.epoch_seconds is not None else ""
        lines.append(f"  {one.name}: epoch {epochs}{pace}, last heard of {duration(one.silent_seconds)} ago")
    return lines


def _failure_lines(status: Status) -> list[str]:
    lines = []
    for one in status.failures[:_SHOWN]:
        lines += [f"failed: {one.name} ({counted(one.attempts, 'attempt')}): {one.reason}"[:_LONGEST]]
        lines += [f"  {one.last_line}"[:_LONGEST]] if one.last_line and one.last_line not in one.reason else []
        lines.append(f"  remedy: {one.remedy}")
    if len(status.failures) > _SHOWN:
        lines.append(f"and {len(status.failures) - _SHOWN} more that failed: python -m pipeline status --json")
    return lines
