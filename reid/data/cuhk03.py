"""Reader of CUHK03 (Li et al., DeepReID, CVPR 2014) by the new protocol (Zhong et al., CVPR 2017).

767 identities train and 700 are the test, seen by two cameras; the boxes are a detector's or drawn by hand, which makes
two data sets. Two forms are read: Market-1501's folders, whose images are PNG, and a folder of all images (named
`1_001_2_03.png`: camera 2) beside the protocol's .mat file. The classic protocol of 20 splits is another one: its CMC
is not comparable.
"""

import re
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

_RAW_HOMES = ("cuhk03", "CUHK03", "cuhk03_new", "CUHK03_New")
_RAW = ("cuhk03_release/cuhk-03.mat", "cuhk-03.mat")
_INDICES: dict[SplitName, str] = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}
_NAME = re.compile(r"\d_\d{3}_([12])_\d{2}\.png")


def read(root: Path, *, boxes: Boxes) -> list[Record]:
    """The records of CUHK03 with the boxes of one kind, under `root`.

    Raises:
        FileNotFoundError: neither form is there.
        ValueError: there is only the raw cuhk-03.mat, a folder holds no image, a name does not parse, or the
            protocol's file is not what it should be.
    """
    protocol = f"cuhk03_new_protocol_config_{boxes}.mat"
    forms = [Form(_folder_homes(root, boxes), market1501.INSIDE)]
    forms += [Form((*_RAW_HOMES, "."), (protocol, f"{images}_{boxes}/")) for images in ("images", "cuhk03")]
    home = find(root, forms)
    if home is None:
        raise _raw_only(root, boxes) or not_found(root, forms, name=DISPLAY_NAMES[boxes])
    if home.inside == market1501.INSIDE:
        return market1501.records(home)
    return _read_protocol(home, home.folder / protocol, home.inside[1])


def _folder_homes(root: Path, boxes: Boxes) -> list[str]:
    """Where Market-1501's folders may lie; last the folder itself, unless its name says the other kind of boxes."""
    names = ["cuhk03-np", "CUHK03-NP", *sorted(path.name for path in root.glob("[Cc][Uu][Hh][Kk]03[-_]*"))]
    homes = [f"{name}/{boxes}" for name in names] + [name for name in names if name.endswith(boxes)] + [boxes]
    other = "labeled" if boxes == "detected" else "detected"
    return homes if other in root.absolute().name else [*homes, "."]


def _read_protocol(home: Home, protocol: Path, below: str) -> list[Record]:
    content = matfile.read(protocol, ("filelist", "labels", *_INDICES.values()))
    names = _texts(protocol, content["filelist"])
    labels = _numbers(protocol, "labels", content["labels"], highest=None)
    if len(labels) != len(names):
        raise _fault(protocol, f"labels has {len(labels)} entries and filelist {len(names)}")
    refuse_names(protocol, [name for name in names if not _NAME.fullmatch(name)], "are not such as 1_001_2_03.png")
    rows = [
        (split, number - 1)
        for split, key in _INDICES.items()
        for number in _numbers(protocol, key, content[key], highest=len(names))
    ]
    entries = [(f"{protocol}, filelist, entry {row + 1}", names[row]) for _, row in rows]
    paths = home.listed(entries, below=below, source=protocol)
    return [
        Record(path, labels[row], int(names[row].split("_")[2]), split)
        for path, (split, row) in zip(paths, rows, strict=True)
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


def _raw_only(root: Path, boxes: Boxes) -> ValueError | None:
    """What to do with the raw set, if that is what there is."""
    raw = [root / home / name for home in (*_RAW_HOMES, ".") for name in _RAW if (root / home / name).is_file()]
    if not raw:
        return None
    home = raw[0].parent.parent if raw[0].parent.name == "cuhk03_release" else raw[0].parent
    return ValueError(
        f"{raw[0]} is a MATLAB 7.3 (HDF5) file, which is not read here; use the folders of CUHK03-NP, "
        f"cuhk03-np/{boxes}/ with {', '.join(market1501.INSIDE)}, or save its images as "
        f"{home / f'images_{boxes}'}/1_001_1_01.png and so on, beside cuhk03_new_protocol_config_{boxes}.mat"
    )
