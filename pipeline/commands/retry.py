"""Forget failures, so that they no longer stand in `status` and the next sweep tries those trials; no torch, no Ray."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.commands import status
from pipeline.planning.strict import ParamsError, nearest
from pipeline.planning.words import counted
from pipeline.running.declaration import read_note
from pipeline.storage import census, locks
from pipeline.storage.store import TrialStore

LOCKED = 4
_LEAST = 6  # digits of a key that name a trial


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """A failure that was forgotten: of which trial, and what it was. What the trial had trained stays, for a resume."""

    key: str
    name: str
    reason: str


def run(root: Path, names: Sequence[str], *, as_json: bool) -> int:
    """Forget the failures of the trials or rows named, all of them without names, and say which.

    Returns:
        0: done, even where nothing had failed. 4: a sweep is running; nothing was touched.

    Raises:
        ParamsError: a name fits no failed trial; nothing was touched.
    """
    store = status.store_of(root)
    try:
        with locks.alone_at(root, store):
            forgotten, left = forget(root, store, names)
    except locks.HeldError:
        print("a sweep is running, and tries again what is worth it: wait for it or stop it", file=sys.stderr)
        return LOCKED
    if as_json:
        print(json.dumps({"forgotten": [asdict(one) for one in forgotten], "left": left}))
    else:
        print("\n".join(_lines(forgotten, left)))
    return 0


def forget(root: Path, store: TrialStore, names: Sequence[str]) -> tuple[list[Forgotten], int]:
    """Forget the failures of the trials named, by what `_names_of` says; all of them without names.

    Returns:
        What was forgotten, and how many other failures stay on record.

    Raises:
        ParamsError: a name fits no failed trial; nothing was touched.
    """
    store.refresh()
    note, rows = read_note(root), _rows(root)
    folders = {Path(folder).name: folder for folder in census.folders(store)}
    failed = sorted(key for key, folder in folders.items() if census.look(folder).state == "failed")
    known = {
        key: [status.name_of(key, note, store), *(row for row, keys in rows.items() if key in keys)] for key in failed
    }
    chosen = _chosen(names, known) if names else failed
    forgotten = [Forgotten(key=key, name=known[key][0], reason=store.failure(key)["reason"]) for key in chosen]
    for key in chosen:
        store.forget(key)
    return forgotten, len(failed) - len(chosen)


def _chosen(names: Sequence[str], known: dict[str, list[str]]) -> list[str]:
    """The keys that names stand for: a key or its beginning, a trial's name, a row `bdb_table2: BDB`, or its label."""
    chosen: dict[str, None] = {}
    problems = []
    for name in names:
        begins = name if len(name) >= _LEAST else "none"
        found = [key for key, called in known.items() if name in called or key.startswith(begins)]
        chosen |= dict.fromkeys(found)
        if not found:
            close = nearest(name, [one for called in known.values() for one in called])
            said = f"; {counted(len(known), 'trial')} have failed" if known and not close else ""
            problems.append(f"{name}: no trial of this key, name or row has failed{close or said}")
    if problems:
        raise ParamsError(problems)
    return sorted(chosen)


def _rows(root: Path) -> dict[str, set[str]]:
    """The keys of the trials of every row of the last sweep's tables, by `experiment: label` and by label."""
    path = root / "results" / "plan.json"
    rows: dict[str, set[str]] = {}
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"experiments": []}
    for experiment in content["experiments"]:
        for row in experiment["rows"]:
            keys = {key for cell in row["keys"].values() for key in cell}
            for name in (f"{experiment['name']}: {row['label']}", row["label"]):
                rows.setdefault(name, set()).update(keys)
    return rows


def _lines(forgotten: Sequence[Forgotten], left: int) -> list[str]:
    if not forgotten:
        return ["nothing in the store has failed"]
    lines = [f"forgot: {one.name}: {one.reason}" for one in forgotten]
    stays = f"; {counted(left, 'other failure')} stay on record, and a sweep tries them, too" if left else ""
    rest = "the next sweep tries them from their last state; what is done stays as it is"
    return [*lines, f"{counted(len(forgotten), 'failure')} forgotten: {rest}{stays}"]
