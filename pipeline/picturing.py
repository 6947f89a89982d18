"""Pictures from the plan to `results/pictures`: trials that draw, what they leave in the store, what is shown of it.

A trial draws more images than a report shows. Which of them are shown is settled here, when all rows are there: the
same for all rows, and at equal steps from the best to the worst of them, so that nobody has picked the good ones.
"""

import functools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import keys
from pipeline.experiments import POOL, Experiment, Pictures, Row
from pipeline.figures import file_stem
from pipeline.pictures import INDEX, Album, Item, Sheet, Strip, Tile
from pipeline.store import TrialStore
from reid.data.readers import readers
from reid.train import metric_name
from reid.visualize import drawing
from reid.visualize.images import png
from reid.visualize.picture import Picture, Shown

if TYPE_CHECKING:
    from pipeline.plan import Plan, Trial

_drawing_digest = functools.cache(keys.drawing_digest)


def pictured(scored: "Trial", wanted: Pictures, row: Row, shown: Shown) -> "Trial":
    """The trial that draws what a row's network does.

    Args:
        scored: the row's trial, with the protocol to rank by.
        wanted: what to draw.
        row: whose embedding is ranked by.
        shown: what becomes of the data set's images.
    """
    picture = Picture(what=wanted.what, shown=shown, count=POOL, embedding=row.embedding)
    needed = drawing.needs_network(scored.config, wanted.what)
    source = (scored.source or scored) if needed else None
    spec = keys.picture_spec(
        scored.spec,
        picture,
        source=source.key if source else None,
        code_digest=_drawing_digest(),
        target={"dataset": scored.spec["dataset"], "data_digest": scored.spec["data_digest"]},
    )
    key, readable = keys.trial_key(spec), scored.name.rpartition("-")[0].removesuffix("-scored")
    name = f"{readable}-{wanted.what}-{key[:8]}"
    return replace(scored, key=key, setting=keys.setting_key(spec), name=name, spec=spec, source=source)


def packed(strips: Sequence[drawing.Strip]) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.uint8]]]:
    """What a trial has drawn, for its record: what there is in words, and the PNG files as bytes, by name."""
    said, files = [], {}
    for place, strip in enumerate(strips):
        name = f"{place}.png"
        files[name] = np.frombuffer(png([tile.image for tile in strip.tiles]), np.uint8)
        said.append(
            {
                "file": name,
                "number": strip.number,
                "average_precision": strip.average_precision,
                "size": [strip.tiles[0].image.shape[1], strip.tiles[0].image.shape[0]],
                "tiles": [{"caption": tile.caption, "right": tile.right} for tile in strip.tiles],
            }
        )
    return said, files


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
