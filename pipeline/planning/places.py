"""Where downloaded data sets are looked for: the one answer that `prepare` and `doctor` share."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.data.readers import reader

_VARIABLES = ("REID_DATASETS", "FASTREID_DATASETS")  # ours, and the one that users of fast-reid have set already
_USUAL = "./datasets"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder that is looked at for data sets, and what names it."""

    source: str
    path: Path
    exists: bool

    @property
    def fault(self) -> str:
        """What to say of a place that somebody named and that is no folder; else nothing."""
        return "" if self.exists or self.source == _USUAL else f"{self.source} is {self.path}, which is no folder"

    def __str__(self) -> str:
        return f"{self.path} ({self.source}{'' if self.exists else ', no such folder'})"


def named(root: Path, *, option: str | None, setting: str | None) -> list[Place]:
    """All places, the first to be looked at first: the option, the environment, params.yaml, then ./datasets.

    A place that is named twice is looked at once. `~` is the home folder; other relative paths are below `root`.

    Args:
        root: the checkout.
        option: `--root` of the command line.
        setting: `prepare.root` of params.yaml.
    """
    texts = {"--root": option, **{name: os.environ.get(name) for name in _VARIABLES}, "prepare.root": setting}
    sources: dict[Path, str] = {}
    for source, text in {**texts, _USUAL: "datasets"}.items():
        if text:  # a variable that is empty is as good as not set
            sources.setdefault(root / os.path.expanduser(text), source)
    return [Place(source=source, path=path, exists=os.path.isdir(path)) for path, source in sources.items()]


def searched(places: Sequence[Place]) -> list[Place]:
    """Those that exist; the first, for its reader to say what it lacks, if none does."""
    return [place for place in places if place.exists] or list(places[:1])


def extracted(place: Path, dataset: str) -> Path:
    """Where the archive of a data set that lies in a place is extracted to; the folder is there once it is whole.

    Keys that are read from one archive share the folder.
    """
    return place / f"{reader(dataset).shared or dataset}-extracted"
