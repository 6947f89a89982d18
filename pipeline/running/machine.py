"""What this machine has: versions, GPUs, cores, memory, disks. Asked of the system, without Ray."""

import math
import os
import platform
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.planning.shares import Node

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "dvc", "optuna")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Versions, and what this process may use. Memory in bytes; None is what the system does not say."""

    python: str
    installed: Mapping[str, str | None]
    pinned: Mapping[str, str]
    cuda: str | None
    gpus: Sequence[Mapping[str, Any]]
    gpu_warnings: Sequence[str]
    cores: int
    memory: int | None
    memory_available: int | None


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What some of the checkout's folders are on, or will be; sizes in bytes."""

    holds: Sequence[str]
    path: Path
    free: int
    total: int
    writable: bool


def environment(lock: Path) -> Environment:
    """The environment of this process; `lock` is requirements.lock, which may be missing."""
    cuda, gpus, gpu_warnings = _gpus()
    memory, available = _memory()
    return Environment(
        python=platform.python_version(),
        installed={name: _version(name) for name in PACKAGES},
        pinned=_pins(lock),
        cuda=cuda,
        gpus=gpus,
        gpu_warnings=gpu_warnings,
        cores=_cores(),
        memory=memory,
        memory_available=available,
    )


def node() -> Node:
    """What this machine has for trials."""
    import torch  # is asked for GPUs

    return Node(_cores(), torch.cuda.device_count())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _pins(lock: Path) -> dict[str, str]:
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", _text(lock), re.MULTILINE))
    return {name: pins[name] for name in PACKAGES if name in pins}


def _gpus() -> tuple[str | None, list[dict[str, Any]], list[str]]:
    """The CUDA that torch was built for, its GPUs, and what it had to say of them."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return None, [], [f"torch cannot be imported: {error}"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [torch.cuda.get_device_properties(index) for index in range(count)]
    found = [{"name": gpu.name, "memory": gpu.total_memory} for gpu in gpus]
    return torch.version.cuda, found, [str(warning.message) for warning in said]


def _cores() -> int:
    """The cores that this process may run on, or a container's share of them if that is less."""
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return min(allowed, math.ceil(int(quota) / int(period))) if quota.isdigit() else allowed


def _memory() -> tuple[int | None, int | None]:
    """Memory in all and what is available of it, within the container's limit."""
    kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE))
    if not {"MemTotal", "MemAvailable"} <= kilobytes.keys():
        return None, None
    total, available = (int(kilobytes[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limit, used = (_text(Path(f"/sys/fs/cgroup/memory.{name}")).strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        return min(total, int(limit)), min(available, int(limit) - int(used))
    return total, available


def disks(folders: Mapping[str, Path]) -> list[Disk]:
    """The disks of some folders, given by name; one that is not there yet will be where its nearest parent is."""
    there = {name: next(p for p in (path, *path.parents) if p.exists()) for name, path in folders.items()}
    by_device: dict[int, list[str]] = {}
    for name, path in there.items():
        by_device.setdefault(path.stat().st_dev, []).append(name)
    return [_disk(names, [there[name] for name in names]) for names in by_device.values()]


def _disk(names: Sequence[str], paths: Sequence[Path]) -> Disk:
    usage = shutil.disk_usage(paths[0])
    writable = all(os.access(path, os.W_OK) for path in paths)
    return Disk(holds=names, path=paths[0], free=usage.free, total=usage.total, writable=writable)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
