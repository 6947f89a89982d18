"""What every query found in every final trial, and whose image each query is: two files beside the table of trials.

per_query.parquet  one line for each embedding of a done final trial: key, embedding (empty: the method's own),
                   average_precision, first_match_rank and inverse_negative_penalty, lists over the queries; NaN
                   where a query has no match
queries.parquet    one line for each data set: dataset, data_digest and identities, a list over its queries
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.exports.results import Run, present
from pipeline.planning.experiments import ARROW
from pipeline.storage.store import PerQuery
from reid.data.dataset import ReidData

Floats = NDArray[np.float64]
PER_QUERY, QUERIES = "per_query.parquet", "queries.parquet"

ARRAYS = ("average_precision", "first_match_rank", "inverse_negative_penalty")
_MEANS = {"mAP": "average_precision", "mINP": "inverse_negative_penalty"}  # metrics that are their arrays' means
_TEXTS = [("key", pa.string()), ("embedding", pa.string())]
_SCORES = pa.schema([*_TEXTS, *((name, pa.list_(pa.float64())) for name in ARRAYS)])
_WHOSE = pa.schema([("dataset", pa.string()), ("data_digest", pa.string()), ("identities", pa.list_(pa.int64()))])
_TOGETHER = 64  # trials in memory while they are written


@dataclass(frozen=True, eq=False)
class Scores:
    """The two files as arrays, [Q] each, in the order of the data set's queries.

    `arrays`: by name, trial key and embedding. `identities`: by data set and digest.
    """

    arrays: Mapping[str, Mapping[tuple[str, str], Floats]]
    identities: Mapping[tuple[str, str], NDArray[np.int64]]

    def values(self, run: Run, embedding: str, metric: str) -> Floats | None:
        """A metric of each query, [Q]: their mean is the run's; NaN for a query without a match.

        None where there are no such values: they are not on record; the metric is a cost; galleries are drawn, and the
        mean is over the draws; or, for Rank-k, images are tied and a share of their orders counts.
        """
        place = run.key, embedding
        if place not in self.arrays["average_precision"] or run.protocol["rule"] == "one_shot":
            return None
        if metric in _MEANS:
            return self.arrays[_MEANS[metric]][place]
        first, rank = self.arrays["first_match_rank"][place], re.fullmatch(r"(?:Rank-|Recall@)(\d+)", metric)
        if rank is None or np.any(np.mod(first, 1.0) > 0):
            return None
        return np.where(np.isnan(first), np.nan, first <= int(rank[1]))

    def whose(self, run: Run) -> NDArray[np.int64] | None:
        """The identity of each query that a run was scored on, [Q]; None where they are not on record."""
        dataset, digest = run.dataset.rpartition(ARROW)[2], run.data_digest.rpartition(ARROW)[2]
        return self.identities.get((dataset, digest))


def write_scores(path: Path, found: Iterable[tuple[str, PerQuery]]) -> None:
    """Write `per_query.parquet`, a few trials at a time.

    Args:
        path: the file.
        found: key of each trial and the arrays of its record, `average_precision` or `global/average_precision`.
    """
    with pq.ParquetWriter(path, _SCORES, compression="zstd") as writer:
        lines: list[dict[str, Any]] = []
        for key, arrays in found:
            lines += _lines(key, arrays)
            if len(lines) >= _TOGETHER:
                writer.write_table(pa.Table.from_pylist(lines, _SCORES))
                lines = []
        writer.write_table(pa.Table.from_pylist(lines, _SCORES))


def _lines(key: str, arrays: PerQuery) -> Iterator[dict[str, Any]]:
    for prefix in (name.removesuffix(ARRAYS[0]) for name in arrays if name.endswith(ARRAYS[0])):
        yield {"key": key, "embedding": prefix.removesuffix("/")} | {name: arrays[prefix + name] for name in ARRAYS}


def write_identities(path: Path, data: Mapping[str, ReidData]) -> None:
    """Write `queries.parquet`; `data` holds the data sets by their keys."""
    lines = [
        {
            "dataset": name,
            "data_digest": item.digest_for("test"),
            "identities": item.identities[item.scored("test")[0]],
        }
        for name, item in data.items()
    ]
    pq.write_table(pa.Table.from_pylist(lines, _WHOSE), path)


def read(folder: Path) -> Scores:
    """Both files.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: one is damaged or has other columns.
    """
    scores, whose = _read(folder / PER_QUERY, _SCORES), _read(folder / QUERIES, _WHOSE)
    places = list(zip(scores["key"].to_pylist(), scores["embedding"].to_pylist(), strict=True))
    sets = list(zip(whose["dataset"].to_pylist(), whose["data_digest"].to_pylist(), strict=True))
    return Scores(
        arrays={name: dict(zip(places, _split(scores[name]), strict=True)) for name in ARRAYS},
        identities=dict(zip(sets, _split(whose["identities"]), strict=True)),
    )


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(present(path))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is damaged ({error}); run the sweep stage again") from error
    if table.schema.names != schema.names:
        raise ValueError(
            f"{path}: the columns are {', '.join(table.schema.names)}, expected {', '.join(schema.names)}; "
            "run the sweep stage again"
        )
    return table


def _split(column: pa.ChunkedArray) -> list[NDArray[Any]]:
    """The lists of a column as arrays that share its memory."""
    found: list[NDArray[Any]] = []
    for chunk in column.chunks:
        ends = chunk.offsets.to_numpy()
        found += np.split(chunk.values.to_numpy(zero_copy_only=False), ends[1:-1]) if len(chunk) else []
    return found
