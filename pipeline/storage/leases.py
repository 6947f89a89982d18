"""The lock of a trial store at a URL: a lease that its owner renews, and that another may take once it is not renewed.

Each state of the lease is an object of its own, `sweep.lock/00000001` and so on, that is created only if it is not
there: of several who would renew or take the lease at the same state, the server lets one. Whether a lease has been
left is judged by the server's clock alone, by when it says that the lease and an object written now were written.
"""

import getpass
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.storage import provenance
from pipeline.storage.objects import Objects, Version

RENEW_SECONDS, DEAD_SECONDS = 20.0, 90.0


class HeldError(Exception):
    """Somebody else holds a lock; the text says who."""


class Lease:
    """A lease at a URL.

    Args:
        objects: those of the URL.
        name: of the lease, and of the folder of its states.
        renew_seconds: between two renewals.
        dead_seconds: after which one that was not renewed counts as left.
    """

    def __init__(
        self,
        objects: Objects,
        name: str,
        *,
        renew_seconds: float = RENEW_SECONDS,
        dead_seconds: float = DEAD_SECONDS,
    ) -> None:
        self._objects, self._name = objects, name
        self._renew_seconds, self._dead_seconds = renew_seconds, dead_seconds

    @contextmanager
    def alone(self, lost: Callable[[str], None]) -> Iterator[None]:
        """Hold the lease.

        Args:
            lost: is told, in another thread, when somebody else has taken it, and by whom.

        Raises:
            HeldError: somebody else holds it.
        """
        holding = _Holding(self, self._take(), lost)
        thread = threading.Thread(target=holding.renew, args=(self._renew_seconds,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            holding.over.set()
            thread.join()
            with suppress(OSError):  # then it is left, and counts as such soon
                self.advance(holding.number, held=False)

    def holder(self) -> str:
        """Who holds the lease; empty if nobody does. Nothing is written, and so this machine's clock has to do."""
        number, version = self._latest()
        alive = version is not None and time.time() - version.modified < self._dead_seconds
        note = self._note(number) if alive else {"held": False}
        return _owner(note) if note["held"] else ""

    def advance(self, number: int, *, held: bool) -> int | None:
        """Put the next state in the place of one; its number, None if somebody else did so before."""
        state = {"pid": os.getpid(), "host": provenance.host(), "user": getpass.getuser(), "since": time.ctime()}
        content = json.dumps(state | {"held": held, "token": uuid.uuid4().hex}).encode()
        if not self._objects.create(self._path(number + 1), content):
            return None
        states = self._states()
        if max(states) > number + 1:  # others were past it, and had deleted the state of that number
            self._objects.delete([self._path(number + 1)])
            return None
        self._objects.delete(self._path(earlier) for earlier in states if earlier <= number)
        return number + 1

    def _take(self) -> int:
        number, version = self._latest()
        if version is not None and self._note(number)["held"]:
            age = self._now() - version.modified
            if age < self._dead_seconds:
                raise HeldError(
                    f"{_owner(self._note(number))} (renewed {age:.0f} s ago; left for dead after "
                    f"{self._dead_seconds:.0f} s)"
                )
        taken = self.advance(number, held=True)
        if taken is None:
            raise HeldError(self.holder() or "another process, since this moment")
        return taken

    def _now(self) -> float:
        """What time it is, by the server."""
        name = f"{self._name}/now-{uuid.uuid4().hex}"
        self._objects.put(name, b"")
        try:
            return next(version.modified for path, version in self._listed().items() if path == name)
        finally:
            self._objects.delete([name])

    def _states(self) -> dict[int, Version]:
        found = {re.fullmatch(r".*/(\d{8})", path): version for path, version in self._listed().items()}
        return {int(match[1]): version for match, version in found.items() if match}

    def _latest(self) -> tuple[int, Version | None]:
        states = self._states()
        return (max(states), states[max(states)]) if states else (0, None)

    def _listed(self) -> dict[str, Version]:
        return {f"{self._name}/{path}": version for path, version in self._objects.list(self._name).items()}

    def _note(self, number: int) -> dict[str, Any]:
        try:
            note: dict[str, Any] = json.loads(self._objects.get(self._path(number)))
        except (FileNotFoundError, ValueError):  # renewed since it was listed; or not ours
            return {"held": True}
        return note

    def _path(self, number: int) -> str:
        return f"{self._name}/{number:08d}"


class _Holding:
    """A lease that is held: the number of its state, which the renewing thread moves on."""

    def __init__(self, lease: Lease, number: int, lost: Callable[[str], None]) -> None:
        self.lease, self.number, self.lost = lease, number, lost
        self.over = threading.Event()

    def renew(self, seconds: float) -> None:
        while not self.over.wait(seconds):
            try:
                number = self.lease.advance(self.number, held=True)
            except OSError:  # the server is away, for others as for us
                continue
            if number is None:
                self.lost(self.lease.holder() or "another process")
                return
            self.number = number


def _owner(note: dict[str, Any]) -> str:
    try:
        return f"process {note['pid']} of {note['user']} on {note['host']}, since {note['since']}"
    except KeyError:
        return "an unknown process"
