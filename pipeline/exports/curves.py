"""What was recorded epoch by epoch: `results/curves.parquet`, written by the sweep and read by the report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.exports.results import present
from pipeline.storage.store import TrialStore

FILE = "curves.parquet"
_LEFT_OUT = {"epoch", "time"}  # the first is a column of its own; when an epoch was is nobody's metric
_POINTS = 120  # along an axis of epochs: more than a plot of this width shows
_SYSTEM = "system/"  # what the machine did meanwhile, which MLflow shows

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Curve:
    """One trial's record: `epochs`, int32 [n], rising; and each metric that it has, float32 [n], NaN where it lacks."""

    epochs: NDArray[np.int32]
    values: Mapping[str, Values]


class Curves:
    """The records of many trials, by their keys."""

    def __init__(self, table: pa.Table) -> None:
        keys = table.column("key").combine_chunks().dictionary_encode()
        codes = keys.indices.to_numpy()
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        ends = np.append(starts[1:], len(codes))[: len(starts)]
        names = keys.dictionary.to_pylist()
        self._places = {
            names[codes[start]]: slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True)
        }
        self._epochs = table.column("epoch").to_numpy()
        metrics = [name for name in table.column_names if name not in ("key", "epoch")]
        self._values: dict[str, Values] = {name: table.column(name).to_numpy() for name in metrics}

    @staticmethod
    def load(path: Path) -> "Curves":
        """Read the file.

        Raises:
            FileNotFoundError: the sweep has not written it.
        """
        return Curves(pq.read_table(present(path)))

    def of(self, key: str) -> Curve | None:
        """A trial's record; None where it has none, as one that only scores another's network."""
        if key not in self._places:
            return None
        place = self._places[key]
        found = {name: values[place] for name, values in self._values.items()}
        kept = {name: values for name, values in found.items() if not np.isnan(values).all()}
        return Curve(self._epochs[place], kept)


def write(folder: Path, store: TrialStore, keys: Iterable[str]) -> None:
    """Write the epochs of these trials, as far as the store has any, sorted by key and epoch."""
    records = {key: lines for key in sorted(keys) if (lines := store.epochs(key))}
    pq.write_table(table(records), folder / FILE, compression="zstd")


def table(records: Mapping[str, Sequence[Mapping[str, float]]]) -> pa.Table:
    """The epochs' metrics of trials, column by column.

    Args:
        records: of each trial its epochs in order, each with its number as `epoch`.
    """
    lines = [line for own in records.values() for line in own]
    found = {name for line in lines for name in line} - _LEFT_OUT
    names = sorted(name for name in found if not name.startswith(_SYSTEM))
    columns = {name: np.full(len(lines), np.nan, dtype=np.float32) for name in names}
    for place, line in enumerate(lines):
        for name, value in line.items():
            if name in columns:
                columns[name][place] = value
    keys = np.repeat(np.arange(len(records), dtype=np.int32), [len(own) for own in records.values()])
    named = pa.DictionaryArray.from_arrays(pa.array(keys), pa.array([*records], pa.string())).cast(pa.string())
    epochs = pa.array([int(line["epoch"]) for line in lines], pa.int32())
    return pa.table({"key": named, "epoch": epochs} | columns)


def shared(curves: Sequence[Curve], prefix: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The values of several seeds at the epochs that all of them have.

    Args:
        curves: at least one.
        prefix: of the metric's name; of several that begin so, the mean.

    Returns:
        The epochs, int32 [n], and the values, float64 [seeds, n]; n is 0 where a seed has nothing of that name.
    """
    rows = []
    for curve in curves:
        found = [values for name, values in curve.values.items() if name == prefix or name.startswith(f"{prefix}/")]
        if not found:
            return np.empty(0, np.int32), np.empty((len(curves), 0))
        rows.append(np.mean(np.asarray(found, dtype=np.float64), axis=0))
    epochs = curves[0].epochs
    for curve in curves[1:]:
        epochs = np.intersect1d(epochs, curve.epochs)
    picked = [row[np.isin(curve.epochs, epochs)] for curve, row in zip(curves, rows, strict=True)]
    return epochs, np.stack(picked)


def thinned(
    epochs: NDArray[np.int32], values: NDArray[np.float64], most: int = _POINTS
) -> tuple[Values, NDArray[np.float64]]:
    """At most so many points: neighbouring epochs as their mean, each group of the same length but the last.

    Args:
        epochs: int32 [n].
        values: float64 [rows, n].
        most: points, at least one.
    """
    size = -(-len(epochs) // most)
    starts = np.arange(0, len(epochs), size)
    counts = np.diff(np.append(starts, len(epochs)))
    centres = np.add.reduceat(epochs.astype(np.float32), starts) / counts
    return centres.astype(np.float32), np.add.reduceat(values, starts, axis=1) / counts
