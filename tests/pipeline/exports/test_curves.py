"""What was recorded by epoch: from the store to a file and back, thinned, and shared by seeds."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exports import curves
from pipeline.exports.curves import Curve, Curves
from pipeline.storage.store import TrialStore
from tests.pipeline import fake_store


def recorded(epochs: list[int], **values: list[float]) -> Curve:
    named = {name.replace("_", "/"): np.array(column, np.float32) for name, column in values.items()}
    return Curve(np.array(epochs, np.int32), named)


def test_what_the_store_has_comes_back_by_key(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials")
    trials = [fake_store.trial(seed) for seed in range(4)]
    for place, one in enumerate(trials[:3]):
        store.open(one)
        for epoch in range(1, 4 + place):
            probe = {"probe/id/x": 0.5} if place == 1 else {}
            store.append_epoch(
                one.key, {"epoch": float(epoch), "time": 1.7e9, "system/load": 9.0, "loss": 1 / epoch + place, **probe}
            )
    store.append_epoch(trials[0].key, {"epoch": 2.0, "time": 1.7e9, "loss": 9.0})  # again, after a resume
    curves.write(tmp_path, store, [one.key for one in trials])
    found = Curves.load(tmp_path / curves.FILE)
    assert found.of(trials[3].key) is None
    first, second = (found.of(one.key) for one in trials[:2])
    assert first
    assert second
    assert first.epochs.tolist() == [1, 2, 3]
    assert first.values["loss"].tolist() == pytest.approx([1.0, 9.0, 1 / 3])
    assert set(first.values) == {"loss"}  # neither the time, the machine nor the probe of another
    assert second.epochs.tolist() == [1, 2, 3, 4]
    assert second.values["probe/id/x"].tolist() == [0.5] * 4
    schema = pq.read_schema(tmp_path / curves.FILE)
    assert {schema.field(name).type for name in ("loss", "probe/id/x")} == {"float"}


def test_an_empty_store_is_a_file_too(tmp_path: Path) -> None:
    curves.write(tmp_path, TrialStore(tmp_path / "trials"), ["a" * 20])
    assert Curves.load(tmp_path / curves.FILE).of("a" * 20) is None


def test_without_the_file_the_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"curves\.parquet is not there; the sweep stage writes it"):
        Curves.load(tmp_path / curves.FILE)


def test_seeds_share_the_epochs_that_all_have_and_of_several_losses_the_mean() -> None:
    one = recorded([1, 2, 3, 4], probe_a=[1, 2, 3, 4], probe_b=[3, 4, 5, 6], probed=[0, 0, 0, 0])
    two = recorded([2, 3, 5], probe_a=[10, 20, 30], probe_b=[30, 40, 50])
    epochs, values = curves.shared([one, two], "probe")
    assert epochs.tolist() == [2, 3]
    assert values.tolist() == [[3, 4], [20, 30]]
    assert curves.shared([one, two], "loss")[1].shape == (2, 0)


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 3))
def test_thinning_keeps_means_of_neighbours(count: int, most: int, rows: int) -> None:
    values = np.random.default_rng(count).normal(size=(rows, count))
    epochs = np.arange(1, count + 1, dtype=np.int32)
    x, y = curves.thinned(epochs, values, most)
    size = next(size for size in range(1, count + 1) if -(-count // size) <= most)
    groups = [slice(start, start + size) for start in range(0, count, size)]
    assert len(x) == len(groups) <= most
    np.testing.assert_allclose(x, [epochs[group].mean() for group in groups], rtol=1e-6)
    np.testing.assert_allclose(y, [[row[group].mean() for group in groups] for row in values], atol=1e-12)
