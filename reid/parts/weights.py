"""Reading pretrained ResNet weights: torchvision's ImageNet file or a local one, checked key by key."""

import urllib.parse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

_SHOWN = 10


def read_weights(weights: str, backbone: str, *, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """A trunk's state dict from a file with torchvision's names; the classifier `fc` is left out.

    Args:
        weights: `imagenet` for torchvision's V1 weights, fetched once into torch's cache, or the path of a .safetensors
            or .pth state dict.
        backbone: the trunk's name; selects the ImageNet file and is named in errors.
        like: the trunk's own state dict: the names and shapes asked for.

    Raises:
        FileNotFoundError: no such file, or the ImageNet file is neither cached nor reachable.
        ValueError: not a state dict, or its keys or shapes are not the trunk's; the message lists them.
    """
    path = _imagenet_file(backbone) if weights == "imagenet" else Path(weights)
    tensors = {_own_name(name): tensor for name, tensor in _read(path).items() if not name.startswith("fc.")}
    # Files from before torch 0.4.1 do not count batches, and nothing reads the count of pretrained layers.
    counters = {name: count for name, count in like.items() if name.endswith(".num_batches_tracked")}
    tensors = counters | tensors
    _check(tensors, like, f"{path} does not fit backbone {backbone!r}")
    return tensors


def _own_name(name: str) -> str:
    return f"stem.{name}" if name.startswith(("conv1.", "bn1.")) else name


def _imagenet_file(backbone: str) -> Path:
    """Torchvision's V1 weights in torch's cache, downloaded if need be."""
    from torchvision.models import get_model_weights  # slow to import

    try:
        url = get_model_weights(backbone).IMAGENET1K_V1.url
    except ValueError:
        raise ValueError(
            f"there are no ImageNet weights for backbone {backbone!r}; set weights to null (random) or to a file"
        ) from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urllib.parse.urlparse(url).path).name
    if not path.exists():
        _download(url, path)
    return path


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest_start = path.stem.rpartition("-")[2]
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest_start, progress=False)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"the ImageNet weights are not in {path} and cannot be fetched from {url} ({error}). Put {path.name} there "
            f"(TORCH_HOME moves that folder), or set weights to the path of a local .safetensors or .pth file, or to "
            f"null for a random initialisation."
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"weights {str(path)!r} are neither 'imagenet' nor a .safetensors or .pth file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # every reader has its own exceptions, and torch's advise to unpickle anything
        raise ValueError(
            f"{path} cannot be read as a state dict of tensors: it is damaged or holds other objects"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{path} is not a state dict: it must map parameter names to tensors, nothing else")
    return loaded


def _check(tensors: dict[str, Tensor], like: dict[str, Tensor], problem: str) -> None:
    """Raise unless names and shapes are those of `like`."""
    shared = sorted(tensors.keys() & like.keys())
    faults = {
        "missing": sorted(like.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - like.keys()),
        "of another shape": [name for name in shared if tensors[name].shape != like[name].shape],
    }
    found = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in faults.items() if names]
    if found:
        raise ValueError(f"{problem}; {'; '.join(found)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
