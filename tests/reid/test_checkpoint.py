"""A saved state is complete, exact and never half there."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from reid import checkpoint


def trained(optimiser_class: type[torch.optim.Optimizer], **settings: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimiser = optimiser_class(model.parameters(), lr=0.1, **settings)
    for _ in range(3):
        optimiser.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimiser.step()
    return model, optimiser


@pytest.mark.parametrize(
    ("optimiser_class", "settings"), [(torch.optim.Adam, {"weight_decay": 0.1}), (torch.optim.SGD, {"momentum": 0.9})]
)
def test_an_optimiser_goes_on_exactly_as_it_would_have(
    tmp_path: Path, optimiser_class: type[torch.optim.Optimizer], settings: dict[str, float]
) -> None:
    model, optimiser = trained(optimiser_class, **settings)
    tensors, values = checkpoint.pack_optimiser(optimiser)
    checkpoint.save(tmp_path / "state.safetensors", tensors, values)

    twin = nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    other = optimiser_class(twin.parameters(), lr=0.5)
    checkpoint.unpack_optimiser(other, *checkpoint.load(tmp_path / "state.safetensors"))
    batch = torch.randn(4, 3)
    for net, opt in ((model, optimiser), (twin, other)):
        opt.zero_grad()
        net(batch).square().sum().backward()
        opt.step()
    assert torch.equal(model.weight, twin.weight)


def test_a_failed_write_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"weight": torch.ones(2)}, {"epoch": 1})

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"weight": torch.zeros(2)}, {"epoch": 2})
    tensors, values = checkpoint.load(path)
    assert values == {"epoch": 1}
    assert torch.equal(tensors["weight"], torch.ones(2))


@pytest.mark.parametrize("harm", ["cut short", "one bit", "emptied", "another file"])
def test_a_damaged_file_is_never_believed(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"weight": torch.ones(20)}, {"epoch": 1})
    content = bytearray(path.read_bytes())
    if harm == "one bit":
        content[-3] ^= 1
    harmed = {"cut short": content[:-4], "one bit": content, "emptied": b"", "another file": b"hello"}[harm]
    path.write_bytes(harmed)
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged .*; remove it"):
        checkpoint.load(path)


def test_values_are_under_the_checksum_too(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"weight": torch.ones(2)}, {"epoch": 1})
    path.write_bytes(path.read_bytes().replace(b'\\"epoch\\": 1', b'\\"epoch\\": 2'))
    with pytest.raises(ValueError, match="checksum"):
        checkpoint.load(path)


def test_under_takes_one_prefix_off() -> None:
    tensors = {"method.a": torch.ones(1), "optimiser.a": torch.zeros(1)}
    assert checkpoint.under("method.", tensors) == {"a": tensors["method.a"]}


def test_a_full_disk_is_an_os_error_and_leaves_no_scrap(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"weight": torch.ones(2)}, {"epoch": 1})
    code = (
        "import resource, sys, torch; from pathlib import Path; from reid import checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try: checkpoint.save(Path(sys.argv[1]), {'weight': torch.zeros(9999)}, {'epoch': 2})\n"
        "except OSError as error: print(error.errno, error.filename)"
    )
    answer = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    assert answer.stdout.split() == [str(errno.EFBIG), str(path)]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert checkpoint.load(path)[1] == {"epoch": 1}


def test_a_damaged_file_says_which_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"")
    with pytest.raises(checkpoint.DamagedError, match=r"is damaged .*; remove it") as caught:
        checkpoint.load(path)
    assert caught.value.path == path
