"""Where MLflow keeps its runs and artifacts, and the command that serves its pages. Needs no MLflow."""

import os
import sys
from pathlib import Path

from pipeline.planning.strict import redact


def store_uri(uri: str | None, root: Path) -> str:
    """The tracking address with nothing left to the working directory; None means `mlflow.db` in `root`."""
    if uri is None:
        return f"sqlite:///{root.absolute() / 'mlflow.db'}"
    name = uri.removeprefix("sqlite:///")
    return uri if name == uri else f"sqlite:///{root.absolute() / name}"


def is_server(uri: str) -> bool:
    """Whether it is the address of an MLflow server, which knows where its artifacts are, and not of a database."""
    return uri.startswith(("http://", "https://"))


def artifacts(root: Path) -> str:
    """The address of the artifacts where no server keeps them."""
    return (root.absolute() / "mlartifacts").as_uri()


def ui_command(uri: str | None, root: Path, *, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command that serves MLflow's pages on 127.0.0.1, and its whole environment.

    Args:
        uri: where MLflow keeps its runs, as params.yaml has it.
        root: folder that relative addresses start from.
        port: to listen on.

    Raises:
        ValueError: `uri` is a server already, so its pages are there.
    """
    if is_server(store_uri(uri, root)):
        raise ValueError(f"tracking.uri is a server already; open {redact(store_uri(uri, root))}")
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": store_uri(uri, root),  # no option: its password would show among the processes
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for language models, at eight processes and 1.2 GB
    }
    return [*server, "--artifacts-destination", artifacts(root)], os.environ | environment
