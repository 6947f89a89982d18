"""What is particular to SaADB; the contract of all methods is tested in test_methods.py."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from reid import methods
from reid.config import Augment, Protocol, Recipe, Sampler, Schedule
from reid.methods.base import Method
from reid.methods.saadb import Config
from reid.parts.attention import ChannelAttention, SpatialAttention
from reid.parts.salience import DropOrAttend, SalientDrop

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
NUM_IDS = 6
ROWS = ["global_only", "drop_only", "attention_only", "global_attention", "global_drop", "default"]


def small(variant: str = "default", **overrides: Any) -> Method:
    torch.manual_seed(0)
    return methods.build("saadb", variant, num_ids=NUM_IDS, backbone="resnet10_w16", **overrides)


def batch() -> tuple[Tensor, Tensor]:
    images = torch.randn(2 * NUM_IDS, 3, 64, 32, generator=torch.Generator().manual_seed(5))
    return images, torch.arange(NUM_IDS).repeat_interleave(2)


@pytest.mark.parametrize(
    ("variant", "overrides", "millions", "size"),
    [
        ("default", {}, 34.379, 1536),
        ("default", {"reduction": 16}, 32.806, 1536),
        ("no_neck", {}, 34.376, 1536),
        ("global_only", {}, 24.944, 512),
        ("attention_only", {}, 32.942, 1024),
        ("global_drop", {}, 32.279, 1536),
    ],
)
def test_size_on_resnet50_with_market_identities(
    variant: str, overrides: dict[str, Any], millions: float, size: int
) -> None:
    with torch.device("meta"):
        method = methods.build("saadb", variant, num_ids=751, **overrides)
        embedding = method.eval().embed(torch.empty(2, 3, 384, 128))
    assert sum(p.numel() for p in method.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert embedding.shape == (2, size)
    assert method.embedding_dim == size


def test_the_recipe_is_that_of_bdb_with_cutout_and_mirrors_for_600_epochs() -> None:
    assert methods.recipe("saadb") == Recipe(
        backbone="resnet50",
        image_size=(384, 128),
        sampler=Sampler(identities=32, images=4, epoch="ids_once"),
        augment=Augment(flip=0.5, cutout=0.5),
        schedule=Schedule(name="S1", epochs=600, peak_lr=1e-3),
        protocol=Protocol(distance="euclidean", normalise=False, flip=True),
    )


@pytest.mark.parametrize("table", ["saadb_table4", "saadb_table5"])
def test_the_rows_of_the_ablation_tables_are_variants(table: str) -> None:
    published = {
        tuple(json.loads(flags).values()) for flags in pd.read_csv(PUBLISHED / f"{table}.csv")["variant_flags"]
    }
    rows = [methods.config("saadb", variant) for variant in ROWS]
    assert {(row.global_branch, row.drop, row.attention) for row in rows if isinstance(row, Config)} == published


@pytest.mark.parametrize(
    ("variant", "layers"),
    [
        ("drop_only", {SalientDrop}),
        ("attention_only", {DropOrAttend, SalientDrop, ChannelAttention, SpatialAttention}),
        ("default", {DropOrAttend, SalientDrop, ChannelAttention, SpatialAttention}),
        ("global_only", set()),
    ],
)
def test_an_ablation_builds_less(variant: str, layers: set[type]) -> None:
    kinds = {DropOrAttend, SalientDrop, ChannelAttention, SpatialAttention}
    assert {type(module) for module in small(variant).modules()} & kinds == layers


@pytest.mark.parametrize(
    ("variant", "overrides", "share"),
    [
        ("default", {}, 0.25),
        ("default", {"drop_probability": 0.75}, 0.75),
        ("attention_only", {}, 0.0),
        ("drop_only", {}, 1.0),
    ],
)
def test_the_share_of_iterations_that_drop(variant: str, overrides: dict[str, Any], share: float) -> None:
    method = small(variant, **overrides)
    calls: list[str] = []
    for module in method.modules():
        if isinstance(module, (SalientDrop, ChannelAttention)):
            module.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    tail = method.get_submodule("heads.second.body.1")
    for _ in range(400):
        tail(torch.ones(1, 128, 2, 2))
    assert len(calls) == 400
    assert calls.count("SalientDrop") / 400 == pytest.approx(share, abs=0.06)


@torch.no_grad()
def test_the_second_feature_at_test_is_that_of_the_attended_map() -> None:
    method, (images, _) = small().eval(), batch()
    outputs = method.branches(images)
    assert list(outputs) == ["global", "second"]
    assert torch.equal(method.embed(images), torch.cat([output.feature for output in outputs.values()], 1))
    head: Any = method.get_submodule("heads.second")
    bottleneck, turns = head.body
    channel, spatial = turns.attend
    attended = spatial(channel(bottleneck(method.get_submodule("trunk")(images))))
    assert torch.equal(head.reduction(attended.amax((2, 3))), outputs["second"].feature)


@torch.no_grad()
def test_one_forward_gives_the_attended_and_the_plain_map() -> None:
    method, (images, _) = small().eval(), batch()
    found = method.embeddings(images)
    assert list(found) == ["", "global", "second", "plain"]
    assert torch.equal(found[""], method.embed(images))
    assert torch.equal(found[""], torch.cat([found["global"], found["second"]], 1))
    assert found["plain"].shape == found[""].shape
    assert not torch.equal(found["plain"], found[""])
    for parameter in method.get_submodule("heads.second.body.1.attend").parameters():
        parameter.zero_()
    without = method.embeddings(images)
    assert torch.equal(without["plain"], found["plain"])
    assert not torch.equal(without[""], found[""])


@torch.no_grad()
def test_without_attention_there_is_no_second_map() -> None:
    assert list(small("global_drop").eval().embeddings(batch()[0])) == ["", "global", "second"]
    assert list(small("attention_only").eval().embeddings(batch()[0])) == ["", "plain"]


def test_the_neck_is_between_feature_and_classifier_and_is_not_trained() -> None:
    method, (images, labels) = small("global_only"), batch()
    classifier: Any = method.get_submodule("heads.global.classifier")
    fixed = {name for name, parameter in method.named_parameters() if not parameter.requires_grad}
    assert fixed == {"heads.global.classifier.neck.weight", "heads.global.classifier.neck.bias"}
    output = method.branches(images, labels)["global"]
    centred = output.feature - output.feature.mean(0)
    normed = centred / (output.feature.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(output.logits, normed @ classifier.weight.T + classifier.bias, rtol=1e-4, atol=1e-4)


def test_without_neck_the_classifier_reads_the_feature() -> None:
    method, (images, labels) = small("global_only", neck="none"), batch()
    classifier: Any = method.get_submodule("heads.global.classifier")
    output = method.branches(images, labels)["global"]
    torch.testing.assert_close(output.logits, output.feature @ classifier.weight.T + classifier.bias)


def test_settings_reach_the_layers() -> None:
    method = small(drop_rule="top_frac", alpha=0.6, frac=0.4, reduction=8, margin=0.3)
    drop: Any = method.get_submodule("heads.second.body.1.drop")
    assert (drop.rule, drop.alpha, drop.frac) == ("top_frac", 0.6, 0.4)
    hidden: Any = method.get_submodule("heads.second.body.1.attend.0.mlp.0")
    assert (hidden.in_features, hidden.out_features) == (128, 16)
    images, labels = batch()
    assert small("global_only", margin=5.0)(images, labels)["triplet/global"] > 4
    assert small("global_only", label_smoothing=0.0)(images, labels) != small("global_only")(images, labels)


@pytest.mark.parametrize("variant", ROWS)
def test_each_branch_has_both_losses(variant: str) -> None:
    settings = methods.config("saadb", variant)
    assert isinstance(settings, Config)
    names = ["global"] * settings.global_branch + ["second"] * (settings.drop or settings.attention)
    assert list(small(variant)(*batch())) == [f"{loss}/{name}" for name in names for loss in ("id", "triplet")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"global_branch": False, "drop": False, "attention": False}, "no branch left: set global_branch, drop or"),
        ({"alpha": 1.2}, r"Config\.alpha is 1\.2, allowed: 0\.1 to 1"),
        ({"frac": 0.95}, r"Config\.frac is 0\.95, allowed: 0 to 0\.9"),
        ({"drop_probability": -0.1}, r"Config\.drop_probability is -0\.1, allowed: 0 to 1"),
        ({"reduction": 0}, r"Config\.reduction is 0, allowed: 1 to 64"),
        ({"drop_rule": "max"}, r"Config\.drop_rule is 'max', allowed: max_frac, top_frac"),
    ],
)
def test_a_wrong_value_is_explained(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.config("saadb", **overrides)
