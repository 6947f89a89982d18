"""What is particular to ES-Net; the contract of all methods is in test_methods.py."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from reid import methods
from reid.config import Augment, Optimiser, Protocol, Recipe, Sampler, Schedule
from reid.losses import cross_entropy, hard_triplet, weighted_triplet
from reid.methods.base import Method
from reid.methods.esnet import Config
from reid.parts.erasing import most_salient_pixels
from reid.parts.gem import GeneralisedMean
from reid.parts.non_local import NonLocal
from reid.parts.pooling import global_average, global_max
from reid.parts.power_pooling import PowerPooling
from reid.parts.relevance import cg_ram, positive_pairs

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
NUM_IDS = 4
TRUNK = 23_508_032
LAYER3, LAYER4 = 7_098_368, 14_964_736
HEAD = 2 * 2048 + 751 * 2048
DROP = 4_462_592 + 1024 * 2049 + 2 * 1024 + 751 * 1025  # bottleneck, reduction, its norm, classifier
MORE = {"erase_ratio": 0.2, "erase_probability": 0.5}
LESS = {"erase_ratio": 0.1, "erase_probability": 0.3}
# Row of a published table: variant, overrides.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "Base": ("base", {}),
    "AIB": ("aib", {}),
    "ESB(R=10%, P=0.3)": ("esb", {}),
    "ESB(R=20%, P=0.5)": ("esb", MORE),
    "AIB+ESB(R=10%, P=0.3)": ("default", LESS),
    "AIB+ESB(R=20%, P=0.5)": ("default", {}),
    "Base+BESM": ("base_besm", {}),
    "Base+BESM+GAP": ("base_besm", {}),
    "Base+BESM+GMP": ("base_besm_gmp", {}),
    "Base+BESM+P-pooling": ("base_besm_ppool", {}),
    "Base+BESM+P-pooling+Triplet Loss (ESB)": ("esb", {}),
    "Base+BESM+P-pooling+Triplet Loss": ("esb", {}),
    "Base+Random Erasing": ("base", {}),  # with recipe.augment.random_erasing
    "Base+Grad-CAM Erasing": ("grad_cam", {}),
    "Base+Feature Dropping Branch": ("dropping", {}),
    "ES-Net(Ours)": ("default", {}),
    "ES-Net(origin)": ("default", {}),
    "ES-Net(apply P-pooling in AIB and ESB)": ("ppool_in_aib", {}),
    "ES-Net*": ("agw", {}),
}


def small(variant: str = "default", *, seed: int = 0, **overrides: Any) -> Any:
    torch.manual_seed(seed)
    return methods.build("esnet", variant, num_ids=NUM_IDS, backbone="resnet10_w16", **overrides)


def batch() -> tuple[Tensor, Tensor]:
    images = torch.randn(12, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(NUM_IDS).repeat_interleave(3)


def losses(method: Method, *, seed: int = 7) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return method.losses(*batch())


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inputs and outputs of every call."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
    yield calls
    handle.remove()


def counted(module: nn.Module) -> set[int]:
    """How often the batch norms of a module have updated their running averages."""
    return {int(tensor.item()) for name, tensor in state(module).items() if name.endswith("num_batches_tracked")}


def state(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


# ---- sizes, recipe, tables


@pytest.mark.parametrize(
    ("variant", "parameters", "size"),
    [
        ("default", TRUNK + LAYER3 + LAYER4 + 2 * HEAD + 1, 4096),
        ("share_layer3", TRUNK + LAYER4 + 2 * HEAD + 1, 4096),
        ("base", TRUNK + HEAD, 2048),
        ("aib", TRUNK + HEAD, 2048),
        ("esb", TRUNK + HEAD + 1, 2048),
        ("base_besm", TRUNK + HEAD, 2048),
        ("per_channel", TRUNK + LAYER3 + LAYER4 + 2 * HEAD + 2048, 4096),
        ("dropping", TRUNK + HEAD + DROP, 3072),
    ],
)
def test_size_on_resnet50_with_market_identities(variant: str, parameters: int, size: int) -> None:
    with torch.device("meta"):
        method = methods.build("esnet", variant, num_ids=751)
        embedding = method.eval().embed(torch.empty(2, 3, 384, 128))
    assert sum(p.numel() for p in method.parameters()) == parameters
    assert embedding.shape == (2, size)
    assert method.embedding_dim == size


def test_the_sizes_are_those_of_the_specification() -> None:
    with torch.device("meta"):
        built = [methods.build("esnet", variant, num_ids=751) for variant in ("default", "share_layer3")]
    millions = [sum(p.numel() for p in method.parameters()) / 1e6 for method in built]
    assert millions == pytest.approx([48.655, 41.557], abs=6e-4)


def test_the_recipe_is_that_of_the_paper() -> None:
    assert methods.recipe("esnet") == Recipe(
        backbone="resnet50",
        weights="imagenet",
        image_size=(384, 128),
        sampler=Sampler(identities=16, images=4, epoch="images_once"),
        augment=Augment(flip=0.5, cutout=0.0, random_erasing=0.0),
        optimiser=Optimiser(name="adam", weight_decay=5e-4),
        schedule=Schedule(name="S3", epochs=120, peak_lr=3.5e-4),
        protocol=Protocol(distance="cosine", normalise=True, flip=True),
    )


@pytest.mark.parametrize("table", ["ii", "iii", "iv", "v", "vi", "vii", "x"])
def test_the_rows_of_the_tables_are_configurations(table: str) -> None:
    published = pd.read_csv(PUBLISHED / f"esnet_table{table}.csv").dropna(subset="variant_flags")
    seen = dict(zip(published["method"], published["variant_flags"], strict=True))
    seen.pop("AGW", None)  # method agw
    assert seen
    for row, flags in seen.items():
        variant, overrides = ROWS[row]
        settings = methods.config("esnet", variant, **overrides)
        assert isinstance(settings, Config)
        check_flags(settings, json.loads(flags), row)


def check_flags(settings: Config, flags: dict[str, Any], row: str) -> None:
    branches = {"AIB": settings.all_branch, "ESB": settings.erasing_branch}
    named = [name for name, there in branches.items() if there]
    assert flags["branches"] == (["base"] if flags["branches"] == ["base"] else named), row
    assert len(named) == len(flags["branches"]), row
    erases = settings.erase if settings.erasing_branch else "none"
    elsewhere = {"random_erasing": "none", "batch_dropblock": "none"}  # in the recipe, and on the map
    wanted = flags.get("erase", "besm" if flags["besm"] else "none")
    assert erases == elsewhere.get(wanted, wanted), row
    assert settings.drop_branch == (wanted == "batch_dropblock"), row
    pool = settings.pool if settings.erasing_branch else settings.pool_aib
    assert pool == flags.get("pool", "ppool" if flags["ppool"] else "gap"), row
    if settings.all_branch and settings.erasing_branch:
        assert (settings.pool_aib == "ppool") == flags.get("ppool_in_aib", False), row
    assert settings.triplet == flags["triplet"], row
    assert settings.agw == (flags.get("backbone") == "AGW"), row
    single = len(named) == 1
    assert settings.erase_ratio == flags.get("R", 0.1 if single and row != "AIB" else 0.2), row
    assert settings.erase_probability == flags.get("P", 0.3 if single and row != "AIB" else 0.5), row


def test_other_readings_of_the_paper_differ_from_the_default_in_one_setting() -> None:
    default = methods.variants("esnet")["default"]
    assert isinstance(default, Config)
    changes: dict[str, dict[str, Any]] = {
        "share_layer3_0": {"share_upto": "layer3.0"},
        "share_layer3": {"share_upto": "layer3"},
        "per_batch": {"erase_per": "batch"},
        "black": {"erase_value": "black"},
        "concat_feature": {"saliency_feature": "concat"},
        "layer3_saliency": {"saliency_layer": "layer3"},
        "per_channel": {"ppool_per_channel": True},
    }
    for variant, change in changes.items():
        assert methods.variants("esnet")[variant] == replace(default, **change)


# ---- branches and losses


@pytest.mark.parametrize(
    ("variant", "keys"),
    [
        ("default", ["id/all", "triplet/all", "id/erasing", "triplet/erasing"]),
        ("base", ["id/all"]),
        ("aib", ["id/all", "triplet/all"]),
        ("esb", ["id/erasing", "triplet/erasing"]),
        ("base_besm", ["id/erasing"]),
        ("dropping", ["id/all", "id/drop"]),
    ],
)
def test_each_branch_has_its_losses(variant: str, keys: list[str]) -> None:
    assert list(losses(small(variant))) == keys


@torch.no_grad()
def test_what_is_ranked_is_behind_the_necks_of_both_branches() -> None:
    method, (images, _) = small(), batch()
    outputs = method.branches(images)
    assert torch.equal(method.embed(images), torch.cat([outputs["all"].embedding, outputs["erasing"].embedding], 1))
    for output in outputs.values():
        torch.testing.assert_close(output.embedding.mean(0), torch.zeros(128), atol=1e-4, rtol=0)
        assert output.feature.min() >= 0


@torch.no_grad()
def test_losses_are_of_the_pooled_vector_and_of_the_logits() -> None:
    method, (_, labels) = small(erase="none"), batch()
    outputs, found = method.branches(*batch()), losses(method)
    for name, output in outputs.items():
        assert torch.equal(found[f"triplet/{name}"], hard_triplet(output.feature, labels, margin=0.3))
        assert torch.equal(found[f"id/{name}"], cross_entropy(output.logits, labels))


@torch.no_grad()
def test_margin_and_smoothing_reach_the_losses() -> None:
    published, wide, smooth = losses(small()), losses(small(margin=2.0)), losses(small(label_smoothing=0.3))
    assert wide["triplet/all"] > published["triplet/all"]
    assert wide["id/all"] == published["id/all"] != smooth["id/all"]


POOLS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("default", {}, {"all": global_average, "erasing": PowerPooling}),
    ("ppool_in_aib", {}, {"all": PowerPooling, "erasing": PowerPooling}),
    ("base_besm", {}, {"erasing": global_average}),
    ("base_besm_gmp", {}, {"erasing": global_max}),
    ("agw", {}, {"all": GeneralisedMean, "erasing": PowerPooling}),
    ("aib", {"pool_aib": "gmp"}, {"all": global_max}),
]


@pytest.mark.parametrize(("variant", "overrides", "kinds"), POOLS)
def test_each_branch_pools_as_it_should(variant: str, overrides: dict[str, Any], kinds: dict[str, Any]) -> None:
    pools = {name: own.head.pool for name, own in small(variant, **overrides).own.items()}
    found: dict[str, Any] = {n: type(pool) if isinstance(pool, nn.Module) else pool for n, pool in pools.items()}
    assert found == kinds


def test_the_first_exponent_is_a_setting() -> None:
    both = small("ppool_in_aib", ppool_init=3.0)
    assert [own.head.pool.exponent.item() for own in both.own.values()] == [3.0, 3.0]
    assert small("per_channel", ppool_init=2.0).own["erasing"].head.pool.exponent.tolist() == [2.0] * 128


@torch.no_grad()
def test_both_branches_start_from_the_same_weights() -> None:
    outputs = small(pool="gap").eval().branches(batch()[0])
    assert torch.equal(outputs["all"].embedding, outputs["erasing"].embedding)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["aib", "esb"])
def test_one_branch_alone_has_the_trunk_to_itself_wherever_it_would_be_split(variant: str) -> None:
    first, *others = (losses(small(variant, share_upto=place)) for place in ("layer2", "layer3.0", "layer3"))
    assert all(first == other for other in others)


@torch.no_grad()
def test_the_dropping_branch_reads_the_first_branchs_map() -> None:
    method = small("default", drop_branch=True)
    with recorded(method.own["all"].last) as maps, recorded(method.drop) as read:
        keys = list(losses(method))
    assert keys == [f"{loss}/{name}" for name in ("all", "erasing", "drop") for loss in ("id", "triplet")]
    assert torch.equal(read[0][0], maps[0][1])
    assert method.embedding_dim == 2 * 128 + 1024
    assert [type(layer).__name__ for layer in method.drop.body] == ["Bottleneck", "BatchDropBlock"]


@torch.no_grad()
def test_on_agw_there_are_non_local_blocks_and_the_weighted_loss() -> None:
    method, (_, labels) = small("agw", share_upto="layer3.0"), batch()
    places = [name for name, module in method.named_modules() if isinstance(module, NonLocal)]
    assert places == ["shared.layer2_0_then", "shared.layer3_0_then"]
    own = [name for name, module in small("agw").named_modules() if isinstance(module, NonLocal)]
    assert own == ["shared.layer2_0_then", "own.all.middle.layer3_0_then", "own.erasing.middle.layer3_0_then"]
    feature = method.branches(*batch())["all"].feature
    assert torch.equal(losses(method)["triplet/all"], weighted_triplet(feature, labels))


# ---- one training step


@torch.no_grad()
def test_aib_sees_whole_images_and_esb_what_is_left_of_them() -> None:
    method, (images, labels) = small(erase_probability=1.0), batch()
    with recorded(method.shared) as shared, recorded(method.own["all"].middle) as aib:
        outputs = method.branches(images, labels)
    (clean, clean_maps), (erased, erased_maps) = shared
    assert torch.equal(clean, images)
    assert torch.equal(aib[0][0], clean_maps)
    untouched = small(erase="none")
    assert torch.equal(outputs["all"].logits, untouched.branches(images, labels)["all"].logits)
    expected = most_salient_pixels(
        cg_ram(untouched.own["erasing"], clean_maps, positive_pairs(images, labels), layer="layer4"),
        (64, 32),
        ratio=0.2,
    )
    assert expected.flatten(1).any(1).sum() > 6
    assert torch.equal(erased, images.masked_fill(expected[:, None], 0))
    assert torch.equal(outputs["erasing"].logits, untouched.own["erasing"](erased_maps).logits)


@torch.no_grad()
@pytest.mark.parametrize(
    ("overrides", "shared", "own"),
    [
        ({"erase_probability": 1.0}, 2, 1),
        ({"erase_probability": 0.5}, 2, 1),
        ({"erase_per": "batch", "erase_probability": 1.0}, 2, 1),
        ({"erase_per": "batch", "erase_probability": 0.0}, 1, 1),
        ({"erase_probability": 0.0}, 1, 1),
        ({"erase_ratio": 0.0}, 1, 1),
        ({"erase": "none"}, 1, 1),
        ({"erase": "grad_cam"}, 2, 1),
        ({"saliency_layer": "layer3"}, 2, 1),
        ({"saliency_feature": "concat"}, 2, 1),
        ({"all_branch": False}, 1, 1),
        ({"all_branch": False, "erase": "none"}, 1, 1),
        ({"share_upto": "layer3"}, 2, 1),
        ({"agw": True}, 2, 1),
    ],
)
def test_running_averages_see_each_pass_that_trains_and_no_other(
    overrides: dict[str, Any], shared: int, own: int
) -> None:
    method = small(**overrides)
    losses(method)
    assert counted(method.shared) == {shared}
    assert all(counted(branch) == {own} for branch in method.own.values())


@torch.no_grad()
def test_shared_averages_are_of_the_clean_then_of_the_erased_batch() -> None:
    method = small()
    replayed = copy.deepcopy(method.shared)
    with recorded(method.shared) as calls:
        losses(method)
    assert not torch.equal(calls[0][0], calls[1][0])
    for images, _ in calls:
        replayed(images)
    assert unchanged(method.shared, state(replayed))


@torch.no_grad()
def test_esb_alone_leaves_no_trace_of_the_whole_images() -> None:
    method = small("esb", erase_probability=1.0)
    replayed = copy.deepcopy(method)
    with recorded(method.shared) as calls:
        found = losses(method)
    (clean, _), (erased, _) = calls
    assert torch.equal(clean, batch()[0])
    assert not torch.equal(erased, clean)
    output = replayed.own["erasing"](replayed.shared(erased))
    assert torch.equal(found["id/erasing"], cross_entropy(output.logits, batch()[1]))
    assert unchanged(method, state(replayed))


def test_gradients_reach_the_images_through_aib_alone() -> None:
    method, (images, labels) = small(erase_probability=1.0), batch()
    images.requires_grad_()
    found = method.losses(images, labels)
    assert torch.autograd.grad(found["id/all"], images, retain_graph=True)[0].any()
    erasing = [found["id/erasing"], found["triplet/erasing"]]
    (gradient,) = torch.autograd.grad(erasing, images, allow_unused=True)
    assert cast(Tensor | None, gradient) is None


@torch.no_grad()
def test_per_batch_either_all_images_are_erased_or_none() -> None:
    method, touched = small("per_batch"), []
    for seed in range(40):
        with recorded(method.shared) as calls:
            losses(method, seed=seed)
        assert torch.equal(calls[0][0], batch()[0])
        touched.append(len(calls) == 2)
    assert 10 < sum(touched) < 30


@torch.no_grad()
@pytest.mark.parametrize("overrides", [{"erasing_branch": False}, {"erase": "none"}])
def test_no_number_is_drawn_where_nothing_can_be_erased(overrides: dict[str, Any]) -> None:
    method = small("per_batch", **overrides)
    before = torch.get_rng_state()
    method.losses(*batch())
    assert torch.equal(torch.get_rng_state(), before)


@torch.no_grad()
def test_without_erasing_esb_is_a_clean_branch() -> None:
    expected = losses(small(pool="gap", erase="none"))
    assert expected["id/erasing"].item() != expected["id/all"].item()  # their classifiers differ
    assert torch.equal(expected["triplet/erasing"], expected["triplet/all"])
    for settings in (
        {"erase_probability": 0.0},
        {"erase_ratio": 0.0},
        {"erase_per": "batch", "erase_probability": 0.0},
    ):
        assert losses(small(pool="gap", **settings)) == expected


@torch.no_grad()
def test_nothing_is_erased_at_test() -> None:
    method, (images, labels) = small(erase_probability=1.0).eval(), batch()
    with_labels, without = method.branches(images, labels), method.branches(images)
    assert all(torch.equal(with_labels[name].logits, without[name].logits) for name in without)


@torch.no_grad()
def test_copies_of_a_photograph_are_not_erased_when_there_is_no_other() -> None:
    method, (images, labels) = small(erase_probability=1.0), batch()
    images[1], images[2] = images[0], images[0].flip(2)
    with recorded(method.shared) as calls:
        method.losses(images, labels)
    touched = (calls[1][0] != images).flatten(1).any(1)
    assert not touched[:3].any()
    assert touched[3:].any()


@torch.no_grad()
def test_the_compared_feature_may_be_that_of_both_branches() -> None:
    method, (images, labels) = small("concat_feature", erase_probability=1.0), batch()
    method.own["all"].head.neck.weight.uniform_(-9, 9)  # at the start the branches are nearly equal
    with recorded(method.shared) as calls:
        aib = method.branches(images, labels)["all"]
    (_, clean), (erased, _) = calls
    other, pairs = small(), positive_pairs(images, labels)
    maps = cg_ram(other.own["erasing"], clean, pairs, layer="layer4", beside=aib.embedding)
    assert torch.equal(erased, images.masked_fill(most_salient_pixels(maps, (64, 32), ratio=0.2)[:, None], 0))
    alone = cg_ram(other.own["erasing"], clean, pairs, layer="layer4")
    assert not torch.equal(erased, images.masked_fill(most_salient_pixels(alone, (64, 32), ratio=0.2)[:, None], 0))


@torch.no_grad()
@pytest.mark.parametrize(
    ("variant", "overrides"),
    [("default", {"erase": "grad_cam"}), ("layer3_saliency", {}), ("default", {"erase_ratio": 0.4}), ("black", {})],
)
def test_settings_of_the_erasing_reach_it(variant: str, overrides: dict[str, Any]) -> None:
    def left(method: Any) -> Tensor:
        with recorded(method.shared) as calls:
            losses(method)
        return calls[1][0]

    assert not torch.equal(left(small(variant, **overrides)), left(small()))


def test_every_parameter_receives_a_gradient_under_autocast_too() -> None:
    """Autocast keeps the weights it has cast; those cast without a gradient must not be used with one."""
    for variant in ("esb", "layer3_saliency"):
        method = small(variant)
        with torch.autocast("cpu", torch.bfloat16):
            found = losses(method)
        torch.autograd.backward(torch.stack(list(found.values())).sum())
        without = [
            name for name, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
        ]
        assert without == [], variant


@pytest.mark.parametrize("probability", [0.4, 0.6])
def test_a_step_of_either_kind_never_waits_for_the_device(probability: float) -> None:
    """Of tensors without values, the likelier draw is taken."""
    with FakeTensorMode():
        method = small("per_batch", erase_probability=probability, probe_erased=True)
        images, labels = torch.empty(8, 3, 64, 32), torch.empty(8, dtype=torch.long)
        with torch.no_grad():
            method.probes(images, labels)
        found = method.losses(images, labels)
        torch.autograd.backward(torch.stack(list(found.values())).sum())


def test_compiled_it_has_the_same_losses_gradients_and_averages() -> None:
    eager, other = small("default"), small("default")
    with torch.no_grad():
        for method in (eager, other):
            method.own["erasing"].head.pool.exponent.fill_(0.9)  # to be put back by the step
    compiled = torch.compile(other, backend="aot_eager")
    for seed in range(2):
        found = []
        for method in (eager, compiled):
            torch.manual_seed(seed)
            found.append(method(*batch()))
            torch.autograd.backward(torch.stack(list(found[-1].values())).sum())
        for key, expected in found[0].items():
            torch.testing.assert_close(found[1][key], expected, rtol=1e-5, atol=1e-5)
    for (name, one), two in zip(eager.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5, msg=name)
    for one, two in zip(eager.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4)
    assert other.own["erasing"].head.pool.exponent.item() == 1.0


# ---- the probe


@torch.no_grad()
def test_there_is_no_probe_unless_it_is_asked_for() -> None:
    assert small().probes(*batch()) == {}


@torch.no_grad()
@pytest.mark.parametrize(
    ("variant", "names"), [("base", ["all"]), ("base_besm_ppool", ["erasing"]), ("default", ["all", "erasing"])]
)
def test_the_probe_is_the_loss_on_erased_images_and_changes_nothing(variant: str, names: list[str]) -> None:
    method, (images, labels) = small(variant, probe_erased=True, erase_ratio=0.3, erase_probability=0.0), batch()
    before = state(method)
    draws = torch.get_rng_state()
    found = method.probes(images, labels)
    assert torch.equal(torch.get_rng_state(), draws)
    assert unchanged(method, before)
    assert list(found) == [f"probe/id/{name}" for name in names]
    for name in names:
        clean = method.shared(images)
        maps = cg_ram(method.own[name], clean, positive_pairs(images, labels), layer="layer4")
        erased = images.masked_fill(most_salient_pixels(maps, (64, 32), ratio=0.3)[:, None], 0)
        expected = cross_entropy(method.own[name](method.shared(erased)).logits, labels)
        torch.testing.assert_close(found[f"probe/id/{name}"], expected)
        assert not torch.equal(expected, cross_entropy(method.own[name](clean).logits, labels))
    assert losses(small(variant)) == losses(small(variant, probe_erased=True))


# ---- wrong settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"all_branch": False, "erasing_branch": False}, "no branch left: set all_branch or erasing_branch to true"),
        (
            {"saliency_feature": "concat", "all_branch": False},
            "'concat' is of two branches: set all_branch and erasing",
        ),
        ({"agw": True, "pool_aib": "ppool"}, "generalised mean in AIB: leave pool_aib at 'gap'"),
        ({"erase_ratio": 0.95}, r"Config\.erase_ratio is 0\.95, allowed: 0 to 0\.9"),
        ({"erase_probability": 1.1}, r"Config\.erase_probability is 1\.1, allowed: 0 to 1"),
        ({"ppool_init": 0.5}, r"Config\.ppool_init is 0\.5, allowed: 1 to 50"),
        ({"erase": "random"}, r"Config\.erase is 'random', allowed: none, besm, grad_cam"),
        ({"share_upto": "layer4"}, r"Config\.share_upto is 'layer4', allowed: layer2, layer3\.0, layer3"),
        ({"saliency_layer": "layer2"}, r"Config\.saliency_layer is 'layer2', allowed: layer3, layer4"),
    ],
)
def test_a_wrong_value_is_explained(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.config("esnet", **overrides)
