"""Reader of Stanford Online Products (Oh Song et al., Lifted Structured Feature Embedding, CVPR 2016): no cameras."""

from pathlib import Path

from reid.data.layout import Form, Home, locate, read_rows, whole
from reid.data.manifest import Expected, Record, SplitName

DISPLAY_NAME = "SOP"
EXPECTED = {"train": Expected(59_551, 11_318), "test": Expected(60_502, 11_316)}

_HOMES = ("Stanford_Online_Products", "sop/Stanford_Online_Products", "sop", "SOP/Stanford_Online_Products", "SOP", ".")
_LISTS: dict[SplitName, str] = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
_COLUMNS = ("image_id", "class_id", "super_class_id", "path")


def read(root: Path) -> list[Record]:
    """The records of Stanford Online Products under `root`.

    Raises:
        FileNotFoundError: a list, or files that a list names are not there.
        ValueError: a list does not parse, or its header line is missing.
    """
    home = locate(root, [Form(_HOMES, tuple(_LISTS.values()))], name=DISPLAY_NAME)
    return [record for split in _LISTS for record in _read_list(home, split)]


def _read_list(home: Home, split: SplitName) -> list[Record]:
    source = home.folder / _LISTS[split]
    rows = read_rows(source, _COLUMNS, headed=1)
    paths = home.listed([(where, fields[3]) for where, fields in rows], below=".", source=source)
    return [
        Record(path, whole(fields[1], f"{where}: class_id", least=1), 0, split)
        for path, (where, fields) in zip(paths, rows, strict=True)
    ]
