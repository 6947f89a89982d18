"""Reader of CUHK03 (Li et al., DeepReID, CVPR 2014) by the new protocol (Zhong et al., CVPR 2017).

767 identities train and 700 are the test, seen by two cameras; the boxes are a detector's or drawn by hand, which makes
two data sets. Two forms are read: Market-1501's folders, whose images are PNG, and a folder of all images (named
`1_001_2_06.png`: camera 2) beside the protocol's .mat file. The second is also what `reid.data.cuhk03_raw` makes of
cuhk-03.mat. The classic protocol of 20 splits is another one: its CMC is not comparable.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reid.data import market1501, matfile
from reid.data.layout import Form, Home, find, not_found, refuse_names
from reid.data.manifest import Expected, Record, SplitName

Boxes = Literal["detected", "labeled"]

DISPLAY_NAMES: dict[Boxes, str] = {"detected": "CUHK03-NP: detected", "labeled": "CUHK03-NP: labeled"}
EXPECTED: dict[Boxes, dict[str, Expected]] = {
    "detected": {"train": Expected(7_365, 767), "query": Expected(1_400, 700), "gallery": Expected(5_332, 700)},
    "labeled": {"train": Expected(7_368, 767), "query": Expected(1_400, 700), "gallery": Expected(5_328, 700)},
}

HOMES = ("cuhk03", "CUHK03", "cuhk03_new", "CUHK03_New", ".")

_RAW = ("cuhk03_release/cuhk-03.mat", "cuhk-03.mat")
_INDICES: dict[SplitName, str] = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}
_NAME = re.compile(r"\d_\d{3}_([12])_\d{2}\.png")


@dataclass(frozen=True)
class Listed:
    """An image of the protocol; `where` in its file it is, for messages."""

    where: str
    name: str
    identity: int
    split: SplitName


def read(root: Path, *, boxes: Boxes) -> list[Record]:
    """The records of CUHK03 with the boxes of one kind, under `root`.

    Raises:
        FileNotFoundError: neither form is there; of the raw set, the message says that it is to be extracted.
        ValueError: a folder holds no image, a name does not parse, or the protocol's file is not what it should be.
    """
    protocol = protocol_name(boxes)
    folders = Form(_folder_homes(root, boxes), market1501.INSIDE)
    forms = [folders, *(Form(HOMES, (protocol, f"{images}_{boxes}/")) for images in ("images", "cuhk03"))]
    home = find(root, forms)
    if home is None:
        raise _raw_only(root, boxes) or not_found(
            root, [folders, Form(HOMES, (protocol, _RAW[0])), *forms[1:]], name=DISPLAY_NAMES[boxes]
        )
    if home.inside == market1501.INSIDE:
        return market1501.records(home)
    return _read_protocol(home, home.folder / protocol, home.inside[1])


def protocol_name(boxes: Boxes) -> str:
    """The file of the new protocol for the boxes of one kind."""
    return f"cuhk03_new_protocol_config_{boxes}.mat"


def find_raw(root: Path) -> Path | None:
    """The raw set, cuhk-03.mat, under `root`."""
    places = (root / home / name for home in HOMES for name in _RAW)
    return next((path for path in places if path.is_file()), None)


def _folder_homes(root: Path, boxes: Boxes) -> list[str]:
    """Where Market-1501's folders may lie; last the folder itself, unless its name says the other kind of boxes."""
    names = ["cuhk03-np", "CUHK03-NP", *sorted(path.name for path in root.glob("[Cc][Uu][Hh][Kk]03[-_]*"))]
    homes = [f"{name}/{boxes}" for name in names] + [name for name in names if name.endswith(boxes)] + [boxes]
    other = "labeled" if boxes == "detected" else "detected"
    return homes if other in root.absolute().name else [*homes, "."]


def _read_protocol(home: Home, protocol: Path, below: str) -> list[Record]:
    images = listed(protocol)
    paths = home.listed([(image.where, image.name) for image in images], below=below, source=protocol)
    return [
        Record(path, image.identity, int(image.name.split("_")[2]), image.split)
        for path, image in zip(paths, images, strict=True)
    ]


def listed(protocol: Path) -> list[Listed]:
    """The images that a file of the new protocol names, by split.

    Raises:
        ValueError: it is not such a file, or a name does not parse.
    """
    content = matfile.read(protocol, ("filelist", "labels", *_INDICES.values()))
    names = _texts(protocol, content["filelist"])
    labels = _numbers(protocol, "labels", content["labels"], highest=None)
    if len(labels) != len(names):
        raise _fault(protocol, f"labels has {len(labels)} entries and filelist {len(names)}")
    refuse_names(protocol, [name for name in names if not _NAME.fullmatch(name)], "are not such as 1_001_2_06.png")
    return [
        Listed(f"{protocol}, filelist, entry {number}", names[number - 1], labels[number - 1], split)
        for split, key in _INDICES.items()
        for number in _numbers(protocol, key, content[key], highest=len(names))
    ]


def _texts(protocol: Path, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _fault(protocol, "filelist is not a cell array of names")
    return value


def _numbers(protocol: Path, key: str, value: Any, *, highest: int | None) -> list[int]:
    """Whole numbers from 1 on: MATLAB's indices begin there."""
    numbers = matfile.whole_numbers(value)
    if numbers is None or min(numbers, default=1) < 1 or (highest is not None and max(numbers, default=1) > highest):
        raise _fault(protocol, f"{key} is no array of whole numbers from 1" + (f" to {highest}" if highest else ""))
    return numbers


def _fault(protocol: Path, fault: str) -> ValueError:
    return ValueError(f"{protocol} is not the new protocol's file: {fault}; take it from the paper's repository again")


def _raw_only(root: Path, boxes: Boxes) -> FileNotFoundError | None:
    """What to do with the raw set, if that is what there is."""
    raw = find_raw(root)
    if raw is None:
        return None
    return FileNotFoundError(
        f"{DISPLAY_NAMES[boxes]} is not under {root} but in {raw}, whose images are to be extracted first; the prepare "
        f"stage does that"
    )
