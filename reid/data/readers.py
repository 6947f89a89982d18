"""The data sets that can be read, by key. Not imported by a trial, so that a new reader re-trains nothing.

A reader is a file with a function that turns a folder into records and the counts of the real set, by split, and a line
in the table below. Whatever changes counts or protocol is a key of its own.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reid.config import Ranks, Rule
from reid.data import (
    cars196,
    cub200,
    cuhk03,
    dukemtmcreid,
    generic,
    inshop,
    market1501,
    msmt17,
    sop,
    vehicleid,
    veri776,
)
from reid.data.manifest import Expected, Record


@dataclass(frozen=True)
class Reader:
    """How one data set's own folder layout becomes records, and how the set is scored.

    `read` takes the folder that holds the data set and returns its records, with paths relative to that folder.
    `expected` has the counts of the real set by split; where a folder differs, that is worth a warning.
    `display_name` is that of the published tables where the set is theirs. `rule` says who is ranked against whom, and
    `ranks` the K of Rank-K or Recall@K to report. `withdrawn` is what to say of a set that its authors have taken back;
    `archives` the names, without their endings, under which it is handed out.
    """

    display_name: str
    read: Callable[[Path], list[Record]]
    expected: Mapping[str, Expected]
    rule: Rule
    ranks: Ranks
    withdrawn: str | None = None
    archives: tuple[str, ...] = ()


_RE_ID = (1, 5, 10)
_CLASSES = (1, 2, 4, 8)


def _cuhk03(boxes: cuhk03.Boxes) -> Reader:
    read = partial(cuhk03.read, boxes=boxes)
    return Reader(
        cuhk03.DISPLAY_NAMES[boxes], read, cuhk03.EXPECTED[boxes], "cross_camera", _RE_ID, archives=("cuhk03-np",)
    )


def _msmt17(version: msmt17.Version, *, val: bool = False) -> Reader:
    name = ("MSMT17" if version == "V1" else "MSMT17 V2") + (" (train+val)" if val else "")
    expected = msmt17.EXPECTED_TRAINVAL if val else msmt17.EXPECTED
    read = partial(msmt17.read, version=version, val=val)
    return Reader(name, read, expected, "cross_camera", _RE_ID, archives=(f"MSMT17_{version}",))


def _vehicleid(size: vehicleid.Size) -> Reader:
    read = partial(vehicleid.read, size=size)
    return Reader(
        f"VehicleID: {size}", read, vehicleid.EXPECTED[size], "one_shot", (1, 5), archives=("VehicleID_V1.0",)
    )


_READERS = {
    "market1501": Reader(
        market1501.DISPLAY_NAME,
        market1501.read,
        market1501.EXPECTED,
        "cross_camera",
        _RE_ID,
        archives=("Market-1501-v15.09.15",),
    ),
    "dukemtmcreid": Reader(
        dukemtmcreid.DISPLAY_NAME,
        dukemtmcreid.read,
        dukemtmcreid.EXPECTED,
        "cross_camera",
        _RE_ID,
        withdrawn=dukemtmcreid.WITHDRAWN,
        archives=("DukeMTMC-reID",),
    ),
    "cuhk03_detected": _cuhk03("detected"),
    "cuhk03_labeled": _cuhk03("labeled"),
    "msmt17_v1": _msmt17("V1"),
    "msmt17_v2": _msmt17("V2"),
    "msmt17_v1_trainval": _msmt17("V1", val=True),
    "msmt17_v2_trainval": _msmt17("V2", val=True),
    "veri776": Reader(veri776.DISPLAY_NAME, veri776.read, veri776.EXPECTED, "cross_camera", _RE_ID, archives=("VeRi",)),
    "vehicleid_small": _vehicleid("small"),
    "vehicleid_medium": _vehicleid("medium"),
    "vehicleid_large": _vehicleid("large"),
    "cub200": Reader(
        cub200.DISPLAY_NAME, cub200.read, cub200.EXPECTED, "leave_one_out", _CLASSES, archives=("CUB_200_2011",)
    ),
    "cars196": Reader(
        cars196.DISPLAY_NAME,
        cars196.read,
        cars196.EXPECTED,
        "leave_one_out",
        _CLASSES,
        archives=("stanford_cars", "cars196"),
    ),
    "sop": Reader(
        sop.DISPLAY_NAME,
        sop.read,
        sop.EXPECTED,
        "leave_one_out",
        (1, 10, 100, 1000),
        archives=("Stanford_Online_Products",),
    ),
    "inshop": Reader(
        inshop.DISPLAY_NAME,
        inshop.read,
        inshop.EXPECTED,
        "query_gallery",
        (1, 10, 20, 30, 40, 50),
        archives=("In-shop",),
    ),
    "synthetic": Reader("Embedded set", market1501.read, {}, "cross_camera", _RE_ID),
    "manifest": Reader(generic.DISPLAY_NAME, generic.read, generic.EXPECTED, "cross_camera", _RE_ID),
}


def readers() -> dict[str, str]:
    """Display name of every data set that can be read, by key."""
    return {key: reader.display_name for key, reader in _READERS.items()}


def reader(key: str) -> Reader:
    """The reader of a data set.

    Raises:
        ValueError: there is no such reader; the message names those there are.
    """
    if key not in _READERS:
        close = difflib.get_close_matches(key, _READERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no reader for data set {key!r}, there are: {', '.join(_READERS)}{hint}")
    return _READERS[key]
