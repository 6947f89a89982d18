"""The branch with a batch norm neck: the metric loss and the classifier read different vectors.

Luo et al., "Bag of Tricks and A Strong Baseline for Deep Person Re-identification" (CVPR workshops 2019), section 3.6.
"""

from typing import Literal

from torch import Tensor, nn

from reid.parts.heads import BranchOutput, Classifier
from reid.parts.pooling import Pool

Neck = Literal["bn", "none"]


class NeckClassifier(Classifier):
    """Linear layer over the training identities without bias, drawn with standard deviation 0.001."""

    def __init__(self, features: int, num_ids: int) -> None:
        super().__init__(features, num_ids, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights; called by the constructor."""
        nn.init.normal_(self.weight, std=0.001)


class NeckBranch(nn.Module):
    """Pooling, neck, classifier; nothing reduces the map's channels, so D = channels.

    Args:
        channels: channels of the trunk's map.
        num_ids: training identities.
        pool: the global pooling.
        neck: `bn` is a batch norm whose shift stays 0; with `none` all read the pooled vector.
    """

    def __init__(self, channels: int, *, num_ids: int, pool: Pool, neck: Neck) -> None:
        super().__init__()
        self.pool = pool
        self.neck = nn.BatchNorm1d(channels) if neck == "bn" else nn.Identity()
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)
        self.classifier = NeckClassifier(channels, num_ids)

    def forward(self, maps: Tensor) -> BranchOutput:
        """Read the trunk's map [B, channels, H, W]."""
        feature = self.pool(maps)
        embedding = self.neck(feature)
        return BranchOutput(feature=feature, logits=self.classifier(embedding), embedding=embedding)
