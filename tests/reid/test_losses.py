"""Every loss against loops written out here and pytorch-metric-learning, and properties of each."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import miners as pml_miners
from pytorch_metric_learning import reducers as pml_reducers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from reid import losses
from reid.losses import MetricLossName, metric_loss

NAMES: tuple[MetricLossName, ...] = ("hard_triplet", "lifted", "margin", "margin_learned", "histogram")
EUCLIDEAN = pml_distances.LpDistance(normalize_embeddings=False)


def batch(*, identities: int = 4, images: int = 3, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of loose clusters, in float64, with the identities interleaved."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(identities).repeat(images)
    centres = torch.randn(identities, size, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), size, generator=generator, dtype=torch.float64)
    return (centres[labels] + 0.8 * noise).requires_grad_(), labels


def pairs(labels: Tensor, *, same: bool) -> list[tuple[int, int]]:
    """All ordered pairs of different images, of the same identity or not."""
    every = itertools.permutations(range(len(labels)), 2)
    return [(i, j) for i, j in every if (labels[i] == labels[j]).item() is same]


def distance(features: Tensor, i: int, j: int) -> Tensor:
    return (features[i] - features[j]).square().sum().clamp(min=1e-12).sqrt()


def gradient(loss: Tensor, features: Tensor) -> Tensor:
    return torch.autograd.grad(loss, features)[0]


def agree(actual: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor], features: Tensor) -> None:
    """Values and gradients of two functions of the features are the same."""
    results = []
    for function in (actual, expected):
        value = function(features)
        results.append((value.double(), gradient(value, features)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-5)


# ---- cross-entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_cross_entropy_equals_the_smoothed_target_written_out(smoothing: float) -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    total = 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        probabilities = row.exp() / row.exp().sum()
        for identity in range(5):
            target = smoothing / 5 + (1 - smoothing) * (identity == label)
            total -= target * math.log(probabilities[identity])
    actual = losses.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert actual.item() == pytest.approx(total / 6, rel=1e-5)


# ---- batch-hard triplet


def triplet_reference(features: Tensor, labels: Tensor, margin: float | None) -> Tensor:
    terms = []
    for anchor in range(len(labels)):
        positives = [distance(features, anchor, j) for i, j in pairs(labels, same=True) if i == anchor]
        negatives = [distance(features, anchor, j) for i, j in pairs(labels, same=False) if i == anchor]
        gap = torch.stack(positives).max() - torch.stack(negatives).min()
        terms.append(torch.log1p(gap.exp()) if margin is None else torch.relu(gap + margin))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("margin", [None, 0.3, 1.0])
def test_hard_triplet_equals_double_loops(margin: float | None) -> None:
    features, labels = batch()
    agree(
        lambda f: losses.hard_triplet(f, labels, margin=margin),
        lambda f: triplet_reference(f, labels, margin),
        features,
    )


@pytest.mark.parametrize("margin", [None, 0.3])
def test_hard_triplet_equals_pytorch_metric_learning(margin: float | None) -> None:
    features, labels = batch(seed=1)
    other = pml.TripletMarginLoss(
        margin=margin or 0.0, smooth_loss=margin is None, distance=EUCLIDEAN, reducer=pml_reducers.MeanReducer()
    )
    miner = pml_miners.BatchHardMiner(distance=EUCLIDEAN)
    agree(
        lambda f: losses.hard_triplet(f, labels, margin=margin),
        lambda f: other(f, labels, miner(f, labels)),
        features,
    )


def test_mining_equals_boolean_indexing() -> None:
    """The usual way to mine a P x K batch: pick the entries of equal and unequal labels, then reduce each row."""
    features, labels = batch(identities=5, images=4)
    matrix, same = torch.cdist(features, features), labels[:, None] == labels[None, :]
    hardest = matrix[same].view(20, -1).amax(1) - matrix[~same].view(20, -1).amin(1)
    expected = torch.nn.functional.softplus(hardest).mean()
    assert losses.hard_triplet(features, labels).item() == pytest.approx(expected.item(), rel=1e-5)


# ---- lifted structure


def lifted_reference(features: Tensor, labels: Tensor) -> Tensor:
    negatives = pairs(labels, same=False)
    terms = []
    for i, j in pairs(labels, same=True):
        if i > j:
            continue
        spread = [(1 - distance(features, a, b)).exp() for a, b in negatives if a in (i, j)]
        terms.append(torch.relu(torch.stack(spread).sum().log() + distance(features, i, j)).square())
    return torch.stack(terms).sum() / (2 * len(terms))


def test_lifted_structure_equals_double_loops() -> None:
    features, labels = batch()
    agree(lambda f: losses.lifted_structure(f, labels), lambda f: lifted_reference(f, labels), features)


def test_lifted_structure_equals_pytorch_metric_learning() -> None:
    features, labels = batch(seed=2)
    other = pml.LiftedStructureLoss(neg_margin=1, pos_margin=0, distance=EUCLIDEAN)
    agree(lambda f: losses.lifted_structure(f, labels), lambda f: other(f, labels), features)


def test_lifted_structure_does_not_underflow_at_large_distances() -> None:
    """At distances of hundreds the plain sum of exponentials is 0 and its logarithm minus infinity."""
    features, labels = batch(identities=2, images=2)
    far = (features * 0 + 1000 * torch.eye(4, 8, dtype=torch.float64)).detach()
    side = 1000 * math.sqrt(2)
    expected = max(0.0, math.log(4) + 1 - side + side) ** 2 / 2
    assert losses.lifted_structure(far, labels).item() == pytest.approx(expected, rel=1e-3)


# ---- distance-weighted margin


def fixed_negatives(labels: Tensor) -> Tensor:
    """As many negatives for each image as it has positives: the first ones after it."""
    mask = torch.zeros(len(labels), len(labels), dtype=torch.bool)
    for i in range(len(labels)):
        others = [(i + step) % len(labels) for step in range(1, len(labels))]
        wanted = sum(labels[j] == labels[i] for j in others)
        mask[i, [j for j in others if labels[j] != labels[i]][:wanted]] = True
    return mask


def margin_reference(features: Tensor, labels: Tensor, negatives: Tensor) -> Tensor:
    unit = features / features.norm(dim=1, keepdim=True)
    terms = [torch.relu(0.2 + distance(unit, i, j) - 1.2) for i, j in pairs(labels, same=True)]
    terms += [torch.relu(0.2 + 1.2 - distance(unit, i, j)) for i, j in pairs(labels, same=False) if negatives[i, j]]
    return torch.stack(terms).sum() / sum(bool(term > 0) for term in terms)


def test_margin_loss_equals_double_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = batch()
    negatives = fixed_negatives(labels)
    monkeypatch.setattr(losses, "_sampled_negatives", lambda *_, **__: negatives)
    agree(
        lambda f: losses.distance_weighted_margin(f, labels),
        lambda f: margin_reference(f, labels, negatives),
        features,
    )


def test_margin_loss_equals_pytorch_metric_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = batch(seed=3)
    negatives = fixed_negatives(labels)
    monkeypatch.setattr(losses, "_sampled_negatives", lambda *_, **__: negatives)
    anchors = torch.tensor([i for i, _ in pairs(labels, same=True)])
    positives = torch.tensor([j for _, j in pairs(labels, same=True)])
    triplets = (anchors, positives, negatives.nonzero()[:, 1])  # row by row, as many as positives
    other = pml.MarginLoss(margin=0.2, beta=1.2)
    agree(lambda f: losses.distance_weighted_margin(f, labels), lambda f: other(f, labels, triplets), features)


def sample(matrix: Tensor, labels: Tensor, *, dimensions: int) -> Tensor:
    same = labels[:, None] == labels[None, :]
    return losses._sampled_negatives(matrix, same, dimensions=dimensions, counts=same.sum(1) - 1)


def test_each_image_draws_as_many_different_negatives_as_it_has_positives() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    for _ in range(20):
        drawn = sample(torch.rand(10, 10) + 0.5, labels, dimensions=512)
        assert drawn.sum(1).tolist() == [2, 2, 2, 1, 1, 3, 3, 3, 3, 0]
        assert not (drawn & (labels[:, None] == labels[None, :])).any()


def test_negatives_are_drawn_with_the_published_weights() -> None:
    """Frequencies over many draws equal 1/q(d), normalised, in three dimensions of the sphere in R^6."""
    torch.manual_seed(0)
    distances = torch.tensor([0.3, 0.5, 0.8, 1.0, 1.4])
    q = [max(d, 0.5) ** 4 * (1 - max(d, 0.5) ** 2 / 4) ** 1.5 for d in distances.tolist()]
    expected = np.array([1 / value for value in q]) / sum(1 / value for value in q)
    labels = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    matrix = torch.ones(7, 7)
    matrix[0, 2:] = distances
    draws = torch.stack([sample(matrix, labels, dimensions=6)[0, 2:] for _ in range(6000)])
    np.testing.assert_allclose(draws.double().mean(0).numpy(), expected, atol=0.025)


def test_weights_span_hundreds_of_nats_and_stay_finite() -> None:
    ends = losses.inverse_density(torch.tensor([0.0, 0.5, math.sqrt(2), 2.0]), 512)
    assert ends.isfinite().all()
    assert ends[0] == ends[1]
    assert (ends[1] - ends[2]).item() == pytest.approx(370, abs=2)


def test_far_negatives_are_not_drawn_when_cut_off() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(40, 3), torch.arange(8).repeat(5)
    distances = torch.cdist(*2 * [torch.nn.functional.normalize(features)])
    never = (labels[:, None] == labels) | (distances > 1.4)
    drawn = losses._sampled_negatives(distances, never, dimensions=3, counts=torch.full((40,), 30))
    assert torch.equal(drawn, ~never)  # all that are left, fewer than asked for


def test_the_boundary_can_be_learned() -> None:
    """Its gradient is the share of negatives among the terms above zero minus that of positives."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
    features = torch.randn(4, 3)[labels] + 0.4 * torch.randn(10, 3)
    learned = losses.LearnedMargin()
    torch.manual_seed(1)
    loss = learned(features, labels)
    torch.autograd.backward(loss)
    torch.manual_seed(1)
    assert loss == losses.distance_weighted_margin(features, labels, upper_cut=1.4)
    values = []
    for beta in (1.2 - 1e-3, 1.2 + 1e-3):
        torch.manual_seed(1)
        values.append(losses.distance_weighted_margin(features, labels, beta=beta, upper_cut=1.4).item())
    assert learned.beta.grad is not None
    assert learned.beta.grad.item() == pytest.approx((values[1] - values[0]) / 2e-3, abs=0.01)
    assert learned.beta.grad.item() != 0


def test_margin_loss_draws_from_torchs_generator() -> None:
    features, labels = batch(identities=8, images=4)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(losses.distance_weighted_margin(features, labels).item())
    assert values[0] == values[1] != values[2]


# ---- histogram


def histogram_reference(features: Tensor, labels: Tensor, nodes: int) -> Tensor:
    """Equations 1 to 4 with the triangular kernel evaluated at every node for every pair."""
    unit = features / features.norm(dim=1, keepdim=True)
    grid, step = torch.linspace(-1, 1, nodes, dtype=torch.float64), 2 / (nodes - 1)
    shares = []
    for same in (True, False):
        kept = [(unit[i] * unit[j]).sum() for i, j in pairs(labels, same=same) if i < j]
        kernels = [torch.relu(1 - (similarity - grid).abs() / step) for similarity in kept]
        shares.append(torch.stack(kernels).mean(0))
    positive, negative = shares
    return torch.stack([negative[r] * positive[: r + 1].sum() for r in range(nodes)]).sum()


@pytest.mark.parametrize("nodes", [11, 151])
def test_histogram_loss_equals_loops(nodes: int) -> None:
    features, labels = batch()
    agree(
        lambda f: losses.histogram(f, labels, nodes=nodes),
        lambda f: histogram_reference(f, labels, nodes),
        features,
    )


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")  # inside that library
def test_histogram_loss_equals_pytorch_metric_learning() -> None:
    features, labels = batch(seed=4)
    other = pml.HistogramLoss(n_bins=150)
    agree(lambda f: losses.histogram(f, labels), lambda f: other(f, labels), features)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-1, 1), min_size=1, max_size=20), nodes=st.integers(2, 60))
def test_soft_histograms_sum_to_one_and_keep_the_mean(values: list[float], nodes: int) -> None:
    similarities = torch.tensor(values)
    shares = losses.soft_histogram(similarities, torch.ones(len(values), dtype=torch.bool), nodes)
    assert shares.min() >= 0
    assert shares.sum().item() == pytest.approx(1, abs=1e-5)
    assert (shares * torch.linspace(-1, 1, nodes)).sum().item() == pytest.approx(np.mean(values), abs=1e-4)


def test_histogram_loss_is_zero_when_identities_are_apart_and_half_when_they_are_not() -> None:
    labels = torch.arange(4).repeat_interleave(4)
    apart = torch.eye(4)[labels]
    assert losses.histogram(apart, labels).item() == pytest.approx(0, abs=1e-6)
    noise = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    assert losses.histogram(noise, labels).item() == pytest.approx(0.5, abs=0.1)


# ---- all metric losses


def value(name: MetricLossName, features: Tensor, labels: Tensor) -> float:
    torch.manual_seed(0)
    return metric_loss(name)(features, labels).item()


def test_the_margin_is_that_of_the_triplet_loss() -> None:
    features, labels = batch()
    assert metric_loss("hard_triplet", margin=0.7)(features, labels) == losses.hard_triplet(
        features, labels, margin=0.7
    )


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)), name=st.sampled_from(["hard_triplet", "lifted", "histogram"]))
def test_the_order_of_the_batch_does_not_matter(order: list[int], name: MetricLossName) -> None:
    features, labels = batch()
    expected = value(name, features, labels)
    assert value(name, features[order], labels[order]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["margin", "margin_learned", "histogram"])
def test_normalising_losses_ignore_the_length_of_features(name: MetricLossName) -> None:
    features, labels = batch()
    assert value(name, 7 * features, labels) == pytest.approx(value(name, features, labels), rel=1e-4)


@pytest.mark.parametrize("name", ["hard_triplet", "lifted"])
def test_euclidean_losses_ignore_where_the_origin_is(name: MetricLossName) -> None:
    features, labels = batch()
    assert value(name, features + 3, labels) == pytest.approx(value(name, features, labels), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_and_the_same_under_autocast(name: MetricLossName) -> None:
    features, labels = (tensor.detach() for tensor in batch())
    plain = value(name, features.bfloat16(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert value(name, features.bfloat16(), labels) == plain
        assert metric_loss(name)(features.bfloat16(), labels).dtype is torch.float32
        assert losses.cross_entropy(features.bfloat16(), labels).dtype is torch.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "labels",
    [torch.arange(6), torch.zeros(6, dtype=torch.long), torch.tensor([0, 0, 0, 1, 1, 2])],
    ids=["no positives", "no negatives", "uneven"],
)
@pytest.mark.parametrize("kind", ["random", "zero", "equal"])
def test_degenerate_batches_have_finite_values_and_gradients(name: MetricLossName, labels: Tensor, kind: str) -> None:
    torch.manual_seed(0)
    features = {"random": torch.randn(6, 5), "zero": torch.zeros(6, 5), "equal": torch.ones(6, 5)}[kind]
    features.requires_grad_()
    loss = metric_loss(name)(features, labels)
    assert loss.isfinite()
    assert gradient(loss, features).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_no_loss_waits_for_the_device(name: MetricLossName) -> None:
    """Fake tensors have no values: anything that reads one (item, nonzero, boolean indexing) raises."""
    with FakeTensorMode():
        features, labels = torch.empty(12, 8, requires_grad=True), torch.empty(12, dtype=torch.long)
        assert gradient(metric_loss(name)(features, labels), features).shape == (12, 8)
        assert gradient(losses.cross_entropy(features, labels, label_smoothing=0.1), features).shape == (12, 8)


@pytest.mark.parametrize("name", NAMES)
def test_losses_run_under_deterministic_algorithms_and_repeat(name: MetricLossName) -> None:
    features, labels = batch(identities=8, images=4)
    torch.use_deterministic_algorithms(True)
    try:
        assert value(name, features, labels) == value(name, features, labels)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_descent_pulls_identities_together(name: MetricLossName) -> None:
    """A metric loss is worth its name when minimising it makes every image's nearest neighbour its own identity."""
    features, labels = (tensor.detach() for tensor in batch(identities=4, images=4, size=16))
    points = (0.3 * features + torch.randn(16, 16, generator=torch.Generator().manual_seed(1))).float().requires_grad_()
    torch.manual_seed(0)
    optimiser = torch.optim.Adam([points], 0.05)
    for _ in range(150):
        points.grad = gradient(metric_loss(name)(points, labels), points)
        optimiser.step()
    unit = (
        torch.nn.functional.normalize(points.detach())
        if name in ("margin", "margin_learned", "histogram")
        else points.detach()
    )
    matrix = torch.cdist(unit, unit).fill_diagonal_(torch.inf)
    assert torch.equal(labels[matrix.argmin(1)], labels)
