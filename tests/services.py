"""Real servers for the tests, on loopback, each on a free port and gone when its block ends: PostgreSQL, S3, MLflow."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PASSWORD = "of-the-tests"
BUCKET = "artifacts"
S3_KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
_START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False


def wait(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        assert process.poll() is None, f"{process.args!r} has ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"{process.args!r} does not start:\n{log.read_text()}"
        time.sleep(0.1)


@contextlib.contextmanager
def running(
    command: list[str],
    ready: Callable[[], bool],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    end: signal.Signals = signal.SIGTERM,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A server for as long as the block runs, from when it is ready; told to end, and waited for, at the end."""
    log = cwd / f"{Path(command[0]).name}-{free_port()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, user=user, group=user
        )
        try:
            wait(ready, process, log)
            yield process
        finally:
            process.send_signal(end)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# PostgreSQL


def postgres_binaries() -> Path | None:
    """Where Debian, or whoever set PATH, keeps the newest server."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("initdb")
    return debian[-1].parent if debian else Path(found).parent if found else None


def _user() -> str | None:
    """Who PostgreSQL runs as, where that is not us: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    if not any(entry.pw_name == "postgres" for entry in pwd.getpwall()):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
    return "postgres"


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A new PostgreSQL with a password; its address without the password, as SQLAlchemy takes it.

    The password is in the environment as PGPASSWORD, where libpq looks for it, as long as the block runs.
    """
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql): nothing is written to a real one")
    user, port = _user(), free_port()
    # Not in pytest's folder, which only its own user may enter.
    with tempfile.TemporaryDirectory(prefix="postgres-") as name, pytest.MonkeyPatch.context() as patch:
        folder, data = Path(name), Path(name, "data")
        (folder / "password").write_text(PASSWORD)
        folder.chmod(0o755)
        data.mkdir()
        if user:
            shutil.chown(data, user, user)
        initialise = [str(binaries / "initdb"), f"--pgdata={data}", "--username=mlflow", "--encoding=UTF8", "--no-sync"]
        initialise += [f"--pwfile={folder / 'password'}", "--auth=scram-sha-256"]
        subprocess.run(initialise, check=True, cwd=folder, stdout=subprocess.DEVNULL, user=user, group=user)
        serve = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-c", "fsync=off"]
        serve += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        patch.setenv("PGPASSWORD", PASSWORD)
        # Interrupted it ends the sessions that it has; terminated it would wait for them.
        with running(serve, lambda: _takes_queries(port), cwd=folder, user=user, end=signal.SIGINT):
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"


def _takes_queries(port: int) -> bool:
    import psycopg2

    with contextlib.suppress(psycopg2.OperationalError):
        psycopg2.connect(host="127.0.0.1", port=port, user="mlflow", dbname="postgres").close()
        return True
    return False


# S3


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[str]:
    """An S3 API with an empty bucket, `BUCKET`; its address. The keys are in the environment while the block runs."""
    pytest.importorskip("moto", reason="moto is not installed: no artifact is kept in a real S3 API")
    import boto3

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch, running(command, lambda: answers(f"{url}/moto-api/"), cwd=folder):
        for name, value in (S3_KEYS | {"MLFLOW_S3_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_S3": url}).items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
        yield url


def s3_names() -> list[str]:
    """The names of all that the bucket holds."""
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


# MLflow


@contextlib.contextmanager
def mlflow_server(database: str, artifacts: str, *, folder: Path, port: int | None = None) -> Iterator[str]:
    """MLflow's server as `deploy/mlflow-server.sh` starts it; its address."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"PYTHON": sys.executable, "PORT": str(port), "MLFLOW_BACKEND_STORE_URI": database}
    environment = os.environ | settings | {"MLFLOW_ARTIFACTS_DESTINATION": artifacts}
    command = [str(ROOT / "deploy" / "mlflow-server.sh")]
    with running(command, lambda: answers(f"{url}/health"), environment=environment, cwd=folder):
        yield url


# The way to a server


class Switch:
    """A way to a server on loopback that can be cut: `url` is its near end."""

    def __init__(self, target: str) -> None:
        self._target = ("127.0.0.1", int(target.rpartition(":")[2]))
        self._port, self._open = free_port(), set[socket.socket]()
        self.url = f"http://127.0.0.1:{self._port}"
        self.on()

    def on(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def on_in(self, seconds: float) -> None:
        threading.Timer(seconds, self.on).start()

    def off(self) -> None:
        """Nobody listens any more, and what was connected is not."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection(self._target)
                self._open |= {near, far}
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                target.sendall(content)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
            self._open.discard(one)


@contextlib.contextmanager
def switched(target: str) -> Iterator[Switch]:
    """A `Switch` before the server at a URL, for as long as the block runs."""
    found = Switch(target)
    try:
        yield found
    finally:
        with contextlib.suppress(OSError):
            found.off()
