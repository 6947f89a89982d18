"""The data sets that can be read, by key. Not imported by a trial, so that a new reader re-trains nothing.

A reader is a file with a function that turns a folder into records and the counts of the real set, by split, and a line
in the table below. Whatever changes counts or protocol is a key of its own.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from reid.config import Ranks, Rule
from reid.data import (
    archives,
    cars196,
    cub200,
    cuhk03,
    cuhk03_raw,
    dukemtmcreid,
    generic,
    inshop,
    market1501,
    msmt17,
    sop,
    vehicleid,
    veri776,
)
from reid.data.archives import Limits, Progress
from reid.data.manifest import Expected, Record


@dataclass(frozen=True)
class Reader:
    """How one data set's own folder layout becomes records, and how the set is scored.

    `read` takes the folder that holds the data set and returns its records, with paths relative to that folder.
    `expected` has the counts of the real set by split; where a folder differs, that is worth a warning.
    `display_name` is that of the published tables where the set is theirs. `rule` says who is ranked against whom, and
    `ranks` the K of Rank-K or Recall@K to report. `withdrawn` is what to say of a set that its authors have taken back;
    `archives` the names, without their endings, under which it is handed out, and `shared` what is common to the keys
    that one archive is read by, so that it is extracted once for all of them; None: it is read by one key.
    """

    display_name: str
    read: Callable[[Path], list[Record]]
    expected: Mapping[str, Expected]
    rule: Rule
    ranks: Ranks
    withdrawn: str | None = None
    archives: tuple[str, ...] = ()
    shared: str | None = None


_RE_ID = (1, 5, 10)
_CLASSES = (1, 2, 4, 5, 8, 10, 20)  # of BDB's Tables 7 and 8


def _cuhk03(boxes: cuhk03.Boxes) -> Reader:
    read = partial(cuhk03.read, boxes=boxes)
    return Reader(
        cuhk03.DISPLAY_NAMES[boxes], read, cuhk03.EXPECTED[boxes], "cross_camera", _RE_ID, archives=("cuhk03-np",)
    )


_CUHK03: Mapping[str, cuhk03.Boxes] = {"cuhk03_detected": "detected", "cuhk03_labeled": "labeled"}


def _msmt17(version: msmt17.Version, *, val: bool = False) -> Reader:
    name = ("MSMT17" if version == "V1" else "MSMT17 V2") + (" (train+val)" if val else "")
    expected = msmt17.EXPECTED_TRAINVAL if val else msmt17.EXPECTED
    read = partial(msmt17.read, version=version, val=val)
    archives, shared = (f"MSMT17_{version}",), f"msmt17_{version.lower()}"
    return Reader(name, read, expected, "cross_camera", _RE_ID, archives=archives, shared=shared)


def _vehicleid(size: vehicleid.Size) -> Reader:
    return Reader(
        f"VehicleID: {size}",
        partial(vehicleid.read, size=size),
        vehicleid.EXPECTED[size],
        "one_shot",
        (1, 5),
        archives=("VehicleID_V1.0",),
        shared="vehicleid",
    )


_CUB200 = Reader(
    cub200.DISPLAY_NAME,
    cub200.read,
    cub200.EXPECTED,
    "leave_one_out",
    _CLASSES,
    archives=("CUB_200_2011",),
    shared="cub200",
)
_CARS196 = Reader(
    cars196.DISPLAY_NAME,
    cars196.read,
    cars196.EXPECTED,
    "leave_one_out",
    _CLASSES,
    archives=("stanford_cars", "cars196"),
    shared="cars196",
)


def _cropped(whole: Reader, read: Callable[[Path], list[Record]]) -> Reader:
    return replace(whole, display_name=f"{whole.display_name}: cropped", read=read)


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
    **{key: _cuhk03(boxes) for key, boxes in _CUHK03.items()},
    "msmt17_v1": _msmt17("V1"),
    "msmt17_v2": _msmt17("V2"),
    "msmt17_v1_trainval": _msmt17("V1", val=True),
    "msmt17_v2_trainval": _msmt17("V2", val=True),
    "veri776": Reader(veri776.DISPLAY_NAME, veri776.read, veri776.EXPECTED, "cross_camera", _RE_ID, archives=("VeRi",)),
    "vehicleid_small": _vehicleid("small"),
    "vehicleid_medium": _vehicleid("medium"),
    "vehicleid_large": _vehicleid("large"),
    "cub200": _CUB200,
    "cub200_cropped": _cropped(_CUB200, partial(cub200.read, cropped=True)),
    "cars196": _CARS196,
    "cars196_cropped": _cropped(_CARS196, partial(cars196.read, cropped=True)),
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


def packaged(key: str, root: Path) -> Path | None:
    """What `unpack` would extract, if a data set lies under `root` as it was handed out: an archive, or cuhk-03.mat."""
    return archives.find_archive(root, reader(key).archives) or (cuhk03_raw.find(root) if key in _CUHK03 else None)


def unpack(key: str, root: Path, destination: Path, *, limits: Limits, progress: Progress) -> bool:
    """Extract what a data set is handed out as, so that its reader finds it at `destination`; False if there is none.

    The destination appears when all is in it. Where all is there already, nothing is written.

    Args:
        key: of the data set.
        root: the folder to look in, as for `Reader.read`.
        destination: missing, empty, or what an earlier call has made.
        limits: how much is extracted at most.
        progress: called with what is done and all there is to do: MB of an archive, and images of cuhk-03.mat.

    Raises:
        ArchiveError: what is there cannot be extracted, or is not safe to.
        ValueError: there is no such reader, or the file of CUHK03's protocol is not what it should be.
    """
    if archive := archives.find_archive(root, reader(key).archives):
        archives.extract(archive, destination, limits=limits, progress=progress)
    elif key in _CUHK03 and (raw := cuhk03_raw.find(root)):
        cuhk03_raw.extract(raw, destination, root=root, boxes=_CUHK03[key], limits=limits, progress=progress)
    else:
        return False
    return True
