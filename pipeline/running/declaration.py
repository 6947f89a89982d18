"""The note that a sweep leaves of what it declares, `results/declared.json`, for whoever asks how far it is."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.planning.strict import read_yaml

NOTE = Path("results/declared.json")
_DECLARING = ("profile", "profiles", "datasets", "experiments", "seeds")  # what of params.yaml declares trials


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a sweep declared when it started: `trials` by key, each with its `name`, `kind` and `epochs`.

    `started`: seconds since 1970. `params`: `fingerprint` of params.yaml. `later`: trials that searches may ask for.
    """

    started: float
    params: str
    later: int
    trials: dict[str, dict[str, Any]]

    def write(self, root: Path) -> None:
        """Replace the note of the checkout at `root`."""
        path = root / NOTE
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)


def read_note(root: Path) -> Note | None:
    """The note of the last sweep; None if there was none.

    Raises:
        ValueError: it is damaged.
    """
    path = root / NOTE
    if not path.exists():
        return None
    try:
        return Note(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it: the next sweep writes it anew") from error


def fingerprint(root: Path) -> str:
    """A hash of what params.yaml declares."""
    tree = read_yaml(root / "params.yaml")
    declaring = {name: tree[name] for name in _DECLARING if name in tree}
    return hashlib.sha256(json.dumps(declaring, sort_keys=True, default=str).encode()).hexdigest()
