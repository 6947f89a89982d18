"""BDB: a global branch and a branch that loses the same block of its map in every image of a batch.

Dai et al., "Batch DropBlock Network for Person Re-identification and Beyond" (ICCV 2019), section 3. Called BFE in the
paper's first version and in the tables of later papers.

NOTE the block is dropped from the output of the extra bottleneck, as in Figure 3 and the authors' code; the text of
section 3 can be read as the other order. Label smoothing is from the code; the paper says softmax. The code trained on
four devices, each with its own block and its own batch statistics: `drop_groups` and `bn_groups` of variant
`four_devices`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from reid.config import Count, Fraction, Range, Recipe, Settings
from reid.losses import MetricLossName, metric_loss
from reid.methods.base import BranchOutput, Method
from reid.parts.backbone import build_trunk
from reid.parts.drop import drop_operator
from reid.parts.grouped_norm import group_batch_norms
from reid.parts.heads import global_branch, part_branch
from reid.parts.pooling import POOLS

DropOperator = Literal[
    "none",
    "dropout",
    "spatial_dropout",
    "batch_dropout",
    "dropblock_single",
    "batch_dropblock",
    "dropblock",
    "dropblock_plus",
]


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What is ablated or tuned. Published on Market-1501: 94.2 % Rank-1, 84.3 % mAP; with Cutout 95.3 % and 86.7 %.

    `rh`, `rw`: height and width of the dropped block as shares of the map. `drop_groups`: see
    `reid.parts.drop.BatchDropBlock`, `bn_groups`: `reid.parts.grouped_norm.GroupedBatchNorm`. `drop_p`: of the dropouts
    of Table 3. `triplet` adds the metric loss chosen by `metric_loss` to each branch; `margin` is that of
    `hard_triplet`, None being the soft one.
    """

    global_branch: bool = True
    drop_branch: bool = True
    global_dim: Count = 512
    drop_dim: Count = 1024
    rh: Fraction = 0.3
    rw: Fraction = 1.0
    drop_op: DropOperator = "batch_dropblock"
    drop_p: Annotated[float, Range(0.0, 0.9)] = 0.3
    drop_groups: Count = 1
    bn_groups: Count = 1
    drop_pool: Literal["max", "avg"] = "max"
    triplet: bool = True
    metric_loss: MetricLossName = "hard_triplet"
    margin: Annotated[float, Range(0.0, 10.0)] | None = None
    label_smoothing: Fraction = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.global_branch or self.drop_branch):
            raise ValueError("bdb has no branch left: set global_branch or drop_branch to true")


VARIANTS = {
    "default": Config(),
    "authors_code": Config(rh=0.33),  # 8 of 24 rows instead of 7
    "four_devices": Config(drop_groups=4, bn_groups=4),
    "retrieval": Config(rh=0.5, rw=0.5),  # section 4.4
    # Tables 2 and 4. `global_only` is the network of method baseline, variant triplet: report that one.
    "global_only": Config(drop_branch=False),
    "drop_only": Config(global_branch=False),
    "no_triplet": Config(triplet=False),
    # Table 3; its Batch DropBlock is the default.
    "spatial_dropout": Config(drop_op="spatial_dropout"),
    "dropout": Config(drop_op="dropout"),
    "batch_dropout": Config(drop_op="batch_dropout"),
    "dropblock_single": Config(drop_op="dropblock_single"),
    # Table 8; its hard triplet loss is the default.
    "lifted": Config(metric_loss="lifted"),
    "margin": Config(metric_loss="margin"),
    "margin_learned": Config(metric_loss="margin_learned"),
    "histogram": Config(metric_loss="histogram"),
    "gap": Config(drop_pool="avg"),  # Figure 7(b)
}

RECIPE = Recipe()  # its defaults are BDB's: 32 x 4 images, Adam, S1 for 400 epochs, 384 x 128


class Network(Method):
    """Trunk of last stride 1, then the branches `global` and `drop`; embedding of `global_dim` + `drop_dim`."""

    def __init__(self, config: Config, *, num_ids: int, backbone: str, weights: str | None) -> None:
        super().__init__(
            label_smoothing=config.label_smoothing,
            metric_loss=metric_loss(config.metric_loss, margin=config.margin) if config.triplet else None,
        )
        self.trunk = build_trunk(backbone, layout="stride1", weights=weights)
        channels = self.trunk.channels
        self.heads = nn.ModuleDict()
        self.embedding_dim = 0
        if config.global_branch:
            self.embedding_dim += config.global_dim
            self.heads["global"] = global_branch(channels, config.global_dim, num_ids=num_ids)
        if config.drop_branch:
            self.embedding_dim += config.drop_dim
            self.heads["drop"] = part_branch(
                channels,
                config.drop_dim,
                num_ids=num_ids,
                operator=_drop_operator(config),
                pool=POOLS[config.drop_pool],
            )
        if config.bn_groups > 1:
            group_batch_norms(self, config.bn_groups)

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """The branches, all on one map of the trunk."""
        maps = self.trunk(images)
        return {name: head(maps) for name, head in self.heads.items()}


def _drop_operator(config: Config) -> nn.Module:
    return drop_operator(
        config.drop_op, height_ratio=config.rh, width_ratio=config.rw, groups=config.drop_groups, p=config.drop_p
    )
