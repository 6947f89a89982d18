"""The lock of a sweep: one holds it, anyone may look."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.storage import locks


def test_one_holds_it_and_who_that_is_is_known(tmp_path: Path) -> None:
    path = tmp_path / "results" / "sweep.lock"
    assert not locks.held(path)
    with locks.alone(path):
        assert locks.held(path)
        with pytest.raises(locks.HeldError, match=f"^process {os.getpid()} of "), locks.alone(path):
            pass
    assert not locks.held(path)
    with locks.alone(path):
        pass


def test_nobody_is_refused_because_someone_looks(tmp_path: Path) -> None:
    path, looking = tmp_path / "sweep.lock", threading.Event()

    def look() -> None:
        """What `held` does, for longer than it takes."""
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            looking.set()
            time.sleep(0.2)

    thread = threading.Thread(target=look)
    thread.start()
    looking.wait()
    with locks.alone(path):
        pass
    thread.join()
