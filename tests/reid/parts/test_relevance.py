"""CG-RAM and Grad-CAM against the gradient of the whole network, and that looking leaves no trace."""

import math
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid.parts.backbone import build_trunk
from reid.parts.neck import NeckBranch
from reid.parts.power_pooling import make_pool
from reid.parts.relevance import (
    BranchLayers,
    Layer,
    batch_score,
    cg_ram,
    easiest_positives,
    grad_cam,
    positive_pairs,
    silently,
    split_trunk,
    untracked,
)

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
POOLS = [("gap", 1.0, False), ("gmp", 1.0, False), ("ppool", 1.0, False), ("ppool", 3.5, False), ("ppool", 3.5, True)]


def images(count: int = 9) -> Tensor:
    return torch.randn(count, 3, 64, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def network(
    kind: str = "gap", initial: float = 1.0, *, per_channel: bool = False, share_upto: str = "layer2", count: int = 1
) -> tuple[nn.Sequential, list[BranchLayers]]:
    """A small network in double precision, each channel with a look and a scale of its own in the neck."""
    torch.manual_seed(0)
    pools = {str(i): make_pool(kind, initial=initial, channels=128 if per_channel else None) for i in range(count)}
    shared, own = split_trunk(build_trunk("resnet10_w16"), share_upto, pools, num_ids=3)
    branches = list(own.values())
    for branch in branches:
        nn.init.uniform_(branch.head.neck.get_parameter("weight"), 0.5, 4.0)
        nn.init.normal_(branch.head.classifier.weight)
        if per_channel:
            nn.init.uniform_(branch.head.get_parameter("pool.exponent"), 1.0, 6.0)
    return shared.double(), [branch.double() for branch in branches]


def activations(branch: BranchLayers, shared: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """The map of a layer, and the embeddings computed from it, step by step, with the batch's statistics."""
    at = branch.middle(shared).detach().requires_grad_() if layer == "layer3" else branch.maps(shared).detach()
    at.requires_grad_()
    pooled = branch.head.pool(branch.last(at) if layer == "layer3" else at)
    neck = branch.head.neck
    normed = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-5).sqrt()
    return at, normed * neck.get_parameter("weight") + neck.get_parameter("bias")


def similarity(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum() / ((one * one).sum() * (other * other).sum()).sqrt()


def score_by_loops(features: Tensor, labels: list[int], excluded: set[tuple[int, int]]) -> Tensor:
    """Equation 5 as it is printed, with Python's loops."""
    total = features.new_zeros(())
    for i in range(len(labels)):
        positives = [j for j in range(len(labels)) if labels[j] == labels[i] and j != i and (i, j) not in excluded]
        if positives:
            best = max(positives, key=lambda j: similarity(features[i], features[j]).item())
            total = total + similarity(features[i], features[best]).exp() * similarity(features[i], features[best])
    return total


# ---- pairs and their score


def test_the_easiest_positive_is_the_most_similar_of_those_allowed() -> None:
    generator = torch.Generator().manual_seed(1)
    similar, pairs = torch.randn(12, 12, generator=generator), torch.rand(12, 12, generator=generator) < 0.3
    pairs[4] = False
    chosen = easiest_positives(similar, pairs)
    for i in range(12):
        allowed = [j for j in range(12) if pairs[i, j]]
        best = [max(allowed, key=lambda j: similar[i, j].item())] if allowed else []
        assert chosen[i].nonzero().flatten().tolist() == best


def test_of_equally_similar_positives_one_is_chosen() -> None:
    chosen = easiest_positives(torch.ones(4, 4), ~torch.eye(4, dtype=torch.bool))
    assert chosen.sum(1).tolist() == [1, 1, 1, 1]


def test_the_score_is_equation_5() -> None:
    features = torch.randn(9, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pairs = (LABELS[:, None] == LABELS) & ~torch.eye(9, dtype=torch.bool)
    excluded = {(0, 3), (3, 0), (1, 4), (4, 1), (1, 7), (7, 1)}
    pairs[tuple(zip(*excluded, strict=True))] = False
    assert not pairs[1].any()
    expected = score_by_loops(features, LABELS.tolist(), excluded)
    assert batch_score(features, pairs).item() == pytest.approx(expected.item(), rel=1e-12)


def test_both_factors_of_the_score_are_differentiated() -> None:
    """Along the unit circle: S = cos t, so S_batch = 2 exp(S) S has the derivative -2 sin(t) (1 + S) exp(S)."""
    angle = torch.tensor(0.7, requires_grad=True)
    features = torch.stack([torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])])
    (gradient,) = torch.autograd.grad(batch_score(features, ~torch.eye(2, dtype=torch.bool)), angle)
    cosine = math.cos(0.7)
    assert gradient.item() == pytest.approx(-2 * math.sin(0.7) * (1 + cosine) * math.exp(cosine), rel=1e-5)


def test_a_photograph_is_no_pair_of_itself_plain_or_mirrored() -> None:
    batch, labels = images(6), torch.tensor([0, 0, 0, 0, 1, 1])
    batch[1] = batch[0]
    batch[2] = batch[0].flip(2)
    batch[5] = batch[0]  # of another identity
    pairs = positive_pairs(batch.float(), labels)
    found = {(i, j) for i in range(6) for j in range(6) if pairs[i, j]}
    assert found == {(0, 3), (1, 3), (2, 3), (3, 0), (3, 1), (3, 2), (4, 5), (5, 4)}


def test_rounding_does_not_hide_a_mirrored_photograph_and_a_grey_level_is_another_one() -> None:
    batch = images(1).float().expand(4, -1, -1, -1).clone()
    batch[1] = batch[1].flip(2) + 2.5e-4
    batch[2, 0, 5] += 1 / 255 / 0.229
    batch[3] = batch[3].flip(1)  # upside down
    expected = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]], dtype=torch.bool)
    assert torch.equal(positive_pairs(batch, torch.zeros(4)), expected)


# ---- the maps


@pytest.mark.parametrize("layer", ["layer4", "layer3"])
@pytest.mark.parametrize(("kind", "initial", "per_channel"), POOLS)
def test_cg_ram_is_the_gradient_of_the_score_through_the_network(
    kind: str, initial: float, per_channel: bool, layer: Layer
) -> None:
    shared, (branch,) = network(kind, initial, per_channel=per_channel)
    seen = shared(images()).detach()
    found = cg_ram(branch, seen, positive_pairs(images(), LABELS), layer=layer)
    at, embedding = activations(branch, seen, layer)
    (phi,) = torch.autograd.grad(score_by_loops(embedding, LABELS.tolist(), set()), at)
    torch.testing.assert_close(found, (phi * at.detach()).sum(1).relu(), rtol=1e-8, atol=1e-12)
    assert found.shape == (9, 4, 2)
    assert (found > 0).any()


def test_cg_ram_through_generalised_mean_pooling() -> None:
    """Which computes in float32."""
    shared, (branch,) = network("gem")
    shared, branch = shared.float(), branch.float()
    seen = shared(images().float()).detach()
    found = cg_ram(branch, seen, positive_pairs(images(), LABELS), layer="layer4")
    at, embedding = activations(branch, seen, "layer4")
    (phi,) = torch.autograd.grad(score_by_loops(embedding, LABELS.tolist(), set()), at)
    torch.testing.assert_close(found, (phi * at.detach()).sum(1).relu(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("share_upto", ["layer3.0", "layer3"])
def test_where_the_trunk_is_split_changes_no_map(share_upto: str) -> None:
    batch = images()
    pairs, maps = positive_pairs(batch, LABELS), []
    for place in ("layer2", share_upto):
        shared, (branch,) = network("ppool", 2.0, share_upto=place)
        maps.append([cg_ram(branch, shared(batch).detach(), pairs, layer=layer) for layer in _LAYERS])
    torch.testing.assert_close(maps[0], maps[1])


_LAYERS: tuple[Layer, ...] = ("layer3", "layer4")


def test_features_beside_the_branchs_own_are_compared_too_but_constant() -> None:
    shared, (branch,) = network("ppool", 2.0)
    seen = shared(images()).detach()
    beside = torch.randn(9, 50, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 3
    pairs = positive_pairs(images(), LABELS)
    found = cg_ram(branch, seen, pairs, layer="layer4", beside=beside.requires_grad_())
    at, embedding = activations(branch, seen, "layer4")
    score = score_by_loops(torch.cat([beside.detach(), embedding], 1), LABELS.tolist(), set())
    (phi,) = torch.autograd.grad(score, at)
    torch.testing.assert_close(found, (phi * at.detach()).sum(1).relu(), rtol=1e-8, atol=1e-12)
    assert not torch.allclose(found, cg_ram(branch, seen, pairs, layer="layer4"), rtol=1e-2)


@pytest.mark.parametrize("layer", ["layer4", "layer3"])
def test_copies_of_a_photograph_are_never_paired_and_without_another_there_is_no_map(layer: Layer) -> None:
    batch = images()
    batch[3] = batch[0].flip(2)
    batch[4], batch[7] = batch[1], batch[1].flip(2)
    shared, (branch,) = network("ppool", 2.0)
    seen = shared(batch).detach()
    found = cg_ram(branch, seen, positive_pairs(batch, LABELS), layer=layer)
    excluded = {(0, 3), (3, 0)} | {(i, j) for i in (1, 4, 7) for j in (1, 4, 7)}
    at, embedding = activations(branch, seen, layer)
    (phi,) = torch.autograd.grad(score_by_loops(embedding, LABELS.tolist(), excluded), at)
    expected = (phi * at.detach()).sum(1).relu()
    assert expected[[1, 4, 7]].any()  # by the batch statistics
    expected[[1, 4, 7]] = 0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("kind", "initial", "per_channel"), POOLS)
def test_grad_cam_is_each_images_own_logit_through_the_network(kind: str, initial: float, per_channel: bool) -> None:
    shared, (branch,) = network(kind, initial, per_channel=per_channel)
    seen = shared(images()).detach()
    found = grad_cam(branch, seen, LABELS, layer="layer4")
    at, embedding = activations(branch, seen, "layer4")
    logits = embedding @ branch.head.classifier.weight.T
    for image, label in enumerate(LABELS.tolist()):
        (gradient,) = torch.autograd.grad(logits[image, label], at, retain_graph=True)
        expected = torch.zeros(4, 2, dtype=torch.float64)
        for channel in range(128):
            expected += gradient[image, channel].mean() * at[image, channel].detach()
        torch.testing.assert_close(found[image], expected.relu(), rtol=1e-8, atol=1e-12)
    assert (found > 0).any()


def test_grad_cam_of_layer3_goes_on_from_the_pooled_vectors() -> None:
    shared, (branch,) = network("ppool", 2.0)
    seen = shared(images()).detach()
    at, _ = activations(branch, seen, "layer3")
    pooled = branch.head.pool(branch.last(at))
    embedding = branch.head.neck(pooled)
    logits = embedding @ branch.head.classifier.weight.T
    own = [
        torch.autograd.grad(logits[i, label], pooled, retain_graph=True)[0][i]
        for i, label in enumerate(LABELS.tolist())
    ]
    (gradient,) = torch.autograd.grad(pooled, at, torch.stack(own))
    expected = (gradient.mean((2, 3), keepdim=True) * at.detach()).sum(1).relu()
    torch.testing.assert_close(grad_cam(branch, seen, LABELS, layer="layer3"), expected, rtol=1e-8, atol=1e-12)


class _Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, maps: Tensor) -> Tensor:
        return maps.clone()

    @staticmethod
    def backward(ctx: object, *_: Tensor) -> Tensor:
        raise AssertionError("layer4 was differentiated")


class _NoWayBack(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        passed: Tensor = _Raises.apply(maps)
        return passed


def test_a_map_of_layer4_needs_no_gradient_of_its_convolutions() -> None:
    shared, (branch,) = network("ppool", 2.0)
    pairs, seen = positive_pairs(images(), LABELS), shared(images())
    expected = cg_ram(branch, seen, pairs, layer="layer4")
    branch.last = nn.Sequential(branch.last, _NoWayBack())
    assert torch.equal(cg_ram(branch, seen, pairs, layer="layer4"), expected)


# ---- without a trace


@pytest.mark.parametrize("layer", ["layer4", "layer3"])
def test_looking_keeps_no_gradient_and_changes_no_state(layer: Layer) -> None:
    shared, (branch,) = network("ppool", 2.0)
    branch(shared(images()))
    seen = shared(images())
    before = {key: tensor.clone() for key, tensor in branch.state_dict().items()}
    found = [
        cg_ram(branch, seen, positive_pairs(images(), LABELS), layer=layer),
        grad_cam(branch, seen, LABELS, layer=layer),
        silently(branch, seen).logits,
    ]
    assert seen.requires_grad
    assert not any(tensor.requires_grad for tensor in found)
    assert all(torch.equal(tensor, before[key]) for key, tensor in branch.state_dict().items())
    assert all(parameter.grad is None for parameter in branch.parameters())
    assert all(module.track_running_stats for module in branch.modules() if isinstance(module, nn.BatchNorm2d))


@torch.no_grad()
def test_an_untracked_module_normalises_by_the_batch() -> None:
    shared, _ = network()
    with untracked(shared):
        quiet = shared(images())
    assert torch.equal(quiet, silently(shared, images()))
    count = [tensor for key, tensor in shared.state_dict().items() if key.endswith("num_batches_tracked")]
    assert count
    assert not any(tensor.item() for tensor in count)
    assert torch.equal(quiet, shared(images()))
    assert all(tensor.item() == 1 for tensor in count)


def test_tracking_is_restored_after_an_error_and_where_it_was_off_it_stays_off() -> None:
    tracked, never = nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)
    inside = []
    with suppress(ZeroDivisionError), untracked(nn.Sequential(tracked, never)):
        inside.append(tracked.track_running_stats)
        raise ZeroDivisionError
    assert inside == [False]
    assert tracked.track_running_stats
    assert not never.track_running_stats


@pytest.mark.parametrize("kind", ["gap", "gmp", "ppool", "gem"])
@pytest.mark.parametrize("layer", ["layer4", "layer3"])
def test_maps_in_bfloat16_are_read_in_float32(kind: str, layer: Layer) -> None:
    shared, (branch,) = network(kind)
    shared, branch, batch = shared.float(), branch.float(), images().float()
    pairs = positive_pairs(batch, LABELS)
    exact = cg_ram(branch, shared(batch), pairs, layer=layer), grad_cam(branch, shared(batch), LABELS, layer=layer)
    with torch.autocast("cpu", torch.bfloat16):
        seen = shared(batch)
        assert seen.dtype is torch.bfloat16
        rounded = cg_ram(branch, seen, pairs, layer=layer), grad_cam(branch, seen, LABELS, layer=layer)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype is torch.float32
        assert F.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.9


@pytest.mark.parametrize("kind", ["gap", "gmp", "ppool", "gem"])
def test_autocast_reaches_nothing_behind_the_map(kind: str) -> None:
    _, (branch,) = network(kind)
    layers = BranchLayers(nn.Identity(), nn.ReLU(), branch.head.float())
    seen = torch.randn(9, 128, 4, 2, generator=torch.Generator().manual_seed(0))
    pairs = (LABELS[:, None] == LABELS) & ~torch.eye(9, dtype=torch.bool)
    exact = cg_ram(layers, seen, pairs, layer="layer4"), grad_cam(layers, seen, LABELS, layer="layer4")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cg_ram(layers, seen, pairs, layer="layer4"), exact[0])
        assert torch.equal(grad_cam(layers, seen, LABELS, layer="layer4"), exact[1])


# ---- the branches


@pytest.mark.parametrize(("share_upto", "middle"), [("layer2", ["layer3_0"]), ("layer3", [])])
def test_branches_start_equal_and_share_nothing_behind_the_split(share_upto: str, middle: list[str]) -> None:
    torch.manual_seed(0)
    trunk = build_trunk("resnet10_w16")
    pools = {name: make_pool("gap", initial=1.0, channels=None) for name in ("one", "two")}
    shared, branches = split_trunk(trunk, share_upto, pools, num_ids=3)
    one, two = branches["one"], branches["two"]
    assert [name for name, _ in one.middle.named_children()] == middle
    own = [(p, q) for a, b in ((one.middle, two.middle), (one.last, two.last)) for p, q in _tensors(a, b)]
    assert own
    assert all(torch.equal(p, q) and p.data_ptr() != q.data_ptr() and p.dtype is q.dtype for p, q in own)
    trunks = {id(parameter) for parameter in trunk.parameters()}
    assert {id(p) for layers in (shared, one.middle, one.last) for p in layers.parameters()} == trunks
    assert not {id(p) for p in two.parameters()} & trunks
    assert [p.requires_grad for p in two.parameters()] == [p.requires_grad for p in one.parameters()]


def _tensors(one: nn.Module, other: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return list(zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_branch_is_layers_and_head() -> None:
    head = NeckBranch(3, num_ids=2, pool=make_pool("gap", initial=1.0, channels=None), neck="bn")
    branch = BranchLayers(nn.ReLU(), nn.AvgPool2d(2), head).eval()
    seen = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(branch(seen).feature, seen.relu().mean((2, 3)))
    assert torch.equal(branch.read(branch.maps(seen)).logits, branch(seen).logits)
