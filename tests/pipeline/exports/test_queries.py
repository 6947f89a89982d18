"""What queries found, from the store's arrays to files and back."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.exports import queries
from pipeline.exports.queries import Scores
from pipeline.exports.results import as_run
from tests.pipeline import results_factory as made


def written(folder: Path, count: int = 150, length: int = 20) -> dict[str, dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    found = {}
    for number in range(count):
        own = {
            "average_precision": draw.random(length),
            "first_match_rank": draw.integers(1, 9, length).astype(float),
            "inverse_negative_penalty": draw.random(length),
        }
        own["average_precision"][number % length] = np.nan
        branch = {f"drop/{name}": array / 2 for name, array in own.items()} if number % 3 == 0 else {}
        found[f"{number:020x}"] = own | branch
    queries.write_scores(folder / queries.PER_QUERY, found.items())
    table = [{"dataset": "synthetic", "data_digest": "d" * 64, "identities": np.arange(length)}]
    pq.write_table(pa.Table.from_pylist(table), folder / queries.QUERIES)
    return found


def test_every_array_comes_back_to_the_bit(tmp_path: Path) -> None:
    found = written(tmp_path)
    scores = queries.read(tmp_path)
    assert len(scores.arrays["average_precision"]) == 200
    for key, arrays in found.items():
        for name, array in arrays.items():
            embedding, _, field = name.rpartition("/")
            np.testing.assert_array_equal(scores.arrays[field][key, embedding], array)
    np.testing.assert_array_equal(scores.identities["synthetic", "d" * 64], np.arange(20))


def test_no_trial_at_all_is_a_file_too(tmp_path: Path) -> None:
    written(tmp_path, count=0)
    assert queries.read(tmp_path).arrays["average_precision"] == {}


def test_what_is_not_there_or_damaged_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"per_query\.parquet is not there; .*: dvc repro sweep"):
        queries.read(tmp_path)
    written(tmp_path)
    whole = (tmp_path / queries.PER_QUERY).read_bytes()
    (tmp_path / queries.PER_QUERY).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"per_query\.parquet is damaged .*; run the sweep stage again"):
        queries.read(tmp_path)
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / queries.PER_QUERY)
    with pytest.raises(
        ValueError, match="the columns are key, expected key, embedding, average_precision, first_match"
    ):
        queries.read(tmp_path)


def scores(first: list[float], rule: str = "cross_camera") -> tuple[Scores, dict[str, object]]:
    row = made.trial()
    arrays = {
        "average_precision": np.array([0.5, np.nan, 0.25]),
        "first_match_rank": np.array(first),
        "inverse_negative_penalty": np.array([0.2, np.nan, 0.1]),
    }
    placed = {name: {(row["key"], ""): array} for name, array in arrays.items()}
    identities = {("synthetic", row["data_digest"]): np.array([3, 3, 7])}
    row["protocol"] = row["protocol"].replace("cross_camera", rule)
    return Scores(arrays=placed, identities=identities), row


def test_the_values_of_a_metric_are_those_whose_mean_it_is() -> None:
    found, row = scores([1.0, np.nan, 4.0])
    run = as_run(row)
    for metric, values in (
        ("mAP", [0.5, np.nan, 0.25]),
        ("mINP", [0.2, np.nan, 0.1]),
        ("Rank-1", [1, np.nan, 0]),
        ("Recall@4", [1, np.nan, 1]),
    ):
        np.testing.assert_array_equal(found.values(run, "", metric), values)
    assert found.values(run, "", "params_million") is None
    assert found.values(run, "drop", "mAP") is None
    np.testing.assert_array_equal(found.whose(run), [3, 3, 7])


def test_there_are_none_where_the_metric_is_no_mean_of_them() -> None:
    tied, row = scores([1.5, np.nan, 4.0])
    assert tied.values(as_run(row), "", "Rank-1") is None
    assert tied.values(as_run(row), "", "mAP") is not None
    drawn, row = scores([1.0, np.nan, 4.0], rule="one_shot")
    assert drawn.values(as_run(row), "", "mAP") is None


def test_the_queries_of_a_transfer_are_those_it_is_scored_on() -> None:
    found, row = scores([1.0, np.nan, 4.0])
    across = as_run(row | {"dataset": "market1501->synthetic", "data_digest": f"{'a' * 64}->{row['data_digest']}"})
    np.testing.assert_array_equal(found.whose(across), [3, 3, 7])
    assert found.whose(as_run(row | {"data_digest": "e" * 64})) is None
