"""Where a result comes from: commit, versions, machine and time. Everything here works without git, too."""

import functools
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_CODE = ("reid", "pipeline")  # what a result depends on; a report that was made since does not make a commit dirty
_GIT_SECONDS = 20


@functools.cache
def environment() -> dict[str, Any]:
    """`python`, `torch` and `reid` versions, `host`, `commit` ("" without one) and `dirty`, as found by the first call.

    Call it when a process starts: a commit made while it runs is not the code that it runs.
    """
    commit, dirty = revision(ROOT)
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "reid": metadata.version("reid-pipeline"),
        "host": host(),
        "commit": commit,
        "dirty": dirty,
    }


def revision(root: Path) -> tuple[str, bool]:
    """The commit checked out in `root`, and whether the code there differs from it, new files included.

    ("", False) where git is missing, there is no commit yet, or `root`'s code is not in the repository around it, as
    for a package installed inside somebody else's checkout.
    """
    if not _git(root, "ls-files", "--", *_CODE):
        return "", False
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *_CODE)
    return (commit, bool(changes)) if commit else ("", False)


def host() -> str:
    """The name of this machine."""
    return platform.node()


def device(gpus: float) -> str:
    """What a trial with this many GPUs computes on: `cpu`, or the name of the GPU."""
    if not gpus:
        return "cpu"
    import torch  # slow to import, and whoever asks for a GPU has it

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "gpu"


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC: `2026-01-31T12:00:00+00:00`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _git(root: Path, *arguments: str) -> str:
    """What a git command prints; "" when it fails."""
    # A hook's GIT_DIR would point elsewhere, and asking must not take the lock from a person who commits.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", f"safe.directory={root.resolve()}", "-C", str(root), *arguments]
    try:
        answer = subprocess.run(
            command,
            env=clean | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
