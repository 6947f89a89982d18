"""Bag of Tricks: a ResNet with one branch and the training tricks of the strong baseline (BoT, BagTricks).

Luo et al., "Bag of Tricks and A Strong Baseline for Deep Person Re-identification" (CVPR workshops 2019), section 3.
In the network: last stride 1, label smoothing, and the batch norm neck, before which the triplet loss acts and behind
which images are ranked. In the recipe: warm-up and random erasing.

NOTE the sixth trick, centre loss, is left out: the paper gives it 0.2 points of mAP on Market-1501. Without the neck
the classifier stays as it is, so that this row differs by the batch norm alone.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from reid.config import Fraction, Range, Settings
from reid.losses import metric_loss
from reid.methods.base import BranchOutput, Method
from reid.parts.backbone import Layout, build_trunk
from reid.parts.neck import Neck, NeckBranch
from reid.parts.pooling import global_average
from reid.parts.recipes import BAG_OF_TRICKS


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What is ablated or tuned. Published without centre loss on Market-1501: 94.1 % Rank-1, 85.7 % mAP.

    `margin` of the batch-hard triplet loss; None leaves the loss out.
    """

    layout: Layout = "stride1"
    neck: Neck = "bn"
    margin: Annotated[float, Range(0.0, 10.0)] | None = 0.3
    label_smoothing: Fraction = 0.1


VARIANTS = {
    "default": Config(),
    "no_smoothing": Config(label_smoothing=0.0),
    "no_neck": Config(neck="none"),
    "no_triplet": Config(margin=None),
    "stride2": Config(layout="stride2"),
}

RECIPE = BAG_OF_TRICKS


class Network(Method):
    """Trunk, then one branch called `global`; the embedding has the trunk's channels."""

    def __init__(self, config: Config, *, num_ids: int, backbone: str, weights: str | None) -> None:
        super().__init__(
            label_smoothing=config.label_smoothing,
            metric_loss=None if config.margin is None else metric_loss("hard_triplet", margin=config.margin),
        )
        self.trunk = build_trunk(backbone, layout=config.layout, weights=weights)
        self.head = NeckBranch(self.trunk.channels, num_ids=num_ids, pool=global_average, neck=config.neck)
        self.embedding_dim = self.trunk.channels

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """The one branch; its `feature` is the vector before the neck."""
        return {"global": self.head(self.trunk(images))}
