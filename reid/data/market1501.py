"""Reader of Market-1501 (Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015).

Three folders of files such as `0002_c1s1_000451_03.jpg`: identity 2, camera 1. In the gallery, identity -1 marks junk,
which is never ranked, and 0000 a distractor, which is.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reid.data.manifest import Expected, Record, SplitName

DISPLAY_NAME = "Market-1501"
EXPECTED = {"train": Expected(12_936, 751), "query": Expected(3_368, 750), "gallery": Expected(19_732)}
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})

_HOMES = (".", "Market-1501-v15.09.15", "market1501", "market1501/Market-1501-v15.09.15", "Market-1501")
_FOLDERS: dict[SplitName, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
# A second digit after the camera would be cut off in silence, so it does not match.
_NAME = re.compile(r"(-1|\d+)_c(\d)(?!\d)")
_SHOWN = 5


def read(root: Path) -> list[Record]:
    """The records of Market-1501, or of a set in its layout, under `root`.

    Files that are not images and hidden files are passed over.

    Raises:
        FileNotFoundError: the folders are not there; the message shows the tree expected and the closest folder found.
        ValueError: a folder holds no image, or a name does not parse; the message lists the first few.
    """
    home = locate(root, homes=_HOMES, inside=_FOLDERS.values(), name=DISPLAY_NAME)
    return [record for split, folder in _FOLDERS.items() for record in _read_folder(root, home / folder, split)]


def _read_folder(root: Path, folder: Path, split: SplitName) -> Iterator[Record]:
    files = image_files(folder)
    unparsed = [file.name for file in files if not _NAME.match(file.name)]
    if unparsed:
        more = f" and {len(unparsed) - _SHOWN} more" if len(unparsed) > _SHOWN else ""
        raise ValueError(
            f"{folder}: {len(unparsed)} image names do not start with <identity>_c<camera>, as in "
            f"0002_c1s1_000451_03.jpg: {', '.join(unparsed[:_SHOWN])}{more}"
        )
    for file in files:
        if match := _NAME.match(file.name):
            yield Record(file.relative_to(root).as_posix(), int(match[1]), int(match[2]), split)


def image_files(folder: Path) -> list[Path]:
    """The image files directly in `folder`, sorted by name, hidden ones (such as macOS's `._` copies) left out.

    Raises:
        ValueError: there is none.
    """
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    files = [folder / name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return files


def locate(root: Path, *, homes: Sequence[str], inside: Iterable[str], name: str) -> Path:
    """The first of `homes` under `root` that holds all the folders `inside`.

    Raises:
        FileNotFoundError: none does; the message names the path, the variable that sets it, the tree expected and the
            closest folder found.
    """
    folders = list(inside)
    for home in homes:
        if all((root / home / folder).is_dir() for folder in folders):
            return root / home
    accepted = [home for home in homes if home != "."]
    raise FileNotFoundError(
        f"{name} is not under {root}\n"
        f"Set REID_DATASETS to the folder that holds it. Expected there:\n"
        f"  {accepted[0]}/  (or {', '.join(f'{home}/' for home in accepted[1:])}, or the folder itself)\n"
        + "".join(f"    {folder}/\n" for folder in folders)
        + f"Closest folder found: {_closest(root, accepted, folders)}"
    )


def _closest(root: Path, homes: Sequence[str], inside: Sequence[str]) -> str:
    """The folder near `root` that holds most of what was looked for, or else has the most similar name."""
    candidates = [folder for folder in (root, *root.absolute().parents) if folder.is_dir()][:1]
    candidates += _subfolders(candidates[0])
    if root.is_dir():
        candidates += [below for folder in candidates[1:] for below in _subfolders(folder)]

    def score(folder: Path) -> tuple[int, float]:
        wanted = [Path(home).name for home in homes] if root.is_dir() else [root.name]
        likeness = max(difflib.SequenceMatcher(None, folder.name.lower(), name.lower()).ratio() for name in wanted)
        return sum((folder / name).is_dir() for name in inside), likeness

    best = max(candidates, key=score)
    lacking = [name for name in inside if not (best / name).is_dir()]
    return f"{best} " + (f"(lacks {', '.join(lacking)})" if lacking else "(complete, but not under an accepted name)")


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry) for entry in os.scandir(folder) if entry.is_dir())
    except PermissionError:
        return []
