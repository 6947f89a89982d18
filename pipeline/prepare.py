"""The prepare stage: a data set's raw folder -> `data/<dataset>/` with the manifest and the packed images."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from pipeline.planning import places
from pipeline.planning.params import Params, Prepare
from pipeline.planning.places import Place
from pipeline.running.progress import counted
from reid.config import Rule, TrialConfig
from reid.data import manifest, synthetic
from reid.data.layout import AbsentError
from reid.data.manifest import Record
from reid.data.pack import PackInfo, named, pack
from reid.data.readers import reader, unpack


def run(root: Path, dataset: str, params: Params, *, configs: Iterable[TrialConfig], option: str | None) -> None:
    """Prepare one data set of the checkout at `root`; what is in the raw folder is read and never changed.

    Where a place holds the data set as it was handed out, an archive, that is extracted beside it, once.

    Args:
        root: the checkout.
        dataset: the data set's key.
        params: of the checkout.
        configs: what will be scored on it: a rule that leaves no query a match is an error now, not after training.
        option: the place that the command line names; None: it names none.

    Raises:
        FileNotFoundError: the data set is in no place, or not all of it; the message shows what was expected where.
        ValueError: images are bad, names do not parse, the identities of train and test overlap, no query has a match,
            or the data set is withdrawn and not allowed.
    """
    settings = params.prepare
    _check_withdrawn(dataset, allowed=settings.allow_withdrawn)
    if dataset == "synthetic":
        raw = _draw(root, settings)
        records = reader(dataset).read(raw)
    else:
        raw, records = _found(dataset, places.named(root, option=option, setting=settings.root), settings)
    rules = _rules(dataset, configs)
    warnings = _warnings(raw, records, rules)
    packing = settings.packing(dataset)
    with counted(f"packing {dataset}") as progress:
        info = pack(
            raw,
            records,
            root / "data" / dataset,
            image_size=packing.image_size,
            fit=packing.fit,
            workers=settings.workers or len(os.sched_getaffinity(0)),
            max_pixels=settings.max_pixels,
            skip_bad=settings.skip_bad,
            progress=progress,
        )
    if info.skipped:
        warnings = _warnings_of_the_rest(raw, info, root / "data" / dataset, rules)
    print(_summary(info, warnings))


def _check_withdrawn(dataset: str, *, allowed: bool) -> None:
    notice = reader(dataset).withdrawn
    if notice is None:
        return
    if not allowed:
        raise ValueError(f"{dataset}: {notice} To read it all the same: prepare.allow_withdrawn: true in params.yaml")
    print(f"{dataset}: {notice}")


def _draw(root: Path, settings: Prepare) -> Path:
    """Draw the embedded data set anew, so that the files are what the parameters say."""
    folder = root / "data" / "raw" / "synthetic"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with counted("drawing synthetic") as progress:
        synthetic.draw(folder, settings.synthetic, progress)
    return folder


def _found(dataset: str, named: Sequence[Place], settings: Prepare) -> tuple[Path, list[Record]]:
    """The records in the first place that has the data set, with the folder that their paths are relative to."""
    lacking = []
    for place in places.searched(named):
        try:
            raw, records = _records(dataset, place.path, settings)
        except AbsentError as error:
            lacking.append(error)
            continue
        print("\n".join([*_faults(named), f"{reader(dataset).display_name}: read from {raw} ({place.source})"]))
        return raw, records
    looked = ", ".join(map(str, named))
    raise FileNotFoundError(f"{reader(dataset).display_name} was looked for in {looked}\n{lacking[0]}")


def _records(dataset: str, place: Path, settings: Prepare) -> tuple[Path, list[Record]]:
    """The records in one place, or in what is extracted there."""
    source, home = reader(dataset), places.extracted(place, dataset)
    try:
        return place, source.read(place)
    except FileNotFoundError:
        with counted(f"extracting {dataset}") as progress:
            unpacked = unpack(dataset, place, home, limits=settings.archives, progress=progress)
        if not unpacked and not home.is_dir():
            raise
    return home, source.read(home)


def _faults(named: Iterable[Place]) -> list[str]:
    return [f"warning: {place.fault}" for place in named if place.fault]


def _rules(dataset: str, configs: Iterable[TrialConfig]) -> list[Rule]:
    """Those by which the data set will be scored: its own, where a configuration names none."""
    source = reader(dataset)
    return sorted({config.recipe.protocol.rule or source.rule for config in configs})


def _warnings(raw: Path, records: Iterable[Record], rules: Iterable[Rule]) -> list[str]:
    try:
        return _match_warnings(manifest.tabulate(records), rules)
    except ValueError as error:
        raise ValueError(f"{raw}: {error}") from error


def _warnings_of_the_rest(raw: Path, info: PackInfo, folder: Path, rules: Iterable[Rule]) -> list[str]:
    """As before packing, without the bad files: with them, the last match may have gone, and then nothing is kept."""
    try:
        return _match_warnings(manifest.read(folder / "manifest.parquet"), rules)
    except ValueError as error:
        for name in ("info.json", "manifest.parquet", "images.npy"):
            (folder / name).unlink()
        listed = "".join(f"\n  {named(skipped)}: {skipped['reason']}" for skipped in info.skipped)
        raise ValueError(f"{raw}: {error}\nleft out, as prepare.skip_bad says:{listed}") from error


def _match_warnings(table: pd.DataFrame, rules: Iterable[Rule]) -> list[str]:
    return [warning for rule in rules for warning in manifest.match_warnings(table, rule)]


def _summary(info: PackInfo, warnings: Iterable[str]) -> str:
    counts = ", ".join(
        f"{split} {count['images']} images of {count['identities']} identities" for split, count in info.counts.items()
    )
    lines = [f"{info.name}: {counts}; digest {info.digest[:12]}"]
    lines += [f"warning: {warning}" for warning in (*info.warnings, *warnings)]
    lines += [f"left out: {named(skipped)} {skipped['reason']}" for skipped in info.skipped]
    return "\n".join(lines)
