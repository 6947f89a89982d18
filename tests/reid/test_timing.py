"""How long a step takes."""

import time

import pytest
import torch

from reid.timing import Laps


def test_the_median_lap_is_told() -> None:
    laps = Laps(torch.device("cpu"))
    laps.mark()
    for seconds in (0.05, 0.3, 0.05, 0.05):
        time.sleep(seconds)
        laps.mark()
    assert 0.05 <= laps.median() < 0.2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_s_work_is_timed_and_not_its_queueing() -> None:
    left = torch.randn(4096, 4096, device="cuda")
    laps = Laps(left.device)
    laps.mark()
    started = time.perf_counter()
    for _ in range(20):
        for _ in range(10):
            left @ left
        laps.mark()
    queued = time.perf_counter() - started
    torch.cuda.synchronize()
    total = time.perf_counter() - started
    assert queued < total
    assert laps.median() == pytest.approx(total / 20, rel=0.5)
