"""Tensors and values in one file: the resumable state of a trial, or its trained network.

Tensors as safetensors, everything else as JSON in its header, with a checksum over both. The file is replaced
atomically, so that a kill at any moment leaves either the old one or the new one.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_VALUES, _CHECKSUM = "values", "sha256"


class DamagedError(ValueError):
    """A file is not what was written: `path` says which."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} is damaged ({problem}); remove it")
        self.path = path


def save(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Replace the file at `path`; `values` must be JSON types.

    Raises:
        OSError: it cannot be written, for one because the disk is full. The old file is as it was.
    """
    temporary = path.with_suffix(".tmp")
    plain, text = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, json.dumps(values)
    try:
        save_file(plain, temporary, {_VALUES: text, _CHECKSUM: _checksum(plain, text)})
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        number = re.search(r"os error (\d+)", str(error))  # all that the library keeps of it
        raise OSError(int(number[1]) if number else 0, str(error), str(path)) from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and values that `save` wrote.

    Raises:
        DamagedError: the file is cut short, or not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            header = file.metadata() or {}
    except SafetensorError as error:
        raise DamagedError(path, str(error)) from error
    text = header.get(_VALUES, "")
    if header.get(_CHECKSUM) != _checksum(tensors, text):
        raise DamagedError(path, "it has not the checksum that was written with it")
    return tensors, json.loads(text)


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 over the names, types, shapes and bytes of the tensors, and the text."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pack_optimiser(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as flat tensors and JSON values."""
    state = optimiser.state_dict()
    tensors = {
        f"{index}.{name}": value
        for index, slots in state["state"].items()
        for name, value in slots.items()
        if isinstance(value, Tensor)
    }
    return tensors, {"param_groups": state["param_groups"]}


def unpack_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Give an optimiser of the same model the state that `pack_optimiser` took."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        index, name = path.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Fused kernels walk parameter and state side by side in memory, so both must be laid out alike.
            tensor = torch.empty_like(parameter).copy_(tensor)
        slots.setdefault(int(index), {})[name] = tensor.detach()
    optimiser.load_state_dict({"state": slots, "param_groups": values["param_groups"]})


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors below a prefix, with the prefix taken off."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
