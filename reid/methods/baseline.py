"""The baselines of BDB: a ResNet with one global branch.

Dai et al., "Batch DropBlock Network for Person Re-identification and Beyond" (ICCV 2019), section 3.1: average pooling,
a reduction to 512, and a classifier that reads the same vector as the metric loss. Without a metric loss it is the
"Baseline" of Tables 1 and 4; with the batch-hard triplet loss it is the "Baseline" of Tables 2 and 5, called "Global
Branch" in Table 2; with the other metric losses, the baselines of Table 8.

NOTE label smoothing is from the authors' code; the paper says softmax.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from reid.config import Count, Fraction, Range, Recipe, Settings
from reid.losses import MetricLossName, metric_loss
from reid.methods.base import BranchOutput, Method
from reid.parts.backbone import Layout, build_trunk
from reid.parts.heads import global_branch


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What is ablated or tuned. Published on Market-1501: 91.6 % Rank-1 (default), 93.1 % (triplet).

    `triplet` adds the metric loss chosen by `metric_loss`; `margin` is that of `hard_triplet`, None being the soft one.
    """

    layout: Layout = "stride1"
    global_dim: Count = 512
    triplet: bool = False
    metric_loss: MetricLossName = "hard_triplet"
    margin: Annotated[float, Range(0.0, 10.0)] | None = None
    label_smoothing: Fraction = 0.1


VARIANTS = {
    "default": Config(),
    "triplet": Config(triplet=True),
    "lifted": Config(triplet=True, metric_loss="lifted"),
    "margin": Config(triplet=True, metric_loss="margin"),
    "histogram": Config(triplet=True, metric_loss="histogram"),
}

RECIPE = Recipe()  # its defaults are BDB's: 32 x 4 images, Adam, S1 for 400 epochs, 384 x 128


class Network(Method):
    """Trunk, then one branch called `global`; embedding of `global_dim`."""

    def __init__(self, config: Config, *, num_ids: int, backbone: str, weights: str | None) -> None:
        super().__init__(
            label_smoothing=config.label_smoothing,
            metric_loss=metric_loss(config.metric_loss, margin=config.margin) if config.triplet else None,
        )
        self.trunk = build_trunk(backbone, layout=config.layout, weights=weights)
        self.heads = nn.ModuleDict({"global": global_branch(self.trunk.channels, config.global_dim, num_ids=num_ids)})
        self.embedding_dim = config.global_dim

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """The global branch."""
        maps = self.trunk(images)
        return {name: head(maps) for name, head in self.heads.items()}
