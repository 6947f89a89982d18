"""Pictures from the store to `results/pictures`, as far as they are shown.

A trial draws more images than a report shows. Which of them are shown is settled here, when all rows are there: the
same for all rows, and at equal steps from the best to the worst of them, so that nobody has picked the good ones.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.drawing.figures import file_stem
from pipeline.exports.albums import INDEX, Album, Item, Sheet, Strip, Tile
from pipeline.planning.experiments import Experiment
from pipeline.storage.store import TrialStore
from reid.data.readers import readers
from reid.train import metric_name
from reid.visualize import drawing

if TYPE_CHECKING:
    from pipeline.planning.plan import Plan, Trial


def export(folder: Path, plan: "Plan", store: TrialStore) -> None:
    """Write `index.json` and the strips that are shown into a folder, and nothing else into it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    albums = []
    for experiment, rows in plan.experiments:
        if experiment.pictures is not None:
            datasets = rows[0].trials if rows else {}
            trials = {name: {row.row.label: row.trials[name][0] for row in rows} for name in datasets}
            sheets = [_sheet(folder, experiment, dataset, of_rows, store) for dataset, of_rows in trials.items()]
            title, note = experiment.title, experiment.note
            albums.append(
                Album(name=experiment.name, title=title, note=note, what=experiment.pictures.what, sheets=sheets)
            )
    text = json.dumps([asdict(album) for album in albums], indent=1, ensure_ascii=False)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _sheet(
    folder: Path, experiment: Experiment, dataset: str, trials: Mapping[str, "Trial"], store: TrialStore
) -> Sheet:
    """What is shown of one data set."""
    assert experiment.pictures is not None
    drawn = {label: trial for label, trial in trials.items() if store.state(trial.key) == "done"}
    missing = {label: _reason(trial, store) for label, trial in trials.items() if label not in drawn}
    strips = {
        label: {one["number"]: one for one in store.result(trial.key)["pictures"]} for label, trial in drawn.items()
    }
    common = [number for number in next(iter(strips.values()), {}) if all(number in own for own in strips.values())]
    by, scores = _scores(drawn, experiment, store)
    chosen = drawing.at_equal_steps(np.array(_in_order(common, scores), np.int64), experiment.pictures.queries)
    items = [
        Item(
            number=number,
            average_precision=scores.get(number),
            strips=list(_strips(folder, f"{experiment.name}/{dataset}", number, drawn, strips, store)),
        )
        for number in chosen.tolist()
    ]
    shown = next(iter(trials.values())).spec["pictures"]["shown"]
    return Sheet(
        dataset=dataset, title=readers()[dataset], shown=shown, by=by, drawn=len(common), items=items, missing=missing
    )


def _in_order(numbers: list[int], scores: Mapping[int, float]) -> list[int]:
    """From the best to the worst, if there are scores; else as they are."""
    return sorted(numbers, key=lambda number: (-scores[number], number)) if scores else numbers


def _scores(drawn: Mapping[str, "Trial"], experiment: Experiment, store: TrialStore) -> tuple[str, dict[int, float]]:
    """The first row with a trained network, and the AP of its queries by number; nothing for training images."""
    embeddings = {row.label: row.embedding for row in experiment.rows}
    for label, trial in drawn.items():
        if trial.source is not None and trial.spec["pictures"]["what"] != "erasers":
            values = (store.per_query(trial.source.key) or {})[metric_name(embeddings[label], "average_precision")]
            return label, dict(enumerate(values.tolist()))
    return "", {}


def _strips(
    folder: Path,
    place: str,
    number: int,
    drawn: Mapping[str, "Trial"],
    strips: Mapping[str, Mapping[int, dict[str, Any]]],
    store: TrialStore,
) -> Iterator[Strip]:
    """Those of one image, one for each row, written to files."""
    for label, trial in drawn.items():
        one = strips[label][number]
        file = f"{place}/{file_stem(label)}/{number}.png"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(_files(store, trial.key)[one["file"]].tobytes())
        tiles = [Tile(**tile) for tile in one["tiles"]]
        yield Strip(row=label, file=file, size=one["size"], tiles=tiles, average_precision=one["average_precision"])


def _files(store: TrialStore, key: str) -> dict[str, NDArray[Any]]:
    return store.per_query(key) or {}


def _reason(trial: "Trial", store: TrialStore) -> str:
    state = store.state(trial.key)
    return str(store.failure(trial.key)["reason"]) if state == "failed" else f"not drawn yet: its trial is {state}"
