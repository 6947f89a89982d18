"""Reader of CARS196 (Krause et al., 3D Object Representations, 3dRR 2013), as metric learning uses it.

The first 98 classes train and the other 98 are the test (Oh Song et al., Lifted Structured Feature Embedding, CVPR
2016); the authors' own train and test parts, which are for classification, are read together. Annotations come as one
file for the folder car_ims, or as two for cars_train and cars_test.

Their boxes, of which a paper's "cropped" means the content, have the first and the last pixel, counted from 1.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reid.data import matfile
from reid.data.layout import Form, Home, locate
from reid.data.manifest import Box, Expected, Record

DISPLAY_NAME = "CARS196"
EXPECTED = {"train": Expected(8_054, 98), "test": Expected(8_131, 98)}

_HOMES = ("cars196", "stanford_cars", "CARS196", "cars196/stanford_cars", "Cars196", ".")
_ONE, _TRAIN, _TEST = "cars_annos.mat", "cars_train_annos.mat", "cars_test_annos_withlabels.mat"
_UNLABELLED = "cars_test_annos.mat"
_TRAINING_CLASSES, _ALL_CLASSES = 98, 196
_BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def read(root: Path, *, cropped: bool = False) -> list[Record]:
    """The records of CARS196 under `root`, of whole images or `cropped` to their boxes.

    Raises:
        FileNotFoundError: the images, the annotations, or files that these name are not there.
        ValueError: the annotations are not what they should be.
    """
    tests = (_TEST, f"devkit/{_TEST}", f"devkit/{_UNLABELLED}", _UNLABELLED)
    parts = itertools.product((f"devkit/{_TRAIN}", _TRAIN), tests)
    forms = [Form(_HOMES, (_ONE, "car_ims/")), *(Form(_HOMES, (*part, "cars_train/", "cars_test/")) for part in parts)]
    home = locate(root, forms, name=DISPLAY_NAME)
    if home.inside[0] == _ONE:
        return _read_annotations(home, _ONE, field="relative_im_path", below=".", cropped=cropped)
    train, test, *_ = home.inside
    records = _read_annotations(home, train, field="fname", below="cars_train", cropped=cropped)
    return records + _read_annotations(home, test, field="fname", below="cars_test", cropped=cropped)


def _read_annotations(home: Home, name: str, *, field: str, below: str, cropped: bool) -> list[Record]:
    source = home.folder / name
    annotations = matfile.read(source, ("annotations",))["annotations"]
    _check_fields(source, annotations, (field, "class", *(_BOX if cropped else ())))
    rows = [(f"{source}, annotation {number}", row) for number, row in enumerate(annotations, 1)]
    entries = [(where, _image(where, row, field)) for where, row in rows]
    identities = [_identity(where, row) for where, row in rows]
    boxes = [_box(where, row) if cropped else None for where, row in rows]
    paths = home.listed(entries, below=below, source=source)
    return [
        Record(path, identity, 0, "train" if identity <= _TRAINING_CLASSES else "test", box)
        for path, identity, box in zip(paths, identities, boxes, strict=True)
    ]


def _check_fields(source: Path, annotations: Any, fields: Sequence[str]) -> None:
    if not isinstance(annotations, list) or not annotations or not isinstance(annotations[0], dict):
        raise ValueError(f"{source}: annotations is not an array of structs; get the file again")
    lacking = [name for name in fields if name not in annotations[0]]
    if lacking:
        hint = f"; the one with classes is {_TEST}" if source.name == _UNLABELLED else "; get the file again"
        raise ValueError(
            f"{source}: annotations have no field {', '.join(lacking)}, they have {', '.join(annotations[0])}{hint}"
        )


def _image(where: str, annotation: Mapping[str, Any], field: str) -> str:
    image = annotation[field]
    if not isinstance(image, str) or not image:
        raise ValueError(f"{where}: {field} is not text; get the file again")
    return image


def _identity(where: str, annotation: Mapping[str, Any]) -> int:
    identity = _number(annotation["class"])
    if identity is None or not 1 <= identity <= _ALL_CLASSES:
        raise ValueError(f"{where}: class is not a whole number from 1 to {_ALL_CLASSES}; get the file again")
    return identity


def _box(where: str, annotation: Mapping[str, Any]) -> Box:
    x1, y1, x2, y2 = (_number(annotation[name]) for name in _BOX)
    if x1 is None or y1 is None or x2 is None or y2 is None or not 1 <= x1 <= x2 or not 1 <= y1 <= y2:
        raise ValueError(f"{where}: {', '.join(_BOX)} are not a box of whole pixels from 1; get the file again")
    return x1 - 1, y1 - 1, x2, y2


def _number(value: Any) -> int | None:
    """The whole number that an array is, if it is one."""
    numbers = matfile.whole_numbers(value)
    return numbers[0] if numbers is not None and len(numbers) == 1 else None
