"""The lock of a sweep: a file in the checkout, and one in the trial store, which two checkouts may share.

A lock goes with its process, however that dies; beside it stays a note of who took it last. A store at a URL has a
lease in the file's place, see `leases`. Needs no torch.
"""

import fcntl
import getpass
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import filelock

from pipeline.storage import provenance
from pipeline.storage.leases import HeldError, Lease
from pipeline.storage.remote import RemoteStore
from pipeline.storage.store import TrialStore

__all__ = ["LOCK", "HeldError", "alone", "alone_at", "held", "holder", "holder_of", "noted_owner", "owner_of"]

LOCK = Path("results/sweep.lock")
_GLANCE_SECONDS = 1.0  # `held` takes a lock for an instant, and nobody should be refused for that


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock.

    Raises:
        HeldError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(path, timeout=_GLANCE_SECONDS).acquire()
    except filelock.Timeout:
        raise HeldError(owner_of(path)) from None
    with lock:
        owner = {"pid": os.getpid(), "host": provenance.host(), "user": getpass.getuser(), "since": time.ctime()}
        path.with_suffix(".owner").write_text(json.dumps(owner))
        yield


@contextmanager
def alone_at(root: Path, store: TrialStore) -> Iterator[None]:
    """Hold the locks of the checkout at `root` and of its store.

    A process that loses that of a store at a URL writes nothing more there and is told to end, by SIGTERM.

    Raises:
        HeldError: another process holds one of them.
    """
    with alone(root / LOCK), _of_store(store):
        yield


def holder(root: Path, store: TrialStore) -> str:
    """Who holds the lock of the checkout at `root`, or that of its store; empty if nobody does."""
    return (owner_of(root / LOCK) if held(root / LOCK) else "") or holder_of(store)


def holder_of(store: TrialStore) -> str:
    """Who holds the lock of a store; empty if nobody does."""
    if isinstance(store, RemoteStore):
        return _lease(store).holder()
    path = store.root / LOCK.name
    return owner_of(path) if held(path) else ""


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


def owner_of(path: Path) -> str:
    """Who holds a lock that is held; it may have been taken but now, with the note still to come."""
    return noted_owner(path) or f"an unknown process holds {path}"


def _of_store(store: TrialStore) -> AbstractContextManager[None]:
    if not isinstance(store, RemoteStore):
        return alone(store.root / LOCK.name)

    def lost(owner: str) -> None:
        store.refuse(f"{store.place}: the lease is lost to {owner}: it was not renewed in time")
        os.write(2, f"\nthe lease of {store.place} is lost to {owner}: what is not done is left to it\n".encode())
        os.kill(os.getpid(), signal.SIGTERM)

    return _lease(store).alone(lost)


def _lease(store: RemoteStore) -> Lease:
    return Lease(store.objects, LOCK.name)
