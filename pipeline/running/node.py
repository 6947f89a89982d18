"""What a machine of a cluster has to run trials with, asked on that machine; `cluster` compares answers."""

import os
import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import fsspec

from pipeline.planning import keys
from pipeline.storage import provenance
from reid.data.dataset import ReidData


def report(*, store: str, data: str | None, datasets: Sequence[str], cache: str, gpus: bool) -> dict[str, Any]:
    """What this process finds on its machine, as plain types.

    Args:
        store: a folder or an address that fsspec knows, in which the driver has left a file: the file's own path.
        data: the folder of the packed data sets; None: they are brought to the machine when a trial needs them.
        datasets: which of them trials train on.
        cache: the folder of a machine's own that things are brought to.
        gpus: whether trials use GPUs.

    Returns:
        `host`, `commit`, the versions of `python`, `torch` and `ray`, `code` (a hash), `token` (whether Ray asks for
        one), `store` (what the driver wrote there), `data` (digests by data set; what is wrong begins with `!`),
        `cache` (its folder), `free` (bytes on that one's disk) and `gpus` (that torch sees; None: it was not asked).
    """
    return {
        "host": provenance.host(),
        "commit": provenance.revision(provenance.ROOT)[0],
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "ray": metadata.version("ray"),
        "code": keys.whole_digest(),
        "token": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
        "store": _read_and_write(store),
        "data": {} if data is None else {name: _digest(Path(data) / name) for name in datasets},
        "cache": cache,
        "free": _free(Path(cache).expanduser()),
        "gpus": _gpus() if gpus else None,
    }


def _read_and_write(path: str) -> str:
    """What the driver's file holds, once a file beside it could be written; else what went wrong, after a `!`."""
    try:
        files, name = fsspec.url_to_fs(path, use_listings_cache=False)
        content: bytes = files.cat_file(name)
        own = f"{name}-{provenance.host()}-{os.getpid()}"
        files.pipe_file(own, content)
        files.rm_file(own)
    except Exception as error:  # of any storage library
        return f"!{type(error).__name__}: {error}"
    return content.decode()


def _digest(folder: Path) -> str:
    try:
        return ReidData.load(folder).digest_for("val")
    except (OSError, ValueError, KeyError) as error:
        return f"!{error}"


def _free(folder: Path) -> int:
    """Bytes free on the disk that a folder is on, or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
