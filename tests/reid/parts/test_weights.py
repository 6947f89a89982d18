"""Pretrained weights: every kind of file, and every way a file can be wrong."""

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from reid.parts.backbone import Layout, Trunk, build_trunk

State = dict[str, Tensor]
CACHED = "resnet18-f37072fd.pth"


def small_state(**extra: Tensor) -> State:
    """The random weights of a small trunk under torchvision's names, with a classifier."""
    torch.manual_seed(1)
    state = {name.removeprefix("stem."): tensor for name, tensor in build_trunk("resnet10_w16").state_dict().items()}
    return state | {"fc.weight": torch.zeros(3, 128), "fc.bias": torch.zeros(3)} | extra


def write(path: Path, state: object) -> str:
    if path.suffix == ".safetensors":
        assert isinstance(state, dict)
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def same(trunk: Trunk, state: State) -> bool:
    own = {name.removeprefix("stem."): tensor for name, tensor in trunk.state_dict().items()}
    return all(torch.equal(tensor, state[name]) for name, tensor in own.items())


@pytest.mark.parametrize("layout", ["stride2", "stride1"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_is_loaded_in_every_layout_without_its_classifier(
    tmp_path: Path, layout: Layout, suffix: str
) -> None:
    state = small_state()
    torch.manual_seed(2)
    trunk = build_trunk("resnet10_w16", layout=layout, weights=write(tmp_path / f"w{suffix}", state))
    assert same(trunk, state)


def test_torchvisions_resnet50_loads_in_all_three_layouts(tmp_path: Path) -> None:
    state = torchvision.models.resnet50().state_dict()
    path = write(tmp_path / "w.safetensors", state)
    layouts: tuple[Layout, ...] = ("stride2", "stride1", "dilated")
    assert all(same(build_trunk("resnet50", layout=layout, weights=path), state) for layout in layouts)


def test_files_without_batch_counters_are_fine(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in small_state().items() if not name.endswith("num_batches_tracked")}
    build_trunk("resnet10_w16", weights=write(tmp_path / "w.pth", state))


def test_missing_unexpected_and_misshapen_keys_are_listed(tmp_path: Path) -> None:
    state = small_state(**{"layer9.weight": torch.zeros(1), "bn1.weight": torch.zeros(7)})
    del state["layer2.0.conv1.weight"]
    path = write(tmp_path / "w.pth", state)
    with pytest.raises(ValueError, match="does not fit backbone 'resnet10_w16'") as error:
        build_trunk("resnet10_w16", weights=path)
    assert "1 missing: layer2.0.conv1.weight; 1 unexpected: layer9.weight" in str(error.value)
    assert "1 of another shape: stem.bn1.weight" in str(error.value)
    assert path in str(error.value)


def test_a_long_list_of_keys_is_cut_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"60 missing: layer1.0.bn1.bias, .* and 50 more; 1 unexpected: weight"):
        build_trunk("resnet10_w16", weights=path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights file .*nowhere\.pth"):
        build_trunk("resnet18", weights=str(tmp_path / "nowhere.pth"))


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'weights\.onnx' are neither 'imagenet' nor a \.safetensors or \.pth file"):
        build_trunk("resnet18", weights="weights.onnx")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="cannot be read as a state dict of tensors"):
        build_trunk("resnet18", weights=str(path))


class Harmful:
    """An object no weights file should hold."""


def test_a_file_that_holds_objects_is_not_unpickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds other objects"):
        build_trunk("resnet18", weights=write(tmp_path / "w.pth", {"conv1.weight": Harmful()}))


def test_a_checkpoint_of_nested_dicts_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"state_dict": small_state(), "epoch": 3})
    with pytest.raises(ValueError, match="must map parameter names to tensors"):
        build_trunk("resnet10_w16", weights=path)


def test_imagenet_weights_come_from_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    state = torchvision.models.resnet18().state_dict()
    write(tmp_path / "hub" / "checkpoints" / CACHED, state)
    assert same(build_trunk("resnet18", weights="imagenet"), state)


def test_offline_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(FileNotFoundError, match="no network") as error:
        build_trunk("resnet18", weights="imagenet")
    message = str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / CACHED) in message
    assert "https://download.pytorch.org/models/" in message
    assert "set weights to the path of a local .safetensors or .pth file" in message


def test_the_v1_weights_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(url: str, path: str, **arguments: object) -> None:
        asked.append(url)
        assert arguments["hash_prefix"] == "0676ba61"
        torch.save(torchvision.models.resnet50().state_dict(), path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    build_trunk("resnet50", weights="imagenet")
    assert asked == ["https://download.pytorch.org/models/resnet50-0676ba61.pth"]


def test_demonstration_trunks_have_no_imagenet_weights() -> None:
    with pytest.raises(ValueError, match="no ImageNet weights for backbone 'resnet10_w32'; set weights to null"):
        build_trunk("resnet10_w32", weights="imagenet")
