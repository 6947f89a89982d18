"""A file that one process at a time can hold."""

import fcntl
import os
from pathlib import Path


def take(path: Path) -> int:
    """Make and lock a file, and its folder if need be; the lock lasts until the descriptor that comes back is closed.

    The system closes it when the process ends, however that ends. Remove the file before, not after, closing it: from
    then on the place may be another process's.

    Raises:
        BlockingIOError: another process holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the process before us has just removed its folder
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:  # it has removed the file between our two steps
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
