"""Reader of Market-1501 (Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015).

Three folders of files such as `0002_c1s1_000451_03.jpg`: identity 2, camera 1. In the gallery, identity -1 marks junk,
which is never ranked, and 0000 a distractor, which is. Other sets came to be shipped in this layout.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from reid.data.layout import Form, Home, locate, refuse_names
from reid.data.manifest import Expected, Record, SplitName

DISPLAY_NAME = "Market-1501"
EXPECTED = {"train": Expected(12_936, 751), "query": Expected(3_368, 750), "gallery": Expected(19_732)}
INSIDE = ("bounding_box_train/", "query/", "bounding_box_test/")

_HOMES = (".", "Market-1501-v15.09.15", "market1501", "market1501/Market-1501-v15.09.15", "Market-1501")
_FOLDERS: dict[SplitName, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
# A second digit after the camera would be cut off in silence, so it does not match.
_NAME = re.compile(r"(-1|\d{1,18})_c([1-9])(?!\d)")


def read(root: Path) -> list[Record]:
    """The records of Market-1501, or of a set in its layout, under `root`.

    Files that are not images and hidden files are passed over.

    Raises:
        FileNotFoundError: the folders are not there; the message shows the tree expected and the closest folder found.
        ValueError: a folder holds no image, a name does not parse, or a link leads out; the message lists
            the first few.
    """
    return records(locate(root, [Form(_HOMES, INSIDE)], name=DISPLAY_NAME))


def records(home: Home) -> list[Record]:
    """The records of a data set in Market-1501's layout; see `read` for what is refused."""
    return [record for split, below in _FOLDERS.items() for record in _read_folder(home, below, split)]


def _read_folder(home: Home, below: str, split: SplitName) -> Iterator[Record]:
    images = home.images(below)
    unparsed = [name for name in images if not _NAME.match(name)]
    form = "do not start with <identity>_c<camera>, as in 0002_c1s1_000451_03.jpg"
    refuse_names(home.folder / below, unparsed, form)
    for name, path in images.items():
        if match := _NAME.match(name):
            yield Record(path, int(match[1]), int(match[2]), split)
