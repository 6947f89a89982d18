"""Work on a thread: in order, and given up when it fails or takes too long."""

import time
from functools import partial

import pytest

from pipeline.mlflow_view import background


def test_jobs_are_done_in_order() -> None:
    done, problems = list[int](), list[str]()
    worker = background.Worker("test", idle=lambda: None, warn=problems.append)
    for number in range(100):
        worker.put(partial(done.append, number))
    worker.finish()
    assert done == list(range(100))
    assert not problems


def test_the_first_failing_job_is_the_last() -> None:
    done, problems = list[int](), list[str]()
    worker = background.Worker("test", idle=lambda: None, warn=problems.append)
    worker.put(lambda: done.append(1))
    worker.put(lambda: done.append(1 // 0))
    worker.put(lambda: done.append(2))
    worker.settle(5)
    worker.finish()
    assert done == [1]
    assert problems == ["ZeroDivisionError: integer division or modulo by zero"]


def test_too_much_left_at_the_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_DRAIN_SECONDS", 0.2)
    done, problems = list[int](), list[str]()
    worker = background.Worker("test", idle=lambda: None, warn=problems.append)

    def slow() -> None:
        done.append(1)
        time.sleep(0.01)

    for _ in range(1000):
        worker.put(slow)
    worker.finish()
    assert problems == ["it does not answer, or too slowly"]
    assert len(done) < 500
