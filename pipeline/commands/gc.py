"""What of the store nothing declared needs any more: found, listed with its size, and deleted when told to.

What the current params.yaml declares is never touched. A trial that merely other parameters declare, with the code and
the data of today, is what makes going back to them free: it is kept unless `undeclared` is asked for.
"""

import functools
import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.planning import keys
from pipeline.planning.params import load
from pipeline.planning.words import counted, size
from pipeline.running import outline
from pipeline.running.agenda import Agenda
from pipeline.storage import locks
from pipeline.storage.remote import store_at
from pipeline.storage.store import GONE, Held, TrialStore
from reid.data.dataset import ReidData

LOCKED = 4
_DAY = 86400.0
CODE, DATA, UNDECLARED = "trials of other code", "trials of other data", "trials of other parameters"
DAMAGED_SPEC, STATES, NETWORKS = (
    "trials without a readable record",
    "states of finished trials",
    "networks nobody needs",
)
ASIDE, SCRATCH = "damaged files set aside", "scratch"


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that can go: a folder of the store or a file in one, why, its bytes, and the days since it was written.

    `path` is relative to the store.
    """

    path: str
    why: str
    bytes: int
    days: float


def run(root: Path, *, yes: bool, older_than: float, undeclared: bool, as_json: bool) -> int:
    """List what can go; delete it with `yes`.

    Args:
        root: of the checkout.
        yes: delete.
        older_than: days; what was written since stays.
        undeclared: trials of other parameters, too.
        as_json: print JSON.

    Returns:
        0: done. 4: a sweep is running; nothing was looked at.
    """
    params = load(root / "params.yaml")
    store = store_at(params.sweep.store, root, cache=params.sweep.cache)
    try:
        with locks.alone_at(root, store):
            found = [item for item in find(root, store) if item.days >= older_than]
            going = [item for item in found if undeclared or item.why != UNDECLARED]
            if yes:
                delete(going, store)
    except locks.HeldError as held:
        print(f"a sweep is running: {held}; wait for it or stop it", file=sys.stderr)
        return LOCKED
    kept = [item for item in found if item not in going]
    print(_as_json(going, kept, deleted=yes) if as_json else describe(going, kept, deleted=yes))
    return 0


def find(root: Path, store: TrialStore) -> list[Item]:
    """All that nothing declared needs, in the order of paths.

    Raises:
        ParamsError: params.yaml is wrong, so that nobody can say what it declares.
        FileNotFoundError: a data set has not been prepared, and so it cannot be said either.
    """
    params = load(root / "params.yaml")
    agenda = Agenda(outline.declared(root, params), store)
    current = _Current(root)
    unfinished = agenda.unfinished()
    needed = {trial.key for trial in unfinished} | {trial.source.key for trial in unfinished if trial.source}
    best = agenda.networks.kept(store)
    items: list[Item] = []
    for folder, files in sorted(store.files().items()):
        if folder.startswith("."):
            if folder == ".tune" or folder.startswith(GONE):
                items.append(_item(folder, SCRATCH, files.values()))
        elif not _is_key(store, folder):
            continue  # not ours
        elif folder in agenda.declared:
            finished = folder not in needed and agenda.terminal(folder)
            items += _leftovers(folder, files, finished=finished, best=folder in best)
        else:
            items.append(_item(folder, current.why(store, folder), files.values()))
    return items


def delete(items: list[Item], store: TrialStore) -> None:
    """Delete files and folders."""
    for item in items:
        if "/" in item.path:
            store.remove(store.root / item.path)
        else:
            store.delete(item.path)


def describe(going: list[Item], kept: list[Item], *, deleted: bool) -> str:
    """What can go, or has gone, by reason."""
    lines = [f"{item.path}  {size(item.bytes)}, {item.days:.0f} days old: {item.why}" for item in going]
    lines += [f"{why}: {counted(number, 'item')}, {size(total)}" for why, number, total in _sums(going)]
    total = size(sum(item.bytes for item in going))
    said = f"deleted {counted(len(going), 'item')}, {total}" if deleted else f"{total} can go: --yes deletes them"
    lines.append(said if going else "nothing can go")
    if kept:
        amount = f"{counted(len(kept), 'trial')}, {size(sum(item.bytes for item in kept))}"
        lines.append(f"kept, for params.yaml may come back to them: {amount}; --undeclared lists them, too")
    return "\n".join(lines)


def _as_json(going: list[Item], kept: list[Item], *, deleted: bool) -> str:
    def tree(items: list[Item]) -> list[dict[str, Any]]:
        return [asdict(item) for item in items]

    return json.dumps({"deleted": deleted, "items": tree(going), "kept": tree(kept)})


def _sums(items: list[Item]) -> Iterator[tuple[str, int, int]]:
    for why, number in Counter(item.why for item in items).most_common():
        yield why, number, sum(item.bytes for item in items if item.why == why)


def _leftovers(folder: str, files: Mapping[str, Held], *, finished: bool, best: bool) -> Iterator[Item]:
    """What lies beside the record of a declared trial.

    `finished`: it is, and nothing waits for its network. `best`: it is a table's best, whose network is published.
    """
    for name, held in sorted(files.items()):
        if ".damaged." in name:
            yield _item(f"{folder}/{name}", ASIDE, [held])
        elif name.endswith(".tmp"):
            yield _item(f"{folder}/{name}", SCRATCH, [held])
        elif finished and name == "state.safetensors":
            yield _item(f"{folder}/{name}", STATES, [held])
        elif finished and not best and name == "weights.safetensors":
            yield _item(f"{folder}/{name}", NETWORKS, [held])


class _Current:
    """The code and the data of today, against which a record is held."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def why(self, store: TrialStore, key: str) -> str:
        """Why a trial is not declared."""
        try:
            spec = store.spec(key)
            method, on = spec["config"]["method"], spec["config"]["evaluate_on"]
            data = {spec["dataset"]: (spec["data_digest"], on)}
            if "scored_on" in spec:
                data |= {spec["scored_on"]["dataset"]: (spec["scored_on"]["data_digest"], "test")}
        except (LookupError, ValueError, TypeError):
            return DAMAGED_SPEC
        drawing = spec["pictures"]["code_digest"] if "pictures" in spec else None
        if self._code(method) != spec["code_digest"] or drawing not in (None, keys.drawing_digest()):
            return CODE
        if any(self._data(name, split) not in (digest, None) for name, (digest, split) in data.items()):
            return DATA
        return UNDECLARED

    @functools.cache  # noqa: B019 - lives as long as one command
    def _code(self, method: str) -> str | None:
        try:
            return keys.code_digest(method)
        except FileNotFoundError:
            return None  # there is no such method any more

    @functools.cache  # noqa: B019 - lives as long as one command
    def _data(self, dataset: str, split: str) -> str | None:
        """The digest of a data set today; None where it is not here, so that nobody can say."""
        try:
            return ReidData.load(self._root / "data" / dataset).digest_for("val" if split == "val" else "test")
        except (FileNotFoundError, ValueError):
            return None


def _item(path: str, why: str, files: Collection[Held]) -> Item:
    newest = max((one.modified for one in files), default=0.0)  # an empty folder is as old as can be
    days = max(0.0, time.time() - newest) / _DAY
    return Item(path=path, why=why, bytes=sum(one.bytes for one in files), days=days)


def _is_key(store: TrialStore, name: str) -> bool:
    try:
        store.folder(name)
    except ValueError:
        return False
    return True
