"""The prepare stage: a data set's raw folder -> `data/<dataset>/` with the manifest and the packed images."""

import os
import shutil
from pathlib import Path

import pandas as pd

from pipeline.params import Params
from pipeline.progress import counted
from reid.data import archives, generic, manifest, synthetic
from reid.data.pack import PackInfo, pack
from reid.data.readers import reader


def run(root: Path, dataset: str, params: Params) -> None:
    """Prepare one data set of the checkout at `root`; what is in the raw folder is read and never changed.

    Where the folder holds the data set's archive alone, that is extracted beside it, once.

    Raises:
        FileNotFoundError: the raw folder is not there; the message shows what was expected where.
        ValueError: images are bad, names do not parse, the identities of train and test overlap, or the data set is
            withdrawn and not allowed.
    """
    _check_withdrawn(dataset, allowed=params.prepare.allow_withdrawn)
    raw = _draw(root, params) if dataset == "synthetic" else _raw_root(root, params)
    raw, records = _records(raw, dataset)
    with counted(f"packing {dataset}") as progress:
        info = pack(
            raw,
            records,
            root / "data" / dataset,
            image_size=params.prepare.image_size,
            workers=params.prepare.workers or len(os.sched_getaffinity(0)),
            skip_bad=params.prepare.skip_bad,
            progress=progress,
        )
    print(_summary(info))
    if dataset == "manifest":
        _say_rule(manifest.read(root / "data" / dataset / "manifest.parquet"))


def _records(raw: Path, dataset: str) -> tuple[Path, list[manifest.Record]]:
    """The records under a raw folder, or under what its archive holds; with the folder they are relative to."""
    source = reader(dataset)
    try:
        return raw, source.read(raw)
    except FileNotFoundError:
        archive = archives.find_archive(raw, source.archives)
        if archive is None:
            raise
    home = raw / f"{dataset}-extracted"
    with counted(f"extracting {archive.name} (MB)") as progress:
        archives.extract(archive, home, progress=progress)
    return home, source.read(home)


def _say_rule(table: pd.DataFrame) -> None:
    """The camera rule leaves nothing to rank where there are no cameras: say what to set before anything trains."""
    if (rule := generic.rule_of(table)) != reader("manifest").rule:
        print(f"this set cannot be scored across cameras; set in the profile's overrides: recipe.protocol.rule: {rule}")


def _check_withdrawn(dataset: str, *, allowed: bool) -> None:
    notice = reader(dataset).withdrawn
    if notice is None:
        return
    if not allowed:
        raise ValueError(f"{dataset}: {notice} To read it all the same: prepare.allow_withdrawn: true in params.yaml")
    print(f"{dataset}: {notice}")


def _draw(root: Path, params: Params) -> Path:
    """Draw the embedded data set anew, so that the files are what the parameters say."""
    folder = root / "data" / "raw" / "synthetic"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with counted("drawing synthetic") as progress:
        synthetic.draw(folder, params.prepare.synthetic, progress)
    return folder


def _raw_root(root: Path, params: Params) -> Path:
    if params.prepare.root is not None:
        return root / params.prepare.root
    return Path(os.environ["REID_DATASETS"]) if "REID_DATASETS" in os.environ else root / "datasets"


def _summary(info: PackInfo) -> str:
    counts = ", ".join(
        f"{split} {count['images']} images of {count['identities']} identities" for split, count in info.counts.items()
    )
    lines = [f"{info.name}: {counts}; digest {info.digest[:12]}"]
    lines += [f"warning: {warning}" for warning in info.warnings]
    lines += [f"left out: {skipped['path']} {skipped['reason']}" for skipped in info.skipped]
    return "\n".join(lines)
