"""The resumable state of a trial in one file: tensors as safetensors, everything else as JSON in its header.

One file, replaced atomically, so that a kill at any moment leaves either the old state or the new one.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_HEADER = "state"


def save(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Replace the state at `path`; `values` must be JSON types."""
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {_HEADER: json.dumps(values)})
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and values that `save` wrote."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return tensors, json.loads(file.metadata()[_HEADER])


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
