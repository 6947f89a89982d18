"""Reader of MSMT17 (Wei et al., Person Transfer GAN, CVPR 2018): V1, and V2 with blurred faces, from 15 cameras.

Four lists name the images and their identities, both counted from 0 in train and in test, which are different people.
The validation list has other images of the training identities; to train on it too is another protocol.
"""

import posixpath
import re
from pathlib import Path
from typing import Literal

from reid.data.layout import Form, Home, locate, read_rows, refuse_names, whole
from reid.data.manifest import Expected, Record, SplitName

Version = Literal["V1", "V2"]

EXPECTED = {"train": Expected(30_248, 1_041), "query": Expected(11_659, 3_060), "gallery": Expected(82_161, 3_060)}
EXPECTED_TRAINVAL = EXPECTED | {"train": Expected(32_621, 1_041)}

_FOLDERS: dict[Version, tuple[str, str]] = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
_TRAIN, _VAL = "list_train.txt", "list_val.txt"
_TEST: dict[SplitName, str] = {"query": "list_query.txt", "gallery": "list_gallery.txt"}
_NAME = re.compile(r"\d+_\d+_(0[1-9]|1[0-5])_")


def read(root: Path, *, version: Version, val: bool = False) -> list[Record]:
    """The records of one version under `root`; its test identities come behind the training ones.

    Args:
        root: the folder that holds the data set.
        version: V1 or V2; they differ in the names of their folders.
        val: train on the images of the validation list too.

    Raises:
        FileNotFoundError: folders, lists, or files that a list names are not there.
        ValueError: a list or a name does not parse.
    """
    train, test = _FOLDERS[version]
    homes = (f"MSMT17_{version}", f"msmt17/MSMT17_{version}", "msmt17", "MSMT17", f"MSMT17/MSMT17_{version}", ".")
    training_lists = [_TRAIN, _VAL] if val else [_TRAIN]
    inside = (f"{train}/", f"{test}/", *training_lists, *_TEST.values())
    home = locate(root, [Form(homes, inside)], name=f"MSMT17 {version}")
    records = [record for name in training_lists for record in _read_list(home, name, train, "train")]
    shift = max(record.identity for record in records)
    for split, name in _TEST.items():
        records += _read_list(home, name, test, split, shift=shift)
    return records


def _read_list(home: Home, name: str, below: str, split: SplitName, *, shift: int = 0) -> list[Record]:
    source = home.folder / name
    rows = read_rows(source, ("image", "identity"))
    paths = home.listed([(where, image) for where, (image, _) in rows], below=below, source=source)
    cameras = [_NAME.match(posixpath.basename(path)) for path in paths]
    unparsed = [path for path, camera in zip(paths, cameras, strict=True) if not camera]
    refuse_names(source, unparsed, "do not have a camera from 01 to 15, as in 0000_000_01_0303morning_0015_0.jpg")
    return [
        Record(path, whole(identity, f"{where}: identity") + 1 + shift, int(camera[1]), split)
        for path, camera, (where, (_, identity)) in zip(paths, cameras, rows, strict=True)
        if camera
    ]
