"""The contract every method keeps, on every variant of it; then what is particular to baseline and BDB.

A new method is tested here the moment its file exists.
"""

import dataclasses
import functools
import importlib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from reid import methods
from reid.config import Augment, Optimiser, Protocol, Range, Recipe, Sampler, Schedule, Settings
from reid.methods.base import OWN, Method
from reid.parts.drop import BatchDropBlock, BatchDropout, Dropout
from reid.parts.pooling import global_average, global_max
from tests.conftest import takes_minutes

NUM_IDS = 6
HEIGHTS = {"han": 192}  # of the images, others' being 64: six stripes of the map of a trunk with stride 32
EVERY = [(name, variant) for name in methods.names() for variant in methods.variants(name)]
COMPILED = [(name, "default") for name in ("bdb", "han", "saadb", "sona")]  # esnet in a test of its own
over_all_variants = pytest.mark.parametrize(("name", "variant"), EVERY, ids=["-".join(pair) for pair in EVERY])


def small(name: str, variant: str, *, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return methods.build(name, variant, num_ids=NUM_IDS, backbone="resnet10_w16")


def batch(name: str = "", *, images: int = 3) -> tuple[Tensor, Tensor]:
    """A P x K batch: all identities, some images of each, every identity with a look of its own."""
    generator = torch.Generator().manual_seed(5)
    looks = torch.randn(NUM_IDS, 3, HEIGHTS.get(name, 64), 32, generator=generator)
    labels = torch.arange(NUM_IDS).repeat_interleave(images)
    return looks[labels] + torch.randn(len(labels), *looks.shape[1:], generator=generator), labels


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def step(name: str, method: Method, optimiser: torch.optim.Optimizer) -> float:
    loss = total(method(*batch(name)))
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()
    return loss.item()


@functools.cache
def warm(name: str, variant: str) -> Method:
    """A method in eval mode, its batch norms having seen data; shared by the tests, which only look at it."""
    method = small(name, variant)
    with torch.no_grad():
        for _ in range(3):
            method(*batch(name))
    return method.eval()


# ---- the contract


@over_all_variants
def test_losses_are_finite_named_float32_scalars(name: str, variant: str) -> None:
    losses = small(name, variant)(*batch(name))
    assert losses
    for key, loss in losses.items():
        assert key.split("/")[0] in ("id", "triplet"), key
        assert loss.shape == ()
        assert loss.dtype is torch.float32
        assert loss.isfinite(), key


@over_all_variants
def test_every_parameter_receives_a_gradient(name: str, variant: str) -> None:
    method = small(name, variant)
    optimiser = torch.optim.SGD(method.parameters(), 1e-4)
    for _ in range(3):  # a random operator may hide a part of the network once, a layer that starts at zero at first
        torch.autograd.backward(total(method(*batch(name))))
        optimiser.step()
    without = [key for key, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


@over_all_variants
def test_a_few_steps_on_one_batch_lower_the_loss(name: str, variant: str) -> None:
    method = small(name, variant)
    optimiser = torch.optim.Adam(method.parameters(), 1e-3)
    course = [step(name, method, optimiser) for _ in range(9)]
    assert sum(course[-3:]) < 0.9 * sum(course[:3])


@over_all_variants
def test_embeddings_have_the_declared_size_and_a_batch_may_be_one_image(name: str, variant: str) -> None:
    method = warm(name, variant)
    images, _ = batch(name)
    assert method.embed(images).shape == (len(images), method.embedding_dim)
    assert method.embed(images[:1]).shape == (1, method.embedding_dim)
    found = method.embeddings(images)
    assert torch.equal(found[OWN], method.embed(images))
    assert all(part.ndim == 2 and len(part) == len(images) for part in found.values())


@over_all_variants
@torch.no_grad()
def test_an_embedding_does_not_depend_on_the_rest_of_the_batch(name: str, variant: str) -> None:
    method = warm(name, variant)
    images, _ = batch(name)
    together = method.embed(images)
    torch.testing.assert_close(method.embed(images[3:5]), together[3:5], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        method.embed(torch.cat([images[:1], -images[2:]]))[:1], together[:1], rtol=1e-3, atol=1e-4
    )
    assert (together[0] - together[-1]).abs().max() > 0.01  # and does depend on the image


@over_all_variants
@torch.no_grad()
def test_embedding_is_deterministic_and_changes_nothing(name: str, variant: str) -> None:
    method = warm(name, variant)
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    images, _ = batch(name)
    first = method.embed(images)
    torch.manual_seed(99)
    assert torch.equal(method.embed(images), first)
    assert all(torch.equal(tensor, before[key]) for key, tensor in method.state_dict().items())


@over_all_variants
@torch.no_grad()
def test_the_state_goes_through_safetensors(name: str, variant: str, tmp_path: Path) -> None:
    method = warm(name, variant)
    save_file(method.state_dict(), tmp_path / "state.safetensors")
    other = small(name, variant, seed=1).eval()
    images, _ = batch(name)
    assert not torch.equal(other.embed(images), method.embed(images))
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert torch.equal(other.embed(images), method.embed(images))


@over_all_variants
def test_initialisation_and_losses_follow_torchs_seed(name: str, variant: str) -> None:
    one, same, other = (small(name, variant, seed=seed)(*batch(name)) for seed in (3, 3, 4))
    assert one == same
    assert one != other


@over_all_variants
def test_bf16_autocast_gives_the_same_losses(name: str, variant: str) -> None:
    """Of four models: one rounding may move a position across the threshold of a mask."""

    def mean_losses(*, enabled: bool) -> dict[str, float]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            draws = [small(name, variant, seed=seed)(*batch(name)) for seed in range(4)]
        return {key: sum(draw[key].item() for draw in draws) / len(draws) for key in draws[0]}

    exact, rounded = mean_losses(enabled=False), mean_losses(enabled=True)
    for key, expected in exact.items():
        assert rounded[key] == pytest.approx(expected, rel=0.05, abs=0.02), key


@pytest.mark.parametrize(
    ("name", "variant"),
    [pytest.param(*pair, marks=() if pair in COMPILED else takes_minutes, id="-".join(pair)) for pair in EVERY],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by the compiler itself
def test_torch_compile_gives_the_same_losses(name: str, variant: str) -> None:
    """Traced ahead of time, and differentiated for the default; what is left out is the machine code, of minutes."""

    def step_of(wrap: Callable[[Method], Callable[..., dict[str, Tensor]]]) -> list[Tensor]:
        method = small(name, variant)
        torch.manual_seed(1)
        with torch.set_grad_enabled(variant == "default"):
            losses = wrap(method)(*batch(name))
        if variant == "default":
            torch.autograd.backward(total(losses))
        return [*losses.values(), *(p.grad for p in method.parameters() if p.grad is not None)]

    torch._dynamo.reset()
    eager, compiled = step_of(lambda method: method), step_of(functools.partial(torch.compile, backend="aot_eager"))
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


@over_all_variants
def test_a_training_step_never_waits_for_the_device(name: str, variant: str) -> None:
    """Fake tensors have no values: anything that reads one (item, nonzero, boolean indexing) raises."""
    with FakeTensorMode():
        method = methods.build(name, variant, num_ids=NUM_IDS, backbone="resnet10_w16")
        images, labels = torch.empty(8, 3, HEIGHTS.get(name, 64), 32), torch.empty(8, dtype=torch.long)
        torch.autograd.backward(total(method(images, labels)))


@pytest.mark.parametrize("name", methods.names())
def test_a_method_declares_its_variants_and_its_recipe(name: str) -> None:
    variants = methods.variants(name)
    assert "default" in variants
    assert len({type(settings) for settings in variants.values()}) == 1
    assert isinstance(methods.recipe(name), Recipe)
    for first, second in ((a, b) for a in variants for b in variants if a < b):
        assert variants[first] != variants[second], f"{first} and {second} are the same"


def ranges(hint: object) -> list[Range]:
    """The ranges in an annotation, however deep."""
    found = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)]
    return found + [inner for argument in typing.get_args(hint) for inner in ranges(argument)]


@pytest.mark.parametrize("name", methods.names())
def test_every_number_has_a_documented_range(name: str) -> None:
    settings = methods.config(name)
    hints = typing.get_type_hints(type(settings), include_extras=True)
    numbers = [f.name for f in dataclasses.fields(settings) if type(getattr(settings, f.name)) in (int, float)]
    assert [field for field in numbers if not ranges(hints[field])] == []


# ---- choosing a method


def test_only_the_method_asked_for_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    load = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: imported.append(name) or load(name))  # type: ignore[func-returns-value]
    methods.names()
    assert imported == []
    methods.config("baseline")
    assert set(imported) == {"reid.methods.baseline"}


def test_names_are_sorted_and_leave_out_the_base() -> None:
    assert methods.names() == sorted(methods.names())
    assert {"baseline", "bdb"} <= set(methods.names())
    assert "base" not in methods.names()


def test_a_configuration_is_a_variant_with_overrides() -> None:
    assert methods.config("bdb") == methods.variants("bdb")["default"]
    changed = methods.config("bdb", "no_triplet", rh=0.4)
    assert changed == dataclasses.replace(methods.variants("bdb")["no_triplet"], rh=0.4)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        (("bddb",), {}, r"unknown method 'bddb', allowed: .*baseline.*; did you mean 'bdb'\?"),
        (("base",), {}, r"unknown method 'base'"),
        (
            ("bdb", "no_triplets"),
            {},
            r"unknown variant of method 'bdb' 'no_triplets', allowed: .*did you mean 'no_triplet'",
        ),
        (
            ("bdb",),
            {"drop_opp": "none"},
            r"unknown setting of method 'bdb' 'drop_opp', allowed: .*did you mean 'drop_op'",
        ),
        (("bdb",), {"rh": 1.5}, r"Config\.rh is 1\.5, allowed: 0 to 1"),
        (("bdb",), {"drop_op": "erase"}, r"Config\.drop_op is 'erase', allowed: none, dropout"),
        (("bdb",), {"global_branch": False, "drop_branch": False}, "no branch left: set global_branch or drop_branch"),
        (("baseline",), {"margin": -1.0}, r"Config\.margin is -1\.0, allowed: 0 to 10"),
    ],
)
def test_a_wrong_name_or_value_is_explained(
    arguments: tuple[str, ...], overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        methods.config(*arguments, **overrides)


def test_build_takes_a_whole_configuration_as_overrides() -> None:
    whole = dataclasses.asdict(methods.config("bdb", "drop_only", drop_dim=64))
    method = methods.build("bdb", num_ids=3, backbone="resnet10_w16", **whole)
    assert method.embedding_dim == 64


# ---- baseline and BDB


@pytest.mark.parametrize("name", ["baseline", "bdb"])
def test_the_recipe_is_that_of_bdb(name: str) -> None:
    assert methods.recipe(name) == Recipe(
        backbone="resnet50",
        weights="imagenet",
        image_size=(384, 128),
        sampler=Sampler(identities=32, images=4, epoch="ids_once"),
        augment=Augment(flip=0.5, crop_padding=0, cutout=0.0, random_erasing=0.0),
        optimiser=Optimiser(name="adam", weight_decay=5e-4),
        schedule=Schedule(name="S1", epochs=400, peak_lr=1e-3, time_scale=1.0),
        protocol=Protocol(distance="euclidean", normalise=False, flip=False, ap="hits"),
    )


@pytest.mark.parametrize(
    ("name", "variant", "millions", "size"),
    [("bdb", "default", 32.276, 1536), ("bdb", "drop_only", 30.841, 1024), ("baseline", "default", 24.943, 512)],
)
def test_size_on_resnet50_with_market_identities(name: str, variant: str, millions: float, size: int) -> None:
    with torch.device("meta"):
        method = methods.build(name, variant, num_ids=751)
        embedding = method.eval().embed(torch.empty(2, 3, 384, 128))
    assert sum(p.numel() for p in method.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert embedding.shape == (2, size)
    assert method.embedding_dim == size


def test_the_embedding_is_global_then_drop() -> None:
    method = warm("bdb", "default")
    images, _ = batch()
    outputs = method.branches(images)
    assert list(outputs) == ["global", "drop"]
    assert torch.equal(method.embed(images), torch.cat([outputs["global"].feature, outputs["drop"].feature], 1))
    assert (outputs["global"].feature.shape[1], outputs["drop"].feature.shape[1]) == (512, 1024)


def test_reductions_start_as_the_authors_layers_did() -> None:
    """In their code the global one is a convolution (fan in: 128 channels), the other linear (fan out: 1024)."""
    state = small("bdb", "default").state_dict()
    assert state["heads.global.reduction.linear.weight"].std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)
    assert state["heads.drop.reduction.linear.weight"].std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)


def test_only_the_drop_branch_loses_blocks() -> None:
    method, (images, labels) = small("bdb", "default"), batch()
    torch.manual_seed(0)
    draws = [method.branches(images, labels) for _ in range(5)]
    assert all(torch.equal(draw["global"].logits, draws[0]["global"].logits) for draw in draws)
    assert any(not torch.equal(draw["drop"].logits, draws[0]["drop"].logits) for draw in draws)


def test_bdb_without_its_drop_branch_is_the_baseline_with_triplet_loss() -> None:
    """So the "Global Branch (Baseline)" row of Table 2 is method baseline, variant triplet, and is trained once."""
    bdb, baseline = small("bdb", "global_only"), small("baseline", "triplet")
    assert bdb.state_dict().keys() == baseline.state_dict().keys()
    for _ in range(3):
        assert bdb(*batch()) == baseline(*batch())


@pytest.mark.parametrize(
    ("name", "variant", "keys"),
    [
        ("baseline", "default", ["id/global"]),
        ("baseline", "triplet", ["id/global", "triplet/global"]),
        ("bdb", "default", ["id/global", "triplet/global", "id/drop", "triplet/drop"]),
        ("bdb", "drop_only", ["id/drop", "triplet/drop"]),
        ("bdb", "no_triplet", ["id/global", "id/drop"]),
    ],
)
def test_each_branch_has_its_losses(name: str, variant: str, keys: list[str]) -> None:
    assert list(small(name, variant)(*batch())) == keys


@pytest.mark.parametrize(
    ("variant", "operator"),
    [
        ("default", BatchDropBlock),
        ("dropblock_single", BatchDropBlock),
        ("batch_dropout", BatchDropout),
        ("spatial_dropout", Dropout),
        ("dropout", Dropout),
    ],
)
def test_variants_of_table_3_put_their_operator_after_the_bottleneck(variant: str, operator: type[nn.Module]) -> None:
    body = small("bdb", variant).get_submodule("heads.drop.body")
    assert [type(child).__name__ for child in body.children()] == ["Bottleneck", operator.__name__]


def test_settings_reach_the_layers() -> None:
    settings: dict[str, Any] = {"rh": 0.4, "rw": 0.6, "drop_groups": 4, "drop_pool": "avg"}
    method = methods.build("bdb", num_ids=3, backbone="resnet10_w16", **settings)
    block: Any = method.get_submodule("heads.drop.body.1")
    assert (block.height_ratio, block.width_ratio, block.groups) == (0.4, 0.6, 4)
    assert method.get_submodule("heads.drop").pool is global_average
    assert small("bdb", "default").get_submodule("heads.drop").pool is global_max
    dropout = methods.build("bdb", "dropout", num_ids=3, backbone="resnet10_w16", drop_p=0.5)
    assert dropout.get_submodule("heads.drop.body.1").p == 0.5


def test_the_smoothing_and_the_margin_reach_the_losses() -> None:
    def losses(**overrides: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        method = methods.build("baseline", "triplet", num_ids=NUM_IDS, backbone="resnet10_w16", **overrides)
        return method.losses(*batch())

    published, sharp, wide = losses(), losses(label_smoothing=0.0), losses(margin=5.0)
    assert published["id/global"] != sharp["id/global"]
    assert published["triplet/global"] == sharp["triplet/global"]
    assert wide["id/global"] == published["id/global"]
    assert wide["triplet/global"] > published["triplet/global"]


def test_the_baselines_layout_is_a_setting() -> None:
    with torch.device("meta"):
        method = methods.build("baseline", num_ids=3, backbone="resnet50", layout="dilated")
        assert method.get_submodule("trunk")(torch.empty(1, 3, 384, 128)).shape == (1, 2048, 48, 16)


def test_settings_are_frozen() -> None:
    settings: Settings = methods.config("bdb")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.rh = 0.5  # type: ignore[attr-defined]
