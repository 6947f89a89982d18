"""Reader of VehicleID (Liu et al., Deep Relative Distance Learning, CVPR 2016): no cameras, three sizes of test.

Lists of image and vehicle. Which test image of a vehicle is its gallery is drawn at evaluation, again and again, so all
of them are of the split `test`.
"""

from pathlib import Path
from typing import Literal

from reid.data.layout import Form, Home, locate, read_rows, whole
from reid.data.manifest import Expected, Record, SplitName

Size = Literal["small", "medium", "large"]

_TRAIN = Expected(113_346, 13_164)
EXPECTED: dict[Size, dict[str, Expected]] = {
    "small": {"train": _TRAIN, "test": Expected(6_493, 800)},
    "medium": {"train": _TRAIN, "test": Expected(13_377, 1_600)},
    "large": {"train": _TRAIN, "test": Expected(19_777, 2_400)},
}

_HOMES = ("VehicleID_V1.0", "vehicleid", "vehicleid/VehicleID_V1.0", "VehicleID", "VehicleID/VehicleID_V1.0", ".")
_LISTS = "train_test_split"
_TESTS: dict[Size, str] = {"small": "test_list_800", "medium": "test_list_1600", "large": "test_list_2400"}


def read(root: Path, *, size: Size) -> list[Record]:
    """The records of VehicleID with one size of test under `root`; identities are the lists' numbers plus 1.

    Raises:
        FileNotFoundError: the images, a list, or files that a list names are not there.
        ValueError: a list does not parse.
    """
    train, test = f"{_LISTS}/train_list.txt", f"{_LISTS}/{_TESTS[size]}.txt"
    home = locate(root, [Form(_HOMES, ("image/", train, test))], name="VehicleID")
    return _read_list(home, train, "train") + _read_list(home, test, "test")


def _read_list(home: Home, name: str, split: SplitName) -> list[Record]:
    source = home.folder / name
    rows = read_rows(source, ("image", "vehicle"))
    paths = home.listed([(where, f"{image}.jpg") for where, (image, _) in rows], below="image", source=source)
    return [
        Record(path, whole(vehicle, f"{where}: vehicle") + 1, 0, split)
        for path, (where, (_, vehicle)) in zip(paths, rows, strict=True)
    ]
