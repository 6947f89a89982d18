"""The losses, as functions of a batch: features [B, D] or logits [B, N], and labels [B].

Every one computes in float32 with autocast off, whatever it is given, and waits for nothing: masks and sorting stay on
the device. A batch is expected to hold several images of each of several identities.
"""

import functools
from collections.abc import Callable
from typing import Concatenate, Literal, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MetricLoss = Callable[[Tensor, Tensor], Tensor]
MetricLossName = Literal["hard_triplet", "lifted", "margin", "margin_learned", "histogram"]

_P = ParamSpec("_P")
_Loss = Callable[Concatenate[Tensor, Tensor, _P], Tensor]

# Stands for minus infinity where a whole row may be masked: exp() of it is 0, and its gradient is 0 rather than NaN.
_NEVER = -1e9


def _in_float32(loss: _Loss[_P]) -> _Loss[_P]:
    """Run a loss in float32 whatever precision the network runs in: small differences of distances are its signal."""

    @functools.wraps(loss)
    def float32_loss(values: Tensor, labels: Tensor, /, *args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return loss(values.float(), labels, *args, **kwargs)

    return float32_loss


@_in_float32
def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy; the target is (1 - eps) on the label plus eps / N on each of the N identities.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (CVPR 2016), section 7.
    """
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


@_in_float32
def hard_triplet(features: Tensor, labels: Tensor, *, margin: float | None = None) -> Tensor:
    """Batch-hard triplet loss: for each image its farthest positive against its nearest negative, averaged.

    Source: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification" (2017), equation 5.

    Args:
        features: [B, D], not normalised.
        labels: [B].
        margin: None for the soft margin softplus(d_ap - d_an), else relu(d_ap - d_an + margin).
    """
    distances = _distances(features)
    same = _same(labels)
    positive = distances.masked_fill(~same, 0).amax(1)  # an image is its own positive, at distance 0
    negative = distances.masked_fill(same, -_NEVER).amin(1)
    gap = positive - negative
    return (F.softplus(gap) if margin is None else F.relu(gap + margin)).mean()


@_in_float32
def weighted_triplet(features: Tensor, labels: Tensor) -> Tensor:
    """Weighted regularised triplet loss: softplus(sum w_p d_p - sum w_n d_n), averaged over the images.

    Source: Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook" (TPAMI 2022). d are Euclidean
    distances; for each image, w_p is the softmax of d over its positives and w_n that of -d over its negatives, and
    both have a gradient. There is no margin.

    NOTE as in the authors' code, an image is its own positive, at distance 0.

    Args:
        features: [B, D], not normalised.
        labels: [B], of at least two identities.
    """
    distances, same = _distances(features), _same(labels)
    to_positive = distances.masked_fill(~same, -torch.inf).softmax(1)
    to_negative = (-distances).masked_fill(same, -torch.inf).softmax(1)
    return F.softplus(((to_positive - to_negative) * distances).sum(1)).mean()


@_in_float32
def lifted_structure(features: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """Lifted structured loss: each positive pair against all negatives of both its images.

    Source: Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding" (CVPR 2016), equation 4.
    Distances are at least 0.01; the sums of exponentials are taken in log space, where they cannot underflow.

    Args:
        features: [B, D], not normalised.
        labels: [B].
        margin: the distance at which a negative stops to count much.
    """
    distances = _distances(features, least=1e-2)
    same = _same(labels)
    negatives = (margin - distances).masked_fill(same, _NEVER).logsumexp(1)
    violation = torch.logaddexp(negatives[:, None], negatives[None, :]) + distances
    pairs = same.triu(1)
    return (F.relu(violation).square() * pairs).sum() / (2 * _count(pairs))


@_in_float32
def distance_weighted_margin(
    features: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.2,
    beta: float | Tensor = 1.2,
    upper_cut: float | None = None,
) -> Tensor:
    """Margin loss relu(alpha + y * (d - beta)) with distance-weighted negatives, averaged over the terms above zero.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning" (ICCV 2017), section 4. Every ordered positive pair
    counts (y = 1); each image draws as many negatives (y = -1) as it has positives, without replacement, with weights
    inverse to the density of distances on the unit sphere, from torch's default generator.

    NOTE as in BDB's code, beta is fixed and no negative ignored; `LearnedMargin` is the paper's form.

    Args:
        features: [B, D], normalised here.
        labels: [B].
        alpha: the margin on either side of the boundary.
        beta: the boundary between positive and negative distances.
        upper_cut: negatives farther than this are not drawn.
    """
    distances = _distances(F.normalize(features))
    same = _same(labels)
    positives = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    never = same if upper_cut is None else same | (distances > upper_cut)
    negatives = _sampled_negatives(distances.detach(), never, dimensions=features.shape[1], counts=positives.sum(1))
    pulled = F.relu(alpha + distances - beta) * positives
    pushed = F.relu(alpha - distances + beta) * negatives
    active = _count(pulled > 0, pushed > 0)
    return (pulled.sum() + pushed.sum()) / active


class LearnedMargin(nn.Module):
    """The margin loss as Wu et al. have it: beta is learned from 1.2 on, negatives farther than 1.4 are not drawn.

    NOTE one beta for all identities, and no term that pulls on it (the paper's nu is 0).
    """

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(1.2))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """See `distance_weighted_margin`."""
        return distance_weighted_margin(features, labels, beta=self.beta, upper_cut=1.4)


def _sampled_negatives(distances: Tensor, never: Tensor, *, dimensions: int, counts: Tensor) -> Tensor:
    """For each row, `counts` different negatives drawn with the weights of Wu et al., as a bool mask [B, B].

    What is `never` drawn are the positives and whatever else does not count.

    The weights span hundreds of nats, so they stay logarithms: the largest of log weight + Gumbel noise are a sample
    without replacement.
    """
    noise = -torch.empty_like(distances).exponential_().log()
    scores = (inverse_density(distances, dimensions) + noise).masked_fill(never, -torch.inf)
    rank = scores.argsort(1, descending=True).argsort(1)
    return (rank < counts[:, None]) & ~never


def inverse_density(distances: Tensor, dimensions: int, *, least: float = 0.5) -> Tensor:
    """log 1/q(d), q being the density (up to a factor) of distances between points on the unit sphere.

    q(d) = d^(n-2) * (1 - d^2/4)^((n-3)/2) for n dimensions; distances below `least` count as `least`.
    """
    distances = distances.clamp(min=least)
    opposite = (1 - distances.square() / 4).clamp(min=1e-6)  # 0 for opposite points
    return -((dimensions - 2) * distances.log() + (dimensions - 3) / 2 * opposite.log())


@_in_float32
def histogram(features: Tensor, labels: Tensor, *, nodes: int = 151) -> Tensor:
    """Histogram loss: the probability that a random negative pair is more similar than a random positive pair.

    Source: Ustinova and Lempitsky, "Learning Deep Embeddings with Histogram Loss" (NeurIPS 2016), equations 1 to 4.

    Args:
        features: [B, D], normalised here.
        labels: [B].
        nodes: nodes of the two histograms on [-1, 1].
    """
    unit = F.normalize(features)
    similarities = (unit @ unit.T).clamp(-1, 1)
    same = _same(labels)
    positive = soft_histogram(similarities, same.triu(1), nodes)
    negative = soft_histogram(similarities, (~same).triu(1), nodes)
    # A matrix instead of cumsum, which has no deterministic kernel on CUDA: entry r, s is 1 where s <= r.
    up_to = torch.ones(nodes, nodes, device=unit.device).tril()
    return negative @ (up_to @ positive)


def soft_histogram(similarities: Tensor, pairs: Tensor, nodes: int) -> Tensor:
    """Share of the pairs at each node, [nodes]; a value between two nodes is split between them linearly.

    Args:
        similarities: values in [-1, 1], any shape.
        pairs: which of them count, bool, the same shape.
        nodes: nodes on [-1, 1], both ends included.
    """
    position = (similarities.flatten() + 1) * ((nodes - 1) / 2)
    below = position.detach().floor().clamp(0, nodes - 2)
    upper = (position - below) * pairs.flatten()
    lower = (1 + below - position) * pairs.flatten()
    empty = torch.zeros(nodes, device=position.device)
    index = below.long()
    return empty.index_add(0, index, lower).index_add(0, index + 1, upper) / _count(pairs)


def metric_loss(name: MetricLossName, *, margin: float | None = None) -> MetricLoss:
    """A metric loss by its name; `margin` is that of `hard_triplet`, the others keep their published constants.

    `margin_learned` is a module with a parameter, for the method to hold.
    """
    functions: dict[MetricLossName, MetricLoss] = {
        "hard_triplet": functools.partial(hard_triplet, margin=margin),
        "lifted": lifted_structure,
        "margin": distance_weighted_margin,
        "margin_learned": LearnedMargin(),
        "histogram": histogram,
    }
    return functions[name]


def _distances(features: Tensor, *, least: float = 1e-6) -> Tensor:
    """Euclidean distances between all rows, [B, B], at least `least` (where the gradient is 0)."""
    squares = features.square().sum(1)
    squared = squares[:, None] + squares[None, :] - 2 * features @ features.T
    return squared.clamp(min=least**2).sqrt()


def _same(labels: Tensor) -> Tensor:
    return labels[:, None] == labels[None, :]


def _count(*masks: Tensor) -> Tensor:
    """How many entries are true, at least 1: what a mean over them divides by."""
    return torch.stack([mask.sum() for mask in masks]).sum().clamp(min=1)
