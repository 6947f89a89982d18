"""HAN: its sizes, branches and losses, its rows of the published tables, and what it says of mistakes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid import methods
from reid.config import Augment, Optimiser, Protocol, Recipe, Sampler, Schedule
from reid.losses import hard_triplet
from reid.methods.base import Method
from reid.methods.han import Config
from reid.parts.attention import ChannelAttention, SpatialAttention
from reid.parts.backbone import build_trunk
from reid.parts.part_heads import MultiPool

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
ALL = (1, 2, 3, 4)
Row = tuple[str, dict[str, Any]]  # a variant and what is replaced in it
TABLE_6: dict[str, Row] = {
    "Baseline": ("baseline", {}),
    "+ Bag of tricks": ("tricks", {}),
    "+ MPFE": ("tricks_mpfe", {}),
    "+ MGO": ("bmm", {}),
    "+ SAM": ("bmm_sam", {}),
    "+ CAM": ("default", {}),
}
TABLE_7: dict[str, Row] = {
    "Baseline": ("baseline", {}),
    "Baseline + Tricks": ("tricks", {}),
    "Baseline + MGO": ("only_mgo", {}),
    "Baseline + MPFE": ("only_mpfe", {}),
    "Baseline + SAM": ("only_sam", {}),
    "Baseline + CAM": ("only_cam", {}),
}
TABLE_9: dict[str, Row] = {
    "BaselineBMM": ("bmm", {}),
    "BaselineBMM + S": ("bmm", {"order": ("SAM",)}),
    "BaselineBMM + C": ("bmm", {"order": ("CAM",)}),
    "BaselineBMM +©+C+S": ("bmm", {"stages": ALL, "order": ("cat", "CAM", "SAM")}),
    "BaselineBMM + C+S+©": ("bmm", {"stages": ALL, "order": ("CAM", "SAM", "cat")}),
    "BaselineBMM + C+©+S": ("bmm", {"stages": ALL, "order": ("CAM", "cat", "SAM")}),
    "BaselineBMM +©+S+C": ("bmm", {"stages": ALL, "order": ("cat", "SAM", "CAM")}),
    "BaselineBMM + S+C+©": ("bmm", {"stages": ALL, "order": ("SAM", "CAM", "cat")}),
    "BaselineBMM + S+©+C": ("bmm", {"stages": ALL, "order": ("SAM", "cat", "CAM")}),
}
TABLE_10: dict[str, Row] = {
    "stage 1": ("default", {"stages": (1,)}),
    "stage 2": ("default", {"stages": (2,)}),
    "stage 3": ("default", {"stages": (3,)}),
    "stage 4": ("default", {"stages": (4,)}),
    "stage 1-2": ("default", {"stages": (1, 2)}),
    "stage 1-3": ("default", {"stages": (1, 2, 3)}),
    "stage 2-4": ("default", {"stages": (2, 3, 4)}),
    "All stage": ("default", {}),
}


def small(variant: str = "default", **overrides: Any) -> Any:
    """On the small trunk, with short features."""
    torch.manual_seed(0)
    sizes = {"hidden_dim": 16, "feature_dim": 8} | overrides
    return methods.build("han", variant, num_ids=4, backbone="resnet10_w16", **sizes)


def on_meta(variant: str, **overrides: Any) -> Any:
    with torch.device("meta"):
        return methods.build("han", variant, num_ids=5, backbone="resnet10_w16", **overrides)


def batch(height: int = 192, width: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 3, height, width, generator=generator), torch.arange(4).repeat_interleave(3)


def config(variant: str = "default", **overrides: Any) -> Config:
    settings = methods.config("han", variant, **overrides)
    assert isinstance(settings, Config)
    return settings


def attentions(module: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [inner for inner in module.modules() if isinstance(inner, kind)]


# ---- the network


@pytest.mark.parametrize(("variant", "millions"), [("bmm_fused", 75.655), ("default", 77.499)])
def test_size_on_resnet50_with_market_identities(variant: str, millions: float) -> None:
    with torch.device("meta"):
        method = methods.build("han", variant, num_ids=751)
        embedding = method.eval().embed(torch.empty(2, 3, 384, 128))
    assert sum(p.numel() for p in method.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert embedding.shape == (2, 10752)
    assert method.embedding_dim == 10752


@pytest.mark.parametrize("layout", ["stride2", "stride1", "dilated"])
@pytest.mark.parametrize("stages", [(1,), (2, 3), ALL])
def test_stages_are_pooled_to_the_trunks_last_map(layout: str, stages: tuple[int, ...]) -> None:
    with torch.device("meta"):
        overrides: dict[str, Any] = {"layout": layout, "stages": stages, "order": ("cat",), "stripes": 2}
        method: Any = methods.build("han", num_ids=3, backbone="resnet50", **overrides)
        images = torch.empty(2, 3, 128, 64)
        last = build_trunk("resnet50", layout=layout)(images)  # type: ignore[arg-type]
        maps = method.trunk.stages(images)
        fused = method.fusion([maps[stage - 1] for stage in stages])
    channels = sum(256 * 2 ** (stage - 1) for stage in stages)
    assert fused.shape == (2, channels, *last.shape[2:])


def test_stages_behind_the_last_that_is_read_are_not_there_and_the_others_are_the_same() -> None:
    cut, whole = small(stages=(1, 2)), build_trunk("resnet10_w16", layout="stride1")
    assert not [name for name, _ in cut.named_parameters() if name.startswith(("trunk.layer3", "trunk.layer4"))]
    state = whole.state_dict() | cut.trunk.state_dict()
    whole.load_state_dict(state)
    images, _ = batch()
    for one, other in zip(cut.trunk.stages(images)[:2], whole.stages(images)[:2], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("stages", [(1,), (1, 2), (3,), (2, 3, 4)])
def test_every_parameter_receives_a_gradient_whatever_is_fused(stages: tuple[int, ...]) -> None:
    method = small(stages=stages)
    torch.autograd.backward(torch.stack(list(method(*batch()).values())).sum())
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_branches_are_the_parts_in_order_and_are_ranked_side_by_side() -> None:
    method = small().eval()
    with torch.no_grad():
        outputs = method.branches(batch()[0])
        embedding = method.embed(batch()[0])
    assert list(outputs) == [f"level{level}.{i}" for level in range(1, 7) for i in range(1, level + 1)]
    assert embedding.shape == (12, 21 * 8)
    assert torch.equal(embedding, torch.cat([output.embedding for output in outputs.values()], 1))
    assert {tuple(output.logits.shape) for output in outputs.values()} == {(12, 4)}


@torch.no_grad()
def test_a_branch_sees_its_own_stripes_alone() -> None:
    """Change the lowest stripe of the fused map: of each granularity the last window holds it."""
    heads = small().eval().heads
    maps = torch.rand(1, 240, 12, 2, generator=torch.Generator().manual_seed(0))
    changed = maps.clone()
    changed[:, :, 10:] += 1
    differs = (heads(maps).embedding != heads(changed).embedding).any(2)[0]
    last_windows = {level * (level + 1) // 2 - 1 for level in range(1, 7)}
    assert set(differs.nonzero().flatten().tolist()) == last_windows


@pytest.mark.parametrize("triplet_on", ["bn", "linear"])
@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("levels", [[0], [1, 2], [3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19, 20]]),
        ("parts", [[part] for part in range(21)]),
    ],
)
@torch.no_grad()
def test_losses_are_means_over_parts_and_over_groups(triplet_on: str, groups: str, members: list[list[int]]) -> None:
    method, (images, labels) = small(triplet_on=triplet_on, triplet_groups=groups), batch()
    nn.init.normal_(method.heads.classifier.weight)  # from 0.001 all parts would have the same loss
    outputs, losses = list(method.branches(images).values()), method.losses(images, labels)
    ids = [F.cross_entropy(output.logits, labels, label_smoothing=0.1) for output in outputs]
    joined = [torch.cat([outputs[part].feature for part in group], 1) for group in members]
    triplets = [hard_triplet(features, labels, margin=1.0) for features in joined]
    assert list(losses) == ["id/parts", f"triplet/{groups}"]
    torch.testing.assert_close(losses["id/parts"], torch.stack(ids).mean())
    torch.testing.assert_close(losses[f"triplet/{groups}"], torch.stack(triplets).mean())


@torch.no_grad()
def test_the_triplet_loss_acts_behind_the_batch_norm_or_before_it() -> None:
    for variant, normed in (("default", True), ("triplet_linear", False)):
        output = small(variant).branches(batch()[0])["level3.2"]
        assert torch.equal(output.feature, output.embedding) == normed
        torch.testing.assert_close(output.embedding.mean(0), torch.zeros(8), atol=1e-5, rtol=0)


def test_without_a_triplet_loss_there_is_one_loss() -> None:
    for variant in ("baseline", "tricks", "only_mgo", "only_sam", "only_cam"):
        assert list(small(variant)(*batch())) == ["id/parts"]


def test_settings_reach_the_layers() -> None:
    published = small()
    assert published.heads.pool.activation.negative_slope == 0.1
    assert published.heads.dropout.p == 0.0
    assert published.fusion.fused[0].add == "after"
    assert [layer.convolution.kernel_size for layer in attentions(published, SpatialAttention)] == [(7, 7)] * 4
    assert [layer.mlp[0].weight.shape for layer in attentions(published, ChannelAttention)] == [(15, 240)]
    assert not [name for name, _ in published.fusion.named_parameters() if name.endswith("bias")]
    assert isinstance(small("relu").heads.pool.activation, nn.ReLU)
    assert small("cam_sum_before").fusion.fused[0].add == "before"
    assert [type(layer).__name__ for layer in small("sam_native").fusion.stages[0]] == ["SpatialAttention", "MaxPool2d"]
    assert [type(layer).__name__ for layer in published.fusion.stages[0]] == ["MaxPool2d", "SpatialAttention"]
    assert small("baseline").heads.dropout.p == 0.5
    assert small("baseline", plain_dropout=0.2).heads.dropout.p == 0.2
    assert small(hidden_dim=12, feature_dim=6).heads.linear.weight.shape == (21, 6, 12)
    wide, narrow = small(margin=3.0)(*batch()), published(*batch())
    assert wide["triplet/levels"] > narrow["triplet/levels"]
    assert wide["id/parts"] == narrow["id/parts"] != small(label_smoothing=0.0)(*batch())["id/parts"]


def test_four_stripes_on_small_images_can_be_trained() -> None:
    method, (images, labels) = small(stripes=4), batch(128, 64)
    optimiser = torch.optim.SGD(method.parameters(), 0.01, momentum=0.9, nesterov=True)
    course = []
    for _ in range(8):
        loss = torch.stack(list(method(images, labels).values())).sum()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        course.append(loss.item())
    assert course[-1] < 0.7 * course[0]
    assert method.eval().embed(images).shape == (12, 10 * 8) == (12, method.embedding_dim)


# ---- the published tables


@pytest.mark.parametrize(
    ("table", "rows"),
    [("vi", TABLE_6), ("vii", TABLE_7), ("viii", TABLE_6), ("ix", TABLE_9), ("x", TABLE_10)],
)
def test_every_row_of_the_published_ablations_can_be_built(table: str, rows: dict[str, Row]) -> None:
    printed = csv.DictReader((PUBLISHED / f"han_table{table}.csv").read_text().splitlines())
    flags = {row["method"]: json.loads(row["variant_flags"]) for row in printed}
    assert flags.keys() == rows.keys()
    for label, (variant, overrides) in rows.items():
        settings, method = config(variant, **overrides), on_meta(variant, **overrides)
        built = components(settings, method)
        assert {flag: built[flag] for flag in flags[label]} == flags[label], label
        embedding = method.eval().embed(torch.empty(2, 3, 192, 32, device="meta"))
        assert embedding.shape == (2, 512 * (21 if built["mgo"] else 1)), label


def components(settings: Config, method: Method) -> dict[str, Any]:
    """What a network is made of, read from its layers where they show it."""
    layer4: Any = method.get_submodule("trunk.layer4")
    return {
        "tricks": settings.label_smoothing == 0.1 and (4 not in settings.stages or layer4[0].conv1.stride == (1, 1)),
        "mpfe": bool(attentions(method, MultiPool)),
        "mgo": method.get_parameter("heads.linear.weight").shape[0] == 21,
        "sam": bool(attentions(method, SpatialAttention)),
        "cam": bool(attentions(method, ChannelAttention)),
        "order": list(settings.order),
        "stages": list(settings.stages),
    }


@pytest.mark.parametrize(
    ("variant", "spatial", "channel"),
    [("bmm", 0, 0), ("bmm_fused", 0, 0), ("bmm_sam", 4, 0), ("default", 4, 1), ("only_sam", 1, 0), ("only_cam", 0, 1)],
)
def test_variants_have_their_attentions(variant: str, spatial: int, channel: int) -> None:
    method = on_meta(variant)
    assert len(attentions(method, SpatialAttention)) == spatial
    assert len(attentions(method, ChannelAttention)) == channel


def test_the_single_components_stand_on_the_baseline() -> None:
    """Apart from its component, each is the baseline: stride 2, the last stage, cross-entropy without smoothing."""
    baseline = config("baseline")
    assert (baseline.layout, baseline.stages, baseline.label_smoothing) == ("stride2", (4,), 0.0)
    changed: dict[str, dict[str, Any]] = {
        "only_mgo": {"stripes": 6},
        "only_mpfe": {"mpfe": True, "triplet": True},
        "only_sam": {"order": ("SAM",)},
        "only_cam": {"order": ("CAM",)},
        "tricks": {"layout": "stride1", "label_smoothing": 0.1},
    }
    for variant, overrides in changed.items():
        assert config(variant) == config("baseline", **overrides), variant


def test_the_recipe_is_that_of_the_paper() -> None:
    assert methods.recipe("han") == Recipe(
        backbone="resnet50",
        weights="imagenet",
        image_size=(384, 128),
        sampler=Sampler(identities=16, images=4, epoch="images_once"),
        augment=Augment(flip=0.5, crop_padding=0, cutout=0.0, random_erasing=0.5),
        optimiser=Optimiser(name="sgd", weight_decay=5e-4, momentum=0.9, nesterov=True),
        schedule=Schedule(name="S2", epochs=150, peak_lr=1e-2),
        protocol=Protocol(distance="cosine", normalise=True, flip=True, ap="hits"),
    )


# ---- mistakes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stages": ()}, r"stages is \(\): name one stage or more, each once, in rising order"),
        ({"stages": (2, 1)}, r"stages is \(2, 1\): name one stage or more, each once, in rising order"),
        ({"stages": (4, 4)}, r"stages is \(4, 4\): name one stage or more"),
        ({"stages": (0,)}, r"Config\.stages is 0, allowed: 1, 2, 3, 4"),
        ({"order": ("SAM", "SAM", "cat")}, r"order is \('SAM', 'SAM', 'cat'\): name each of SAM, cat and CAM at most"),
        ({"order": ("cat", "cat")}, "name each of SAM, cat and CAM at most once"),
        ({"order": ("SAM",)}, r"order is \('SAM',\) for stages \(1, 2, 3, 4\): put 'cat' into it, or name a single"),
        ({"order": ()}, r"order is \(\) for stages \(1, 2, 3, 4\): put 'cat' into it"),
        ({"order": ("PAM", "cat")}, r"Config\.order is 'PAM', allowed: SAM, cat, CAM"),
        ({"order": ("cat", "SAM"), "sam_at": "native"}, "put SAM before cat, or set sam_at to 'pooled'"),
        ({"stripes": 0}, r"Config\.stripes is 0, allowed: 1 or more"),
        ({"triplet_groups": "level"}, r"Config\.triplet_groups is 'level', allowed: levels, parts"),
    ],
)
def test_a_wrong_setting_is_explained(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.config("han", **overrides)


@pytest.mark.parametrize(
    ("variant", "size", "message"),
    [
        ("default", (200, 64), "recipe.image_size is 200 x 64: choose multiples of 16"),
        ("default", (128, 64), "8 rows, which cannot be cut into 6 equal stripes: set model.stripes to one of 1, 2, 4"),
        ("baseline", (48, 32), "recipe.image_size is 48 x 32: choose multiples of 32"),
        ("only_mgo", (128, 64), "4 rows, .* set model.stripes to one of 1, 2, 4, or .* a multiple of 192"),
    ],
)
def test_images_that_do_not_fit_are_explained(variant: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(variant).embed(torch.empty(2, 3, *size, device="meta"))
