"""What a trial costs, measured in a process that has run others before it."""

import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.running.trial import paid
from pipeline.running.usage import Usage

MEGABYTES = 400


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_seconds_are_those_since_the_last_question() -> None:
    counted = Usage(cpus=1, gpus=0)
    burn(0.2)
    time.sleep(0.2)
    assert counted.cpu_seconds() == pytest.approx(0.2, abs=0.1)
    assert counted.cpu_seconds() < 0.1


def test_an_epoch_has_levels_by_the_names_that_mlflow_shows_as_those_of_the_system() -> None:
    counted = Usage(cpus=2, gpus=0)
    burn(0.2)
    time.sleep(0.2)
    found = counted.of_epoch()
    assert found["cpu_seconds"] == pytest.approx(0.2, abs=0.1)
    assert 5 < found["system/cpu_utilization_percentage"] < 50  # of two threads one was busy, half of the time or less
    assert 20 < found["system/system_memory_usage_megabytes"] < 20_000
    assert counted.of_epoch()["cpu_seconds"] < 0.1
    assert not any("gpu" in name for name in found)


def test_the_peak_is_that_of_this_trial_and_not_of_the_one_before() -> None:
    large = np.ones(MEGABYTES * 10**6, dtype=np.uint8)
    assert large.sum() > 0
    first = Usage(cpus=1, gpus=0).peaks()["peak_memory_mb"]
    del large
    second = Usage(cpus=1, gpus=0)
    small = np.ones(MEGABYTES * 10**5, dtype=np.uint8)
    assert small.sum() > 0
    del small
    assert MEGABYTES / 20 < second.peaks()["peak_memory_mb"] < first - MEGABYTES / 2
    assert "peak_gpu_memory_mb" not in second.peaks()


def test_where_the_system_keeps_the_peak_for_itself_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, text: str) -> None:
        raise PermissionError(self)

    monkeypatch.setattr(Path, "write_text", refuse)
    assert Usage(cpus=1, gpus=0).peaks() == {}


def test_epochs_on_record_are_summed_up() -> None:
    lines = [
        {"epoch": 1, "seconds": 9.0, "step_seconds": 0.1, "cpu_seconds": 3.0},
        {"epoch": 2, "seconds": 2.0, "step_seconds": 0.3, "cpu_seconds": 4.0},
        {"epoch": 3, "seconds": 4.0, "step_seconds": 0.2, "cpu_seconds": 5.5},
    ]
    assert paid(lines) == {"cpu_seconds": 12.5, "epoch_seconds": 4.0, "step_seconds": 0.2}
    assert paid([]) == {}
    assert paid([{"epoch": 1, "seconds": 9.0}]) == {"epoch_seconds": 9.0}
