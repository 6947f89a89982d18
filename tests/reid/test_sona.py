"""SONA-Net: its sizes, its rows of the published tables, and that each setting reaches its layer."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reid import methods
from reid.config import Augment, Optimiser, Protocol, Recipe, Sampler, Schedule, to_dict
from reid.methods.base import Method
from reid.parts.pooling import global_average, global_max
from reid.parts.second_order import SecondOrderAttention

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
ROWS = {
    "BL": "bl",
    "BL+DB": "bl_db",
    "BL+DB+": "bl_db_plus",
    "BL+BFE": "bl_bfe",
    "BL+SONA2": "bl_sona2",
    "BL+BFE+SONA2": "bl_bfe_sona2",
    "SONA2-Net": "default",
    "SONA3-Net": "sona3",
    "SONA2+3-Net": "sona2_3",
}


def small(variant: str = "default", **overrides: Any) -> Method:
    torch.manual_seed(0)
    return methods.build("sona", variant, num_ids=3, backbone="resnet10_w16", **overrides)


def layer(method: Method, name: str) -> Any:
    return method.get_submodule(name)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 64, 32, generator=generator), torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    ("variant", "millions"), [("bl", 32.276), ("default", 32.671), ("sona3", 33.852), ("sona2_3", 34.247)]
)
def test_size_on_resnet50_with_market_identities(variant: str, millions: float) -> None:
    with torch.device("meta"):
        method = methods.build("sona", variant, num_ids=751).eval()
        images = torch.empty(2, 3, 384, 128)
        assert layer(method, "trunk")(images).shape == (2, 2048, 48, 16)
        embedding = method.embed(images)
    assert sum(p.numel() for p in method.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert embedding.shape == (2, method.embedding_dim) == (2, 1536)


def test_variants_are_the_rows_of_the_published_tables() -> None:
    seen = {}
    for table in range(2, 6):
        for row in csv.DictReader((PUBLISHED / f"sonanet_table{table}.csv").read_text().splitlines()):
            if row["variant_flags"]:
                seen[row["method"]] = json.loads(row["variant_flags"])
                fields = to_dict(methods.config("sona", ROWS[row["method"]]))
                flags = {"drop_op": fields["drop_op"], "sona_after_stage": list(fields["sona_after_stage"])}
                assert flags == seen[row["method"]], row["method"]
    assert seen.keys() == ROWS.keys()
    assert methods.variants("sona").keys() == {*ROWS.values(), "sona4"}


def test_the_recipe_is_that_of_the_paper() -> None:
    assert methods.recipe("sona") == Recipe(
        backbone="resnet50",
        weights="imagenet",
        image_size=(384, 128),
        sampler=Sampler(identities=32, images=4, epoch="ids_once"),
        augment=Augment(flip=0.5, cutout=0.5, cutout_size=64),
        optimiser=Optimiser(name="adam", weight_decay=5e-4),
        schedule=Schedule(name="S1", epochs=400, peak_lr=1e-3),
        protocol=Protocol(distance="euclidean", normalise=False, flip=True),
    )


@pytest.mark.parametrize(
    ("variant", "in_trunk", "in_global"),
    [
        ("bl", {}, "Identity"),
        ("default", {"layer2": 32}, "Identity"),
        ("sona3", {"layer3": 64}, "Identity"),
        ("sona2_3", {"layer2": 32, "layer3": 64}, "Identity"),
        ("sona4", {}, "SecondOrderAttention"),
    ],
)
def test_attention_is_where_the_variant_says(variant: str, in_trunk: dict[str, int], in_global: str) -> None:
    method = small(variant)
    inserted = {
        name.split(".")[0]: module.p.out_channels
        for name, module in layer(method, "trunk").named_modules()
        if isinstance(module, SecondOrderAttention)
    }
    assert inserted == in_trunk
    assert type(layer(method, "heads.global.body")).__name__ == in_global


@torch.no_grad()
@pytest.mark.parametrize(("variant", "changed"), [("sona2_3", ["global", "local"]), ("sona4", ["global"])])
def test_attention_changes_the_branches_behind_it(variant: str, changed: list[str]) -> None:
    method = small(variant, p_init="default").eval()
    before = method.branches(batch()[0])
    for name, parameter in method.named_parameters():
        if name.endswith("p.bias"):
            parameter.add_(1)
    after = method.branches(batch()[0])
    assert [name for name in before if not torch.equal(before[name].feature, after[name].feature)] == changed


@torch.no_grad()
def test_attention_starts_as_the_identity_and_the_default_is_then_bl_with_dropping() -> None:
    with_attention, without = small(p_init="zero").eval(), small("bl").eval()
    with_attention.load_state_dict(without.state_dict(), strict=False)  # the attention's own layers are missing there
    assert torch.equal(with_attention.embed(batch()[0]), without.embed(batch()[0]))


def test_branches_are_those_of_bdb() -> None:
    method = small()
    assert list(method.branches(*batch())) == ["global", "local"]
    assert layer(method, "heads.global").pool is global_average
    assert layer(method, "heads.local").pool is global_max
    body = layer(method, "heads.local.body")
    assert [type(child).__name__ for child in body] == ["Bottleneck", "DropBlock"]
    assert (body[0].conv2.dilation, body[0].conv2.stride) == ((1, 1), (1, 1))
    assert list(method(*batch())) == ["id/global", "triplet/global", "id/local", "triplet/local"]


@pytest.mark.parametrize(
    ("overrides", "attributes"),
    [
        ({}, {"drop_prob": 0.1, "block": (5, 8), "gamma_is": "drop_prob"}),
        ({"drop_op": "dropblock"}, {"drop_prob": 0.1, "block": (7, 7), "gamma_is": "drop_prob"}),
        (
            {"drop_prob": 0.2, "block_plus": (3, 4), "gamma_is": "seed_rate"},
            {"drop_prob": 0.2, "block": (3, 4), "gamma_is": "seed_rate"},
        ),
        ({"drop_op": "dropblock", "block": 5}, {"block": (5, 5)}),
        ({"drop_op": "batch_dropblock"}, {"height_ratio": 0.3, "width_ratio": 1.0, "groups": 1}),
        ({"drop_op": "batch_dropblock", "rh": 0.5, "rw": 0.4}, {"height_ratio": 0.5, "width_ratio": 0.4}),
    ],
)
def test_the_drop_operator_takes_its_settings(overrides: dict[str, Any], attributes: dict[str, Any]) -> None:
    operator = layer(small(**overrides), "heads.local.body.1")
    assert {name: getattr(operator, name) for name in attributes} == attributes


def test_settings_reach_the_attention() -> None:
    published, other = small(), small(sona_scale="sqrt", p_init="default", sona_values="like_theta", leaky_slope=0.2)
    assert layer(published, "trunk.layer2.0_then").scale == pytest.approx(16**-1.5)
    assert layer(other, "trunk.layer2.0_then").scale == pytest.approx(16**-0.5)
    assert layer(other, "trunk.layer2.0_then.theta.2").negative_slope == 0.2
    assert layer(other, "trunk.layer2.0_then.p").weight.any()
    assert not layer(published, "trunk.layer2.0_then.p").weight.any()
    assert isinstance(layer(other, "trunk.layer2.0_then.g"), nn.Sequential)


def test_dimensions_and_losses_take_their_settings() -> None:
    assert small(global_dim=32, local_dim=48).embedding_dim == 80
    soft, wide, sharp = (made(*batch()) for made in (small(), small(margin=0.3), small(label_smoothing=0.0)))
    assert soft["triplet/global"] != wide["triplet/global"]
    assert soft["id/global"] == wide["id/global"] != sharp["id/global"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sona_after_stage": (1,)}, r"Config\.sona_after_stage is 1, allowed: 2, 3, 4"),
        ({"sona_after_stage": (3, 2)}, r"sona_after_stage is \(3, 2\): name each stage once, in rising order"),
        ({"sona_after_stage": (2, 2)}, "name each stage once"),
        ({"gamma_is": "rate"}, r"Config\.gamma_is is 'rate', allowed: drop_prob, seed_rate"),
        ({"sona_scale": "none"}, r"Config\.sona_scale is 'none', allowed: literal, sqrt"),
        ({"drop_prob": 1.1}, r"Config\.drop_prob is 1\.1, allowed: 0 to 1"),
    ],
)
def test_a_wrong_setting_is_explained(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.config("sona", **overrides)
