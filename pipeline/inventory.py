"""Statistics of data sets: counted in what was prepared, beside what the papers print of them."""

from collections.abc import Callable, Mapping

import pandas as pd

from pipeline.published import Printed, PublishedTable
from pipeline.results import Experiment
from pipeline.tables import Cell, Group, Kind, Row, Table, difference, printed_cell

_TITLE = "Counts"
_TRAIN, _QUERY, _GALLERY = ["train"], ["query", "test"], ["gallery", "test"]


def _images(*splits: str) -> Callable[[pd.DataFrame], int]:
    return lambda manifest: int(manifest["split"].isin(splits).sum())


def _identities(*splits: str) -> Callable[[pd.DataFrame], int]:
    """Those above 0: junk and distractors without a name of their own are nobody."""
    return lambda manifest: int(
        manifest.loc[manifest["split"].isin(splits) & (manifest["identity"] > 0), "identity"].nunique()
    )


_ALL, _TEST = ("train", "query", "gallery", "test"), ("query", "gallery", "test")
_COUNTED: dict[str, Callable[[pd.DataFrame], int]] = {
    **dict.fromkeys(("images", "bounding_boxes"), _images(*_ALL)),
    **dict.fromkeys(("identities", "classes"), _identities(*_ALL)),
    "cameras": lambda manifest: int(manifest.loc[manifest["camera"] > 0, "camera"].nunique()),
    **dict.fromkeys(("train_images", "training_images"), _images(*_TRAIN)),
    **dict.fromkeys(("train_ids", "training_classes"), _identities(*_TRAIN)),
    "testing_images": _images(*_TEST),
    **dict.fromkeys(("test_ids", "testing_classes"), _identities(*_TEST)),
    "query_images": _images(*_QUERY),
    **dict.fromkeys(("gallery_images", "test_images"), _images(*_GALLERY)),  # re-ID calls its gallery so
}


def counts(manifest: pd.DataFrame, measures: tuple[str, ...]) -> dict[str, int]:
    """What is asked for of a data set.

    Images are rows of the manifest, junk and distractors included; identities those above 0. What papers call the test
    images is the gallery in person re-identification (`test_images`), and query and gallery together in image retrieval
    (`testing_images`).
    """
    return {name: _COUNTED[name](manifest) for name in measures}


def table(experiment: Experiment, *, datasets: Mapping[str, str], printed: PublishedTable | None) -> Table:
    """A table with a row for each data set, those of ours first.

    Args:
        experiment: of kind `statistics`, with its counts.
        datasets: display name of every data set key.
        printed: the published counts.
    """
    found = {datasets[key]: numbers for key, numbers in (experiment.counts or {}).items()}
    others = [name for name in experiment.published_datasets if name not in found]
    shared = printed is not None and not found.keys().isdisjoint(experiment.published_datasets)
    every: tuple[Kind, ...] = ("ours", "published", "difference")
    kinds = every[: 1 + (printed is not None) + shared]
    groups = [Group(kind=kind, dataset="", title=_TITLE, metrics=tuple(experiment.metrics)) for kind in kinds]
    rows = [
        Row(
            label=name,
            ours=name in found,
            reference="",
            cells=tuple(
                _cell(group.kind, found.get(name, {}).get(metric), _printed(experiment, printed, name, metric))
                for group in groups
                for metric in group.metrics
            ),
        )
        for name in (*found, *others)
    ]
    return Table(experiment=experiment, groups=tuple(groups), rows=tuple(rows), panels=(), warnings=(), printed=printed)


def _printed(experiment: Experiment, printed: PublishedTable | None, name: str, metric: str) -> Printed | None:
    if printed is None or name not in experiment.published_datasets:
        return None
    return printed.count(dataset=name, metric=metric)


def _cell(kind: Kind, counted: int | None, theirs: Printed | None) -> Cell:
    ours = Cell(kind="ours", value=counted, text=str(counted))
    if counted is None:
        ours = Cell(kind="ours", reason="not prepared here")
    published = printed_cell(theirs, lacking="not printed")
    return {"ours": ours, "published": published, "difference": difference(ours, published, step="1")}[kind]
