"""The lock of a sweep: a file in the checkout and one in the trial store, which two checkouts may share.

A lock goes with its process, however that dies; beside it stays a note of who took it last. Needs no torch.
"""

import fcntl
import getpass
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from pipeline import provenance
from pipeline.store import TrialStore

LOCK = Path("results/sweep.lock")


def of_store(store: TrialStore) -> Path:
    """The lock of a trial store."""
    return store.root / "sweep.lock"


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock.

    Raises:
        filelock.Timeout: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path, timeout=0):
        owner = {"pid": os.getpid(), "host": provenance.host(), "user": getpass.getuser(), "since": time.ctime()}
        path.with_suffix(".owner").write_text(json.dumps(owner))
        yield


@contextmanager
def alone_at(root: Path, store: TrialStore) -> Iterator[None]:
    """Hold the locks of the checkout at `root` and of its store.

    Raises:
        filelock.Timeout: another process holds one of them.
    """
    with alone(root / LOCK), alone(of_store(store)):
        yield


def held(path: Path) -> bool:
    """Whether some process, here or on another host of a shared disk, has locked the file; tried for an instant."""
    if not path.is_file():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def noted_owner(path: Path) -> str:
    """Who took a lock last, by the note beside it; empty if that is lacking or damaged."""
    try:
        owner = json.loads(path.with_suffix(".owner").read_text())
        return f"process {owner['pid']} of {owner['user']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def owner(path: Path) -> str:
    """Who holds a lock that is held; it may have been taken but now, with the note still to come."""
    return noted_owner(path) or f"an unknown process holds {path}"
