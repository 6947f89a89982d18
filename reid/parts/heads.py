"""What follows the trunk: the reduction to a short feature, its classifier, and a branch made of both.

Sizes and initialisation follow Dai et al., "Batch DropBlock Network for Person Re-identification and Beyond" (ICCV
2019), section 3.1, and, for the initialisation, the authors' released code.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from reid.parts.backbone import residual_block
from reid.parts.pooling import Pool, global_average, global_max

FanMode = Literal["fan_in", "fan_out"]


@dataclass(frozen=True)
class BranchOutput:
    """What a branch says of a batch, the same in training and at test.

    `feature` [B, D] is what the metric loss sees; `logits` [B, num_ids] are the classifier's scores; `embedding` [B, D]
    is what is ranked: the feature itself, or what lies behind a neck.
    """

    feature: Tensor
    logits: Tensor
    embedding: Tensor


class Reduction(nn.Module):
    """Linear + batch norm + ReLU, [B, channels] -> [B, features].

    BDB writes its global reduction as a 1 x 1 convolution of a pooled map, which is this linear layer. The two differ
    in initialisation alone: Kaiming normal with `fan_in` for the convolution, `fan_out` for the linear layer.
    """

    def __init__(self, channels: int, features: int, *, fan_mode: FanMode) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, features)
        self.norm = nn.BatchNorm1d(features)
        nn.init.kaiming_normal_(self.linear.weight, mode=fan_mode)
        nn.init.zeros_(self.linear.bias)
        nn.init.normal_(self.norm.weight, 1.0, 0.02)

    def forward(self, pooled: Tensor) -> Tensor:
        """Reduce pooled vectors [B, channels] to non-negative features [B, features]."""
        return F.relu(self.norm(self.linear(pooled)))


class Classifier(nn.Linear):
    """Linear layer over the training identities, Kaiming normal (`fan_out`), zero bias."""

    def reset_parameters(self) -> None:
        """Draw the weights; called by the constructor."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        nn.init.zeros_(self.bias)


class Branch(nn.Module):
    """One branch on the trunk's map: optional layers on the map, pooling, reduction, classifier.

    Args:
        channels: channels of the trunk's map.
        features: size D of the branch's feature.
        num_ids: training identities.
        pool: the global pooling.
        fan_mode: initialisation of the reduction, see `Reduction`.
        body: layers applied to the map first; they keep its channels.
    """

    def __init__(
        self,
        channels: int,
        features: int,
        *,
        num_ids: int,
        pool: Pool,
        fan_mode: FanMode,
        body: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body = nn.Identity() if body is None else body
        self.pool = pool
        self.reduction = Reduction(channels, features, fan_mode=fan_mode)
        self.classifier = Classifier(features, num_ids)

    def forward(self, maps: Tensor) -> BranchOutput:
        """Read the trunk's map [B, channels, H, W]."""
        feature = self.reduction(self.pool(self.body(maps)))
        return BranchOutput(feature=feature, logits=self.classifier(feature), embedding=feature)


def global_branch(channels: int, features: int, *, num_ids: int, body: nn.Module | None = None) -> Branch:
    """BDB's global branch: average pooling, and a reduction that its authors wrote as a convolution."""
    return Branch(channels, features, num_ids=num_ids, pool=global_average, fan_mode="fan_in", body=body)


def part_branch(channels: int, features: int, *, num_ids: int, operator: nn.Module, pool: Pool = global_max) -> Branch:
    """BDB's second branch: one more bottleneck block, with torch's own initialisation, an operator, the maximum.

    Args:
        channels: channels of the trunk's map.
        features: size D of the branch's feature.
        num_ids: training identities.
        operator: what hides or weights parts of the bottleneck's map in training.
        pool: the global pooling.
    """
    body = nn.Sequential(residual_block("Bottleneck")(channels, channels // 4), operator)
    return Branch(channels, features, num_ids=num_ids, pool=pool, fan_mode="fan_out", body=body)
