"""What the benchmark compares the methods with does the same: equal losses, equal gradients, by other layers."""

import functools
import importlib.util
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reid import methods

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LOSS = "looped_triplet"
Parameters = dict[str, nn.Parameter]


@pytest.fixture(scope="module")
def forms() -> Any:
    """The module benchmarks/naive.py; its folder is no package."""
    spec = importlib.util.spec_from_file_location("naive_forms", BENCHMARKS / "naive.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(name: str, variant: str, **overrides: Any) -> Any:
    """On the small trunk, and none of its layers starting as the identity."""
    torch.manual_seed(0)
    method = methods.build(name, variant, num_ids=4, backbone="resnet10_w16", **overrides)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def batch(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 3, 192 if name == "han" else 64, 32, generator=generator), torch.arange(4).repeat(3)


def losses_and_gradients(
    network: Any, images: Tensor, labels: Tensor, *, of: Parameters
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(3)
    losses: dict[str, Tensor] = network(images, labels)
    total = torch.stack(list(losses.values())).sum()
    gradients = torch.autograd.grad(total, list(of.values()), allow_unused=True, materialize_grads=True)
    return losses, dict(zip(of, gradients, strict=True))


def trained(network: Any) -> Parameters:
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def exchanged(form: Any) -> set[str]:
    """The names of what is not ours in a form; the heads of HAN are counted once."""
    found = {type(module).__name__ for module in form.modules() if type(module).__module__ == "naive_forms"}
    looped = isinstance(form.metric_loss, functools.partial) and form.metric_loss.func.__name__ == LOSS
    return found | ({LOSS} if looped else set())


FORMS: list[tuple[str, str, dict[str, Any], set[str]]] = [
    ("baseline", "default", {}, set()),
    ("baseline", "triplet", {"margin": 0.3}, {LOSS}),
    ("bdb", "default", {}, {LOSS, "MaskOfOnes"}),
    ("bdb", "retrieval", {"drop_groups": 5}, {LOSS, "MaskOfOnes"}),
    ("bag_of_tricks", "default", {}, {LOSS}),
    ("agw", "default", {}, {"FromTheLeft", "Powers"}),
    ("saadb", "default", {"drop_probability": 0.0}, {LOSS, "BothMaps"}),
    ("saadb", "default", {"drop_probability": 1.0}, {LOSS, "BothMaps"}),
    ("sona", "default", {"sona_scale": "sqrt"}, {LOSS, "ExplicitCovariance"}),
    ("sona", "sona2_3", {}, {LOSS, "ExplicitCovariance"}),
    ("esnet", "default", {"ppool_init": 3.0}, {LOSS, "RatioOfPowers", "ErasingFromThePixels"}),
    ("esnet", "esb", {"ppool_init": 2.0, "erase_value": "black"}, {LOSS, "RatioOfPowers", "ErasingFromThePixels"}),
]


@pytest.mark.parametrize(("name", "variant", "overrides", "layers"), FORMS)
def test_a_naive_form_has_layers_of_its_own_and_the_same_losses_and_gradients(
    forms: Any, name: str, variant: str, overrides: dict[str, Any], layers: set[str]
) -> None:
    ours = small(name, variant, **overrides)
    form = forms.naive(ours)
    assert exchanged(form) == layers
    losses, gradients = losses_and_gradients(ours, *batch(name), of=trained(ours))
    slow_losses, slow_gradients = losses_and_gradients(form, *batch(name), of=trained(ours))
    assert list(slow_losses) == list(losses)
    torch.testing.assert_close(slow_losses, losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slow_gradients, gradients, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("variant", ["default", "triplet_parts", "triplet_linear", "only_mgo"])
def test_the_separate_heads_of_han_have_the_losses_and_gradients_of_all_at_once(forms: Any, variant: str) -> None:
    sizes = {"hidden_dim": 16, "feature_dim": 8, "plain_dropout": 0.0}
    ours = small("han", variant, **sizes)
    form = forms.naive(ours)
    assert exchanged(form) == {"SeparateHeads", "OneHead"} | (set() if variant == "only_mgo" else {LOSS})
    losses, gradients = losses_and_gradients(ours, *batch("han"), of=trained(ours))
    own = {f"heads.{name}": parameter for name, parameter in trained(form.heads).items()}
    shared = {name: p for name, p in trained(ours).items() if not name.startswith("heads.")}
    slow_losses, slow_gradients = losses_and_gradients(form, *batch("han"), of=shared | own)
    torch.testing.assert_close(slow_losses, losses, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        slow = [slow_gradients[name]] if name in shared else list(of_all_parts(name, slow_gradients))
        torch.testing.assert_close(torch.cat(slow).flatten(), gradient.flatten(), rtol=1e-2, atol=1e-3)


def of_all_parts(name: str, gradients: dict[str, Tensor]) -> Iterator[Tensor]:
    """Of the separate layers that are, one for each part, the layer of this name."""
    names = {"heads.pool.reduce": "reduce.0", "heads.pool.norm": "reduce.1"}
    layer, _, kind = name.rpartition(".")
    for part in range(21):
        yield gradients[f"heads.{part}.{names.get(layer, layer.removeprefix('heads.'))}.{kind}"]


def test_what_is_compared_does_something(forms: Any) -> None:
    """Dropping, attending and erasing change the losses, in our methods and in their forms."""
    for name, switch, options in [
        ("bdb", "rh", (0.3, 0.0)),
        ("saadb", "drop_probability", (0.0, 1.0)),
        ("esnet", "erase_ratio", (0.2, 0.6)),
    ]:
        for wrap in (lambda method: method, forms.naive):
            networks = [wrap(small(name, "default", **{switch: option})) for option in options]
            one, other = (losses_and_gradients(each, *batch(name), of=trained(each))[0] for each in networks)
            assert [key for key in one if one[key] != other[key]], name


def test_an_erasing_that_has_no_naive_form_is_named(forms: Any) -> None:
    with pytest.raises(ValueError, match="only the paper's way to erase has a naive form: set --no-naive"):
        forms.naive(small("esnet", "grad_cam"))


@pytest.mark.parametrize("alone", [False, True])
def test_the_benchmark_prints_ratios(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], alone: bool
) -> None:
    arguments = "--methods bdb sona:bl --backbone resnet10_w16 --size 64 32 --batch 8 --rounds 1"
    monkeypatch.setattr(sys, "argv", ["methods.py", *arguments.split(), *(["--no-naive"] if alone else [])])
    monkeypatch.syspath_prepend(BENCHMARKS)  # what python does for a script
    runpy.run_path(str(BENCHMARKS / "methods.py"), run_name="__main__")
    header, _, *rows = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:])
    assert header == ["step", "ms", "images/s", "ratio to plain", *([] if alone else ["naive / ours"])]
    assert [row[0] for row in rows] == ["plain", "bdb", "sona:bl"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[1:])
    assert float(rows[0][3]) == 1
