"""Reader of CUB-200-2011 (Wah et al., Caltech technical report CNS-TR-2011-001), birds, as metric learning uses it.

The first 100 classes train and the other 100 are the test (Oh Song et al., Lifted Structured Feature Embedding, CVPR
2016). The set's own train_test_split.txt is for classification and has every class in both parts: it is not read.

Its boxes, of which a paper's "cropped" means the content, count pixels from 0 (some of the real ones begin there), and
most that go to an image's border end one pixel before it; a few reach one pixel beyond.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from reid.data.layout import Form, locate, read_rows, shorten, whole
from reid.data.manifest import Box, Expected, Record

DISPLAY_NAME = "CUB-200-2011"
EXPECTED = {"train": Expected(5_864, 100), "test": Expected(5_924, 100)}

_HOMES = ("CUB_200_2011", "cub200/CUB_200_2011", "cub200", "CUB-200-2011/CUB_200_2011", "CUB-200-2011", ".")
_IMAGES, _CLASSES, _BOXES = "images.txt", "image_class_labels.txt", "bounding_boxes.txt"
_LISTS = [(_IMAGES, ["path"]), (_CLASSES, ["class"]), (_BOXES, ["x", "y", "width", "height"])]
_TRAINING_CLASSES, _ALL_CLASSES = 100, 200


def read(root: Path, *, cropped: bool = False) -> list[Record]:
    """The records of CUB-200-2011 under `root`, of whole images or `cropped` to their boxes.

    Raises:
        FileNotFoundError: the images, a list, or files that a list names are not there.
        ValueError: a list does not parse, or they do not have the same images.
    """
    lists = dict(_LISTS if cropped else _LISTS[:2])
    home = locate(root, [Form(_HOMES, ("images/", *lists))], name=DISPLAY_NAME)
    rows = {name: _by_number(home.folder / name, columns) for name, columns in lists.items()}
    images, classes = rows[_IMAGES], rows[_CLASSES]
    for name, others in rows.items():
        if alone := sorted(images.keys() ^ others.keys(), key=int):
            raise ValueError(
                f"{home.folder}: {len(alone)} images are in only one of {_IMAGES} and {name}, by number: "
                f"{shorten(alone)}; unpack the data set again"
            )
    entries = [(where, path) for where, (path,) in images.values()]
    paths = home.listed(entries, below="images", source=home.folder / _IMAGES)
    return [
        _record(path, *classes[number], box=_box(*rows[_BOXES][number]) if cropped else None)
        for path, number in zip(paths, images, strict=True)
    ]


def _by_number(path: Path, columns: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Where each image's row is and what it holds, by the image's number."""
    found: dict[str, tuple[str, list[str]]] = {}
    for where, (number, *values) in read_rows(path, ("image", *columns)):
        if found.setdefault(str(whole(number, f"{where}: image")), (where, values)) != (where, values):
            raise ValueError(f"{where}: image {number} is listed a second time; unpack the data set again")
    return found


def _record(path: str, where: str, values: Sequence[str], *, box: Box | None) -> Record:
    identity = whole(values[0], f"{where}: class", least=1)
    if identity > _ALL_CLASSES:
        raise ValueError(f"{where}: class is {identity}, allowed: whole numbers from 1 to {_ALL_CLASSES}")
    return Record(path, identity, 0, "train" if identity <= _TRAINING_CLASSES else "test", box)


def _box(where: str, values: Sequence[str]) -> Box:
    """The pixels that a box touches; the real ones are whole numbers, though written as fractions."""
    try:
        x, y, width, height = map(float, values)
        if width > 0 and height > 0:
            return math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height)
    except (ValueError, OverflowError):  # no number, or not finite
        pass
    raise ValueError(f"{where}: the box is {' '.join(values)!r}, allowed: x, y and, above 0, width and height")
