"""A Ray cluster of several machines on this one: `ray start` as people type it, each at its own loopback address."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.services import free_port

BIN = Path(sys.executable).parent
_START_SECONDS, _STOP_SECONDS = 90, 20


@dataclass
class Machines:
    """The machines that run, by address. Their home, with the token, is a folder of the test."""

    home: Path
    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """The address of the cluster."""
        return f"127.0.0.2:{self.port}"

    def environment(self, code: Path) -> dict[str, str]:
        """Of a person on one of the machines, whose checkout is `code`."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        added = {
            "HOME": str(self.home),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(code),
            "PYTHONWARNINGS": "ignore",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "REID_TEST_CLUSTER": str(self.home),  # what a process of this cluster is known by
        }
        return clean | added

    def start(self, number: int, code: Path, *options: str) -> None:
        """Start the head (2) or another machine (3 and up), and wait until it is there."""
        address = f"127.0.0.{number}"
        log = self.home / f"{address}.log"
        command = [str(BIN / "ray"), "start", "--block", "--node-ip-address", address, "--num-cpus", "1"]
        command += ["--object-store-memory", str(80 * 2**20), *options]
        with log.open("wb") as said:
            process = subprocess.Popen(command, env=self.environment(code), stdout=said, stderr=said, cwd=self.home)
        self.running[address] = process
        deadline = time.monotonic() + _START_SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def start_head(self, code: Path) -> None:
        """Start the machine that the others join."""
        temporary = ["--temp-dir", str(self.home / "ray")]
        dashboard = ["--include-dashboard", "true", "--dashboard-port", str(self.dashboard)]
        self.start(2, code, "--head", "--port", str(self.port), *dashboard, *temporary)

    def join(self, number: int, code: Path) -> None:
        """Start another machine."""
        self.start(number, code, "--address", self.head)

    def stop(self, number: int) -> None:
        """Take a machine out of the cluster."""
        process = self.running.pop(f"127.0.0.{number}")
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def processes(self) -> list[int]:
        """All that belongs to the cluster."""
        mark, found = f"REID_TEST_CLUSTER={self.home}".encode(), []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
        return found


@contextlib.contextmanager
def machines() -> Iterator[Machines]:
    """A cluster to be, with its token; nothing is left of it. Its home's path is short: sockets lie in it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", 0))
        except OSError as error:
            pytest.skip(f"no second loopback address for a second machine: {error}")
    with tempfile.TemporaryDirectory(prefix="reid", dir="/tmp", ignore_cleanup_errors=True) as home:
        found = Machines(Path(home))
        command = [str(BIN / "ray"), "get-auth-token", "--generate"]
        subprocess.run(command, env=found.environment(found.home), check=True, capture_output=True)
        (found.home / ".ray" / "auth_token").chmod(0o600)
        try:
            yield found
        finally:
            for address in sorted(found.running, reverse=True):
                found.stop(int(address.rpartition(".")[2]))
            for process in found.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
