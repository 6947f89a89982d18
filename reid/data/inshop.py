"""Reader of In-Shop Clothes Retrieval (Liu et al., DeepFashion, CVPR 2016): a fixed query and gallery, no cameras."""

import itertools
import re
from pathlib import Path

from reid.data.layout import Form, locate, read_rows, read_text
from reid.data.manifest import Expected, Record, SplitName

DISPLAY_NAME = "In-Shop"
EXPECTED = {"train": Expected(25_882, 3_997), "query": Expected(14_218, 3_985), "gallery": Expected(12_612, 3_985)}

_HOMES = (
    "In-shop",
    "DeepFashion/In-shop_Clothes_Retrieval_Benchmark",
    "In-shop_Clothes_Retrieval_Benchmark",
    "inshop",
    "inshop/In-shop_Clothes_Retrieval_Benchmark",
    "In-shop Clothes Retrieval Benchmark",
    ".",
)
_LIST = "list_eval_partition.txt"
_COLUMNS = ("image_name", "item_id", "evaluation_status")
_SPLITS: dict[str, SplitName] = {"train": "train", "query": "query", "gallery": "gallery"}
_ITEM = re.compile(r"id_0*([1-9]\d{0,17})")


def read(root: Path) -> list[Record]:
    """The records of In-Shop under `root`; the list may lie in Eval, and the images in Img/img, as they are shipped.

    Raises:
        FileNotFoundError: the list, the images, or files that the list names are not there.
        ValueError: the list does not parse, or has another number of rows than its first line says.
    """
    forms = [Form(_HOMES, parts) for parts in itertools.product((_LIST, f"Eval/{_LIST}"), ("Img/img/", "img/"))]
    home = locate(root, forms, name=DISPLAY_NAME)
    source, folder = home.folder / home.inside[0], home.inside[1]
    rows = read_rows(source, _COLUMNS, headed=2)
    _check_count(source, len(rows))
    below = folder.removesuffix("img/") or "."  # the list's own paths start with img/
    paths = home.listed([(where, fields[0]) for where, fields in rows], below=below, source=source)
    return [_record(path, where, *fields[1:]) for path, (where, fields) in zip(paths, rows, strict=True)]


def _check_count(source: Path, found: int) -> None:
    promised = read_text(source).splitlines()[0].strip()
    if promised != str(found):
        raise ValueError(f"{source}, line 1 promises {promised} images, the list has {found}; unpack it again")


def _record(path: str, where: str, item: str, status: str) -> Record:
    if status not in _SPLITS:
        raise ValueError(f"{where}: evaluation_status is {status!r}, allowed: {', '.join(_SPLITS)}")
    identity = _ITEM.fullmatch(item)
    if not identity:
        raise ValueError(f"{where}: item_id is {item!r}, a number above 0 is expected, as in id_00000002")
    return Record(path, int(identity[1]), 0, _SPLITS[status])
