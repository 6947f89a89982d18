"""Reader of CUB-200-2011 (Wah et al., Caltech technical report CNS-TR-2011-001), birds, as metric learning uses it.

The first 100 classes train and the other 100 are the test (Oh Song et al., Lifted Structured Feature Embedding, CVPR
2016). The set's own train_test_split.txt is for classification and has every class in both parts: it is not read.
"""

from pathlib import Path

from reid.data.layout import Form, locate, read_rows, shorten, whole
from reid.data.manifest import Expected, Record

DISPLAY_NAME = "CUB-200-2011"
EXPECTED = {"train": Expected(5_864, 100), "test": Expected(5_924, 100)}

_HOMES = ("CUB_200_2011", "cub200/CUB_200_2011", "cub200", "CUB-200-2011/CUB_200_2011", "CUB-200-2011", ".")
_IMAGES, _CLASSES = "images.txt", "image_class_labels.txt"
_TRAINING_CLASSES, _ALL_CLASSES = 100, 200


def read(root: Path) -> list[Record]:
    """The records of CUB-200-2011 under `root`.

    Raises:
        FileNotFoundError: the images, a list, or files that a list names are not there.
        ValueError: a list does not parse, or the two do not have the same images.
    """
    home = locate(root, [Form(_HOMES, ("images/", _IMAGES, _CLASSES))], name=DISPLAY_NAME)
    images = _by_number(home.folder / _IMAGES, "path")
    classes = _by_number(home.folder / _CLASSES, "class")
    if alone := sorted(images.keys() ^ classes.keys(), key=int):
        raise ValueError(
            f"{home.folder}: {len(alone)} images are in only one of {_IMAGES} and {_CLASSES}, by number: "
            f"{shorten(alone)}; unpack the data set again"
        )
    paths = home.listed(images.values(), below="images", source=home.folder / _IMAGES)
    return [_record(path, *classes[number]) for path, number in zip(paths, images, strict=True)]


def _by_number(path: Path, column: str) -> dict[str, tuple[str, str]]:
    """Where each image's row is and what it holds, by the image's number."""
    found: dict[str, tuple[str, str]] = {}
    for where, (number, value) in read_rows(path, ("image", column)):
        if found.setdefault(str(whole(number, f"{where}: image")), (where, value)) != (where, value):
            raise ValueError(f"{where}: image {number} is listed a second time; unpack the data set again")
    return found


def _record(path: str, where: str, text: str) -> Record:
    identity = whole(text, f"{where}: class", least=1)
    if identity > _ALL_CLASSES:
        raise ValueError(f"{where}: class is {identity}, allowed: whole numbers from 1 to {_ALL_CLASSES}")
    return Record(path, identity, 0, "train" if identity <= _TRAINING_CLASSES else "test")
