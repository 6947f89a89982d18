"""Reader of CARS196 (Krause et al., 3D Object Representations, 3dRR 2013), as metric learning uses it.

The first 98 classes train and the other 98 are the test (Oh Song et al., Lifted Structured Feature Embedding, CVPR
2016); the authors' own train and test parts, which are for classification, are read together. Annotations come as one
file for the folder car_ims, or as two for cars_train and cars_test.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reid.data import matfile
from reid.data.layout import Form, Home, locate
from reid.data.manifest import Expected, Record

DISPLAY_NAME = "CARS196"
EXPECTED = {"train": Expected(8_054, 98), "test": Expected(8_131, 98)}

_HOMES = ("cars196", "stanford_cars", "CARS196", "cars196/stanford_cars", "Cars196", ".")
_ONE, _TRAIN, _TEST = "cars_annos.mat", "cars_train_annos.mat", "cars_test_annos_withlabels.mat"
_UNLABELLED = "cars_test_annos.mat"
_TRAINING_CLASSES, _ALL_CLASSES = 98, 196


def read(root: Path) -> list[Record]:
    """The records of CARS196 under `root`.

    Raises:
        FileNotFoundError: the images, the annotations, or files that these name are not there.
        ValueError: the annotations are not what they should be.
    """
    tests = (_TEST, f"devkit/{_TEST}", f"devkit/{_UNLABELLED}", _UNLABELLED)
    parts = itertools.product((f"devkit/{_TRAIN}", _TRAIN), tests)
    forms = [Form(_HOMES, (_ONE, "car_ims/")), *(Form(_HOMES, (*part, "cars_train/", "cars_test/")) for part in parts)]
    home = locate(root, forms, name=DISPLAY_NAME)
    if home.inside[0] == _ONE:
        return _read_annotations(home, _ONE, field="relative_im_path", below=".")
    train, test, *_ = home.inside
    records = _read_annotations(home, train, field="fname", below="cars_train")
    return records + _read_annotations(home, test, field="fname", below="cars_test")


def _read_annotations(home: Home, name: str, *, field: str, below: str) -> list[Record]:
    source = home.folder / name
    rows = list(_rows(source, matfile.read(source, ("annotations",))["annotations"], field))
    paths = home.listed([(where, path) for where, path, _ in rows], below=below, source=source)
    return [
        Record(path, identity, 0, "train" if identity <= _TRAINING_CLASSES else "test")
        for path, (_, _, identity) in zip(paths, rows, strict=True)
    ]


def _rows(source: Path, annotations: Any, field: str) -> Iterable[tuple[str, str, int]]:
    """Where each annotation is (for messages), its image and its class."""
    if not isinstance(annotations, list) or not annotations or not isinstance(annotations[0], dict):
        raise ValueError(f"{source}: annotations is not an array of structs; get the file again")
    lacking = [name for name in (field, "class") if name not in annotations[0]]
    if lacking:
        hint = f"; the one with classes is {_TEST}" if source.name == _UNLABELLED else "; get the file again"
        raise ValueError(
            f"{source}: annotations have no field {', '.join(lacking)}, they have {', '.join(annotations[0])}{hint}"
        )
    for number, annotation in enumerate(annotations, 1):
        where = f"{source}, annotation {number}"
        classes, image = matfile.whole_numbers(annotation["class"]), annotation[field]
        if not isinstance(image, str) or not image:
            raise ValueError(f"{where}: {field} is not text; get the file again")
        if classes is None or len(classes) != 1 or not 1 <= classes[0] <= _ALL_CLASSES:
            raise ValueError(f"{where}: class is not a whole number from 1 to {_ALL_CLASSES}; get the file again")
        yield where, image, classes[0]
