"""Heads for many parts of a map at once, each part with weights of its own.

The multi-pool feature extractor (MPFE) of the hybrid-attention guided network, Zhang et al., section III-D, and the
plain head it is compared with. The layers of all P parts are one batched product and one batch norm over all their
channels: the same numbers as P separate heads, from a few large kernels instead of hundreds of small ones.

Widths the paper does not give and all initialisation are those of the authors' code: torch's own for what the paper
calls a 1 x 1 convolution, Kaiming normal (`fan_out`) for the linear layer, 0.001 for the classifiers.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from reid.parts.drop import Dropout
from reid.parts.heads import BranchOutput
from reid.parts.multi_granularity import num_parts, window_maxima, window_means

Activation = Literal["leaky_relu", "relu"]
FeatureFrom = Literal["bn", "linear"]


class PartLinear(nn.Module):
    """A linear layer without bias for each of P parts, [B, P, inputs] -> [B, P, outputs]; starts as torch's own do."""

    def __init__(self, inputs: int, outputs: int, *, parts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(parts, outputs, inputs))
        nn.init.uniform_(self.weight, -(inputs**-0.5), inputs**-0.5)

    def forward(self, vectors: Tensor) -> Tensor:
        """Apply the layer of part p to `vectors[:, p]`.

        The weight comes first, so that its gradient is laid out as it is and need not be copied in every step.
        """
        return torch.bmm(self.weight, vectors.permute(1, 2, 0)).permute(2, 0, 1)


class PartNorm(nn.BatchNorm1d):
    """A batch norm for each of P parts, [B, P, features] -> the same shape; scales start as N(1, 0.02)."""

    def __init__(self, features: int, *, parts: int) -> None:
        super().__init__(parts * features)
        nn.init.normal_(self.weight, 1.0, 0.02)

    def forward(self, vectors: Tensor) -> Tensor:
        """Normalise every feature of every part over the batch."""
        return super().forward(vectors.flatten(1)).view(vectors.shape)


class AveragePool(nn.Module):
    """Average pooling of every window, [B, C, H, W] -> [B, P, C].

    Args:
        channels: channels C of the map.
        stripes: see `reid.parts.multi_granularity`.
    """

    def __init__(self, channels: int, *, stripes: int) -> None:
        super().__init__()
        self.stripes, self.outputs = stripes, channels

    def forward(self, maps: Tensor) -> Tensor:
        """Pool a map whose height is a multiple of `stripes`."""
        return window_means(maps, self.stripes)


class MultiPool(nn.Module):
    """Maximum and mean of every window side by side, reduced and activated, [B, C, H, W] -> [B, P, hidden].

    Args:
        channels: channels C of the map.
        hidden: what 2 C values are reduced to, followed by a batch norm.
        stripes: see `reid.parts.multi_granularity`.
        activation: `leaky_relu` has slope 0.1.
    """

    def __init__(self, channels: int, hidden: int, *, stripes: int, activation: Activation) -> None:
        super().__init__()
        self.stripes, self.outputs, parts = stripes, hidden, num_parts(stripes)
        self.reduce = PartLinear(2 * channels, hidden, parts=parts)
        self.norm = PartNorm(hidden, parts=parts)
        self.activation = nn.LeakyReLU(0.1) if activation == "leaky_relu" else nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Pool and reduce a map whose height is a multiple of `stripes`."""
        pooled = torch.cat([window_maxima(maps, self.stripes), window_means(maps, self.stripes)], 2)
        reduced: Tensor = self.activation(self.norm(self.reduce(pooled)))
        return reduced


class PartHeads(nn.Module):
    """For each part its pooling, a linear layer, a batch norm, dropout and a classifier; no layer has a bias.

    Args:
        pool: what makes a vector of each window of a map.
        features: size D of a part's feature.
        num_ids: training identities.
        feature_from: whether the metric loss sees the feature before (`linear`) or behind (`bn`) its batch norm.
        dropout: probability; what is ranked and what the metric loss sees are not dropped.
    """

    def __init__(
        self,
        pool: AveragePool | MultiPool,
        features: int,
        *,
        num_ids: int,
        feature_from: FeatureFrom,
        dropout: float,
    ) -> None:
        super().__init__()
        parts = num_parts(pool.stripes)
        self.pool, self.feature_from = pool, feature_from
        self.linear = PartLinear(pool.outputs, features, parts=parts)
        self.norm = PartNorm(features, parts=parts)
        self.dropout = Dropout(dropout)
        self.classifier = PartLinear(features, num_ids, parts=parts)
        nn.init.normal_(self.linear.weight, std=math.sqrt(2 / features))
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, maps: Tensor) -> BranchOutput:
        """Read a map [B, C, H, W]; the fields of the output, [B, P, D] and [B, P, num_ids], hold all parts at once."""
        linear: Tensor = self.linear(self.pool(maps))
        normed: Tensor = self.norm(linear)
        feature = normed if self.feature_from == "bn" else linear
        return BranchOutput(feature=feature, logits=self.classifier(self.dropout(normed)), embedding=normed)
