"""Reader of VeRi-776 (Liu et al., Deep Learning-based Vehicle Re-identification, ECCV 2016), from 20 cameras.

Three folders of files such as `0002_c002_00030600_0.jpg`: vehicle 2, camera 2, of three digits. Where names say
nothing, as after an export under other names, the set's own XML files say which vehicle and camera an image has.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from reid.data.layout import Form, Home, locate, refuse_names
from reid.data.manifest import Expected, Record, SplitName

DISPLAY_NAME = "VeRi-776"
# Sources differ on the training images (37,746 and 37,778) and their vehicles (575 and 576).
EXPECTED = {"query": Expected(1_678, 200), "gallery": Expected(11_579, 200)}

_HOMES = (".", "VeRi", "veri", "veri/VeRi", "VeRi/VeRi", "veri776", "veri776/VeRi", "VeRi-776", "VeRi776")
_FOLDERS: dict[SplitName, str] = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
_LABELS: dict[SplitName, str] = {"train": "train_label.xml", "query": "test_label.xml", "gallery": "test_label.xml"}
_NAME = re.compile(r"(\d{1,18})_c(\d{3})(?!\d)")


def read(root: Path) -> list[Record]:
    """The records of VeRi-776 under `root`.

    Raises:
        FileNotFoundError: the folders are not there.
        ValueError: a folder holds no image, an XML file does not parse, or an image is named neither way.
    """
    home = locate(root, [Form(_HOMES, [f"{below}/" for below in _FOLDERS.values()])], name=DISPLAY_NAME)
    return [record for split in _FOLDERS for record in _read_folder(home, split)]


def _read_folder(home: Home, split: SplitName) -> Iterator[Record]:
    folder, labels = home.folder / _FOLDERS[split], home.folder / _LABELS[split]
    images = home.images(_FOLDERS[split])
    known = {name: (int(match[1]), int(match[2])) for name in images if (match := _NAME.match(name))}
    if len(known) < len(images) and labels.is_file():
        known = _read_labels(labels) | known
    unknown = [name for name in images if name not in known or known[name][1] < 1]
    form = f"do not start with <vehicle>_c<camera>, as in 0002_c002_00030600_0.jpg, and are not in {labels.name}"
    refuse_names(folder, unknown, form)
    return (Record(path, *known[name], split) for name, path in images.items())


def _read_labels(path: Path) -> dict[str, tuple[int, int]]:
    """Vehicle and camera by image name, from items such as imageName="..." vehicleID="0002" cameraID="c002"."""
    text = _decode(path)
    if "<!DOCTYPE" in text:
        raise ValueError(f"{path} declares a document type, which a list of labels does not need; get it again")
    try:
        items = list(ElementTree.fromstring(text).iter("Item"))
        return {
            item.attrib["imageName"]: (int(item.attrib["vehicleID"]), int(item.attrib["cameraID"].removeprefix("c")))
            for item in items
        }
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is not a list of labels ({error}); get it again") from error
    except KeyError as error:
        raise ValueError(f"{path}: an Item has no {error}; get the file again") from error


def _decode(path: Path) -> str:
    """The text, whatever encoding the file declares: that is gb2312, of which Python's XML parser cannot read bytes."""
    content = path.read_bytes()
    for encoding in ("utf-8-sig", "gb18030"):  # the latter contains gb2312
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ValueError(f"{path} is neither UTF-8 nor gb2312 text; get it again")
