"""A miniature of every data set that can be read, written in the set's own layout: names, lists, annotations, traps.

Six identities train and three are the test, each seen by two cameras where there are any. Each has its own colour, so
that there is something to learn; no two images are alike.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from reid.data.manifest import Box, Record, SplitName
from tests.reid.data import matwriter

MARKET_FOLDERS: dict[SplitName, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
TRAIN, TEST = (1, 2, 3, 4, 5, 6), (7, 8, 9)

BOX: Box = (1, 3, 14, 30)  # of every image that has one

_SIZE = (32, 16)  # height and width
_UNUSED = 10  # the identity of an image of CUHK03 that the protocol does not use


@dataclass(frozen=True)
class Shot:
    """One image of the plan that all miniatures follow; `number` counts those of one identity and camera."""

    identity: int
    camera: int
    number: int
    split: SplitName


def shots(*, cameras: Iterable[int] = (1, 2), query: bool = True) -> list[Shot]:
    """Two training images by identity and camera; in the test one query and one for the gallery, or two of `test`."""
    parts: tuple[SplitName, SplitName] = ("query", "gallery") if query else ("test", "test")
    train = [Shot(*key, "train") for key in itertools.product(TRAIN, cameras, (1, 2))]
    return train + [Shot(*key, parts[key[2] - 1]) for key in itertools.product(TEST, cameras, (1, 2))]


def write(key: str, root: Path, home: str | None = None) -> list[Record]:
    """Write the miniature of a data set at `root`/`home` and return its records, as a reader should find them.

    Args:
        key: of the data set.
        root: what the records' paths are relative to.
        home: where under `root`; the first of `HOMES` if it is not given.
    """
    folder = root / (HOMES[key][0] if home is None else home)
    folder.mkdir(parents=True, exist_ok=True)
    box = BOX if key.endswith("_cropped") else None
    return [
        Record((folder / path).relative_to(root).as_posix(), shot.identity, shot.camera, shot.split, box)
        for path, shot in _WRITERS[key](folder).items()
    ]


def write_raw(key: str, root: Path) -> list[Record]:
    """Write CUHK03 as its authors hand it out and return its records as a reader should find them when extracted."""
    home = root / "cuhk03"
    home.mkdir(parents=True)
    written = cuhk03_raw(home, key.removeprefix("cuhk03_"))
    return [Record(path, shot.identity, shot.camera, shot.split) for path, shot in written.items()]


def paint(path: Path, shot: Shot) -> None:
    """A small image in the identity's colour, with noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(shot)).save(path)


def pixels(shot: Shot) -> npt.NDArray[np.uint8]:
    """The image of a shot, [height, width, 3]."""
    colour = np.random.default_rng(shot.identity + 1).uniform(60, 200, 3)
    noise = np.random.default_rng([shot.identity + 1, shot.camera, shot.number]).normal(0, 20, (*_SIZE, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


def market1501(home: Path) -> dict[str, Shot]:
    """With junk, a distractor, and files that are no images."""
    junk, distractor = Shot(-1, 1, 1, "gallery"), Shot(0, 2, 1, "gallery")
    people = [*shots(), junk, distractor]
    names = {f"{_market_number(s.identity)}_c{s.camera}s1_{_order(s):06}_00.jpg": s for s in people}
    written = _market_layout(home, names)
    for name in ("Thumbs.db", "._0007_c1s1_000001_00.jpg", ".DS_Store"):
        (home / "query" / name).write_bytes(b"no image")
    return written


def dukemtmcreid(home: Path) -> dict[str, Shot]:
    """From cameras 2 and 8, and with names of its own."""
    return _market_layout(home, {f"{s.identity:04}_c{s.camera}_f{_order(s):07}.jpg": s for s in shots(cameras=(2, 8))})


def cuhk03_folders(home: Path) -> dict[str, Shot]:
    """Market-1501's layout with PNG images."""
    return _market_layout(home, {f"{s.identity:04}_c{s.camera}_{_order(s)}.png": s for s in shots()})


def cuhk03_protocol(home: Path, boxes: str, images: str = "images") -> dict[str, Shot]:
    """All images in one folder beside the protocol's file."""
    painted = _painted(home, {f"{images}_{boxes}/{name}": shot for name, shot in _cuhk03_config(home, boxes).items()})
    return {path: shot for path, shot in painted.items() if shot.identity != _UNUSED}


def cuhk03_raw(home: Path, boxes: str) -> dict[str, Shot]:
    """All images in cuhk-03.mat and the protocol's file; the images are as they will be called when extracted."""
    names = _cuhk03_config(home, boxes)
    other = "labeled" if boxes == "detected" else "detected"
    images = {name: pixels(shot) for name, shot in names.items()}
    (home / "cuhk03_release").mkdir()
    cuhk03_mat(home / "cuhk03_release" / "cuhk-03.mat", {boxes: images, other: {n: 255 - i for n, i in images.items()}})
    return {f"images_{boxes}/{name}": shot for name, shot in names.items() if shot.identity != _UNUSED}


def cuhk03_mat(path: Path, variables: Mapping[str, Mapping[str, npt.NDArray[np.uint8]]]) -> None:
    """HDF5 as MATLAB writes it: cells that refer to cells, one of five pairs, that refer to images; all transposed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")
        empty = refs.create_dataset("empty", data=np.zeros(2, "u8"))
        empty.attrs["MATLAB_empty"] = np.uint8(1)
        for variable, images in variables.items():
            cells = []
            for pair in range(1, 6):
                part = {name: image for name, image in images.items() if name.startswith(f"{pair}_")}
                cell = np.full((10, max((int(name[2:5]) for name in part), default=1)), empty.ref, h5py.ref_dtype)
                for name, image in part.items():
                    stored = refs.create_dataset(f"{variable}{name}", data=image.transpose(2, 1, 0), compression="gzip")
                    cell[int(name[8:10]) - 1, int(name[2:5]) - 1] = stored.ref
                cells.append(refs.create_dataset(f"{variable}{pair}", data=cell).ref)
            file.create_dataset(variable, data=np.array([cells], h5py.ref_dtype))
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, a miniature".ljust(124) + b"\x00\x02IM")


def _cuhk03_config(home: Path, boxes: str) -> dict[str, Shot]:
    """The protocol's file, whose indices count from 1 and which has an image that is in no part; its images."""
    people = [Shot(_UNUSED, 1, 1, "train"), *shots()]
    names = {f"1_{s.identity:03}_{s.camera}_{s.number + 5 * (s.camera - 1):02}.png": s for s in people}
    variables: dict[str, Any] = {
        "camId": np.array([[s.camera] for s in people], "u1"),
        "filelist": list(names),
        "labels": np.array([[s.identity] for s in people], "u2"),
    }
    for split in ("train", "query", "gallery"):
        rows = [row for row, shot in enumerate(people, 1) if shot.split == split and shot.identity != _UNUSED]
        variables[f"{split}_idx"] = np.array([[row] for row in rows], "u2")
    matwriter.write(home / f"cuhk03_new_protocol_config_{boxes}.mat", variables)
    return names


def msmt17(home: Path, version: str, *, val: bool) -> dict[str, Shot]:
    """Identities count from 0 in train and test; cameras 3 and 15; a validation list; copies that macOS leaves."""
    train, test = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}[version]
    lists: dict[str, dict[str, Shot]] = {"train": {}, "val": {}, "query": {}, "gallery": {}}
    for shot in [*shots(cameras=(3, 15)), *(Shot(identity, 3, 3, "train") for identity in TRAIN)]:
        label = _msmt17_label(shot)
        name = f"{label:04}/{label:04}_{_order(shot):03}_{shot.camera:02}_0303morning_0015_0.jpg"
        lists["val" if shot.number == 3 else shot.split][name] = shot
    written: dict[str, Shot] = {}
    for part, names in lists.items():
        below = train if part in ("train", "val") else test
        text = "".join(f"{name} {_msmt17_label(shot)}\n" for name, shot in names.items())
        (home / f"list_{part}.txt").write_text(text)
        painted = _painted(home, {f"{below}/{name}": shot for name, shot in names.items()})
        written |= painted if val or part != "val" else {}
    (home / test / "0000" / "._0000_701_03_0303morning_0015_0.jpg").write_bytes(b"macOS")
    (home / "__MACOSX").mkdir()
    (home / "__MACOSX" / "._list_train.txt").write_bytes(b"macOS")
    return written


def veri776(home: Path) -> dict[str, Shot]:
    """Cameras of three digits, 2 and 20, and labels in XML that declares gb2312."""
    folders = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
    named = {f"{s.identity:04}_c{s.camera:03}_{_order(s):08}_0.jpg": s for s in shots(cameras=(2, 20))}
    for part, splits in (("train", ("train",)), ("test", ("query", "gallery"))):
        items = [veri776_item(name, shot) for name, shot in named.items() if shot.split in splits]
        veri776_labels(home / f"{part}_label.xml", items)
    return _painted(home, {f"{folders[shot.split]}/{name}": shot for name, shot in named.items()})


def veri776_item(name: str, shot: Shot) -> str:
    """One image in VeRi-776's XML."""
    return (
        f'<Item imageName="{name}" vehicleID="{shot.identity:04}" cameraID="c{shot.camera:03}" colorID="1" typeID="1"/>'
    )


def veri776_labels(path: Path, items: Iterable[str], *, encoding: str = "gb2312") -> None:
    """VeRi-776's XML, with a Chinese remark, so that its encoding matters."""
    body = "".join(f"    {item}\n" for item in items)
    text = f'<?xml version="1.0" encoding="gb2312"?>\n<!-- 车辆 -->\n<TrainingImages>\n  <Items>\n{body}'
    path.write_bytes((text + "  </Items>\n</TrainingImages>\n").encode(encoding))


def vehicleid(home: Path, test_list: str) -> dict[str, Shot]:
    """Lists of image and vehicle, whose numbers start at 0; no cameras."""
    people = shots(cameras=(0,), query=False)
    numbered = {f"{number:07}": shot for number, shot in enumerate(people, 1)}
    (home / "train_test_split").mkdir()
    for name, split in (("train_list", "train"), (test_list, "test")):
        lines = [f"{number} {shot.identity - 1}\n" for number, shot in numbered.items() if shot.split == split]
        (home / "train_test_split" / f"{name}.txt").write_text("".join(lines))
    return _painted(home, {f"image/{number}.jpg": shot for number, shot in numbered.items()})


def cub200(home: Path) -> dict[str, Shot]:
    """Classes 1 to 6 and 101 to 103, and the split for classification, which is not metric learning's."""
    people = [_classed(shot, 100) for shot in shots(cameras=(0,), query=False)]
    paths = {f"{s.identity:03}.Some_Bird/Some_Bird_{s.number:04}_{s.identity}.jpg": s for s in people}
    rows = list(enumerate(paths.items(), 1))
    (home / "images.txt").write_text("".join(f"{number} {path}\n" for number, (path, _) in rows))
    (home / "image_class_labels.txt").write_text("".join(f"{number} {shot.identity}\n" for number, (_, shot) in rows))
    (home / "train_test_split.txt").write_text("".join(f"{number} {number % 2}\n" for number, _ in rows))
    left, top, right, bottom = map(float, BOX)
    box = f"{left} {top} {right - left} {bottom - top}"
    (home / "bounding_boxes.txt").write_text("".join(f"{number} {box}\n" for number, _ in rows))
    return _painted(home, {f"images/{path}": shot for path, shot in paths.items()})


def cars196(home: Path) -> dict[str, Shot]:
    """One file of annotations for the folder car_ims; classes 1 to 6 and 99 to 101."""
    people = [_classed(shot, 98) for shot in shots(cameras=(0,), query=False)]
    paths = {f"car_ims/{number:06}.jpg": shot for number, shot in enumerate(people, 1)}
    rows = [_car("relative_im_path", path, shot) for path, shot in paths.items()]
    matwriter.write(home / "cars_annos.mat", {"annotations": rows, "class_names": ["Some Car 2012"]})
    return _painted(home, paths)


def cars196_parts(home: Path, train: str, test: str) -> dict[str, Shot]:
    """Two files of annotations for cars_train and cars_test, each of which has images of all classes."""
    people = [_classed(shot, 98) for shot in shots(cameras=(0,), query=False)]
    written: dict[str, Shot] = {}
    for annotations, folder, rest in ((train, "cars_train", 1), (test, "cars_test", 0)):
        part = [shot for shot in people if shot.number % 2 == rest]
        names = {f"{number:05}.jpg": shot for number, shot in enumerate(part, 1)}
        (home / annotations).parent.mkdir(exist_ok=True)
        rows = [_car("fname", name, shot) for name, shot in names.items()]
        matwriter.write(home / annotations, {"annotations": rows})
        written |= _painted(home, {f"{folder}/{name}": shot for name, shot in names.items()})
    return written


def sop(home: Path) -> dict[str, Shot]:
    """Two lists with a header; the classes of the test begin at 11319."""
    people = [_classed(shot, 11_318) for shot in shots(cameras=(0,), query=False)]
    paths = {f"bicycle_final/11108512{s.identity:05}_{s.number}.JPG": s for s in people}
    for part in ("train", "test"):
        rows = [(path, s) for path, s in paths.items() if s.split == part]
        lines = [f"{number} {s.identity} 1 {path}" for number, (path, s) in enumerate(rows, 1)]
        text = "\n".join(["image_id class_id super_class_id path", *lines])
        (home / f"Ebay_{part}.txt").write_text(text + "\n")
    return _painted(home, paths)


def inshop(home: Path, partition: str = "list_eval_partition.txt", above: str = "Img/") -> dict[str, Shot]:
    """A list whose first lines are its length and a header; no cameras."""
    people = [Shot(s.identity, 0, s.number, s.split) for s in shots(cameras=(0,))]
    paths = {f"img/WOMEN/Dresses/id_{s.identity:08}/0{s.number}_1_front.jpg": s for s in people}
    lines = [f"{path:<70} id_{shot.identity:08} {shot.split}" for path, shot in paths.items()]
    (home / partition).parent.mkdir(exist_ok=True)
    text = "\n".join([str(len(lines)), "image_name item_id evaluation_status", *lines])
    (home / partition).write_text(text + "\n")
    return _painted(home, {f"{above}{path}": shot for path, shot in paths.items()})


def manifest(home: Path) -> dict[str, Shot]:
    """A CSV with cameras, junk and a distractor."""
    people = [*shots(), Shot(-1, 1, 1, "gallery"), Shot(0, 2, 1, "gallery")]
    paths = {f"images/{number}.jpg": shot for number, shot in enumerate(people)}
    rows = [(path, s.identity, s.camera, s.split) for path, s in paths.items()]
    pd.DataFrame(rows, columns=["path", "identity", "camera", "split"]).to_csv(home / "manifest.csv", index=False)
    return _painted(home, paths)


def _market_layout(home: Path, names: Mapping[str, Shot]) -> dict[str, Shot]:
    return _painted(home, {f"{MARKET_FOLDERS[shot.split]}/{name}": shot for name, shot in names.items()})


def _market_number(identity: int) -> str:
    return f"{identity:04}" if identity >= 0 else str(identity)


def _order(shot: Shot) -> int:
    """A number that differs between the images of one camera."""
    return 100 * max(0, shot.identity) + shot.number


def _msmt17_label(shot: Shot) -> int:
    return shot.identity - (TRAIN[0] if shot.identity in TRAIN else TEST[0])


def _classed(shot: Shot, training: int) -> Shot:
    """The shot with its class: that of the first test identity follows the training classes."""
    number = shot.identity if shot.identity in TRAIN else shot.identity - TEST[0] + 1 + training
    return Shot(number, shot.camera, shot.number, shot.split)


def _car(field: str, path: str, shot: Shot) -> dict[str, Any]:
    numbers = {"bbox_x1": BOX[0] + 1, "bbox_y1": BOX[1] + 1, "bbox_x2": BOX[2], "bbox_y2": BOX[3]}
    box = {name: np.array([[number]], "u2") for name, number in numbers.items()}
    return {**box, "class": np.array([[shot.identity]], "u1"), field: path}


def _painted(home: Path, paths: dict[str, Shot]) -> dict[str, Shot]:
    for path, shot in paths.items():
        paint(home / path, shot)
    return paths


_CUHK03 = ("cuhk03-np/{}", "CUHK03-NP/{}", "cuhk03_new/{}", "CUHK03_New/{}", "cuhk03_new_{}", "{}", ".")
_MSMT17 = ("MSMT17_{}", "msmt17/MSMT17_{}", "msmt17", "MSMT17", ".")
_VEHICLEID = ("VehicleID_V1.0", "vehicleid", "vehicleid/VehicleID_V1.0", ".")
_CUB200 = ("CUB_200_2011", "cub200/CUB_200_2011", "cub200", ".")
_CARS196 = ("cars196", "stanford_cars", "cars196/stanford_cars", ".")

HOMES: dict[str, Sequence[str]] = {
    "market1501": (
        "Market-1501-v15.09.15",
        "market1501",
        "market1501/Market-1501-v15.09.15",
        "Market-1501",
        ".",
    ),
    "dukemtmcreid": ("DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID", "dukemtmc-reid", "dukemtmcreid", "."),
    "cuhk03_detected": [home.format("detected") for home in _CUHK03],
    "cuhk03_labeled": [home.format("labeled") for home in _CUHK03],
    "msmt17_v1": [home.format("V1") for home in _MSMT17],
    "msmt17_v2": [home.format("V2") for home in _MSMT17],
    "msmt17_v1_trainval": [home.format("V1") for home in _MSMT17],
    "msmt17_v2_trainval": [home.format("V2") for home in _MSMT17],
    "veri776": ("VeRi", "veri", "veri/VeRi", "veri776", "VeRi-776", "."),
    "vehicleid_small": _VEHICLEID,
    "vehicleid_medium": _VEHICLEID,
    "vehicleid_large": _VEHICLEID,
    "cub200": _CUB200,
    "cub200_cropped": _CUB200,
    "cars196": _CARS196,
    "cars196_cropped": _CARS196,
    "sop": ("Stanford_Online_Products", "sop/Stanford_Online_Products", "sop", "."),
    "inshop": (
        "In-shop",
        "DeepFashion/In-shop_Clothes_Retrieval_Benchmark",
        "In-shop_Clothes_Retrieval_Benchmark",
        "inshop",
        ".",
    ),
    "manifest": (".",),
}
"""The places under the root where each data set may lie; the keys are all that a miniature can be written of."""

_WRITERS: dict[str, Callable[[Path], dict[str, Shot]]] = {
    "market1501": market1501,
    "dukemtmcreid": dukemtmcreid,
    "cuhk03_detected": cuhk03_folders,
    "cuhk03_labeled": cuhk03_folders,
    "msmt17_v1": functools.partial(msmt17, version="V1", val=False),
    "msmt17_v2": functools.partial(msmt17, version="V2", val=False),
    "msmt17_v1_trainval": functools.partial(msmt17, version="V1", val=True),
    "msmt17_v2_trainval": functools.partial(msmt17, version="V2", val=True),
    "veri776": veri776,
    "vehicleid_small": functools.partial(vehicleid, test_list="test_list_800"),
    "vehicleid_medium": functools.partial(vehicleid, test_list="test_list_1600"),
    "vehicleid_large": functools.partial(vehicleid, test_list="test_list_2400"),
    "cub200": cub200,
    "cub200_cropped": cub200,
    "cars196": cars196,
    "cars196_cropped": cars196,
    "sop": sop,
    "inshop": inshop,
    "manifest": manifest,
}
