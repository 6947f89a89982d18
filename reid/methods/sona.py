"""SONA-Net: BDB's two branches on a dilated trunk, with second-order non-local attention after some of its stages.

Xia et al., "Second-order Non-local Attention Networks for Person Re-identification" (ICCV 2019), section 3. The
`default` variant is SONA2-Net. There is no code of the authors.

NOTE the paper does not say which convolutions are dilated (here: torchvision's scheme, a 48 x 16 map for 384 x 128),
which triplet margin it uses, the block sizes of BL+DB and BL+BFE, or whether DropBlock+ rescales (here it does). Its
"gamma = 0.1" is taken as the share that is dropped: as the rate of block seeds it would leave 4 % of the map.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from reid.config import Augment, Count, Fraction, Protocol, Range, Recipe, Settings
from reid.losses import metric_loss
from reid.methods.base import BranchOutput, Method
from reid.parts.backbone import build_trunk
from reid.parts.drop import DropBlock, Gamma, drop_operator
from reid.parts.heads import global_branch, part_branch
from reid.parts.second_order import ProjectionInit, Scale, SecondOrderAttention, ValueLayers


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What is ablated or tuned. Published on Market-1501: 95.68 % Rank-1, 88.67 % mAP (mean of 4 runs).

    `sona_after_stage`: where the attention is; after stage 4 it is seen by the global branch alone. `sona_scale`,
    `p_init`, `sona_values`, `leaky_slope`: see `reid.parts.second_order.SecondOrderAttention`.
    `drop_op`: on the output of the local branch's bottleneck. `rh`, `rw`: of `batch_dropblock` (BFE). `drop_prob`,
    `gamma_is`: of the two DropBlocks, see `reid.parts.drop.DropBlock`; `block` is the side of `dropblock`'s square,
    `block_plus` the rows and columns of `dropblock_plus`. `margin` of the triplet loss; None is the soft one.
    """

    sona_after_stage: tuple[Literal[2, 3, 4], ...] = (2,)
    sona_scale: Scale = "literal"
    p_init: ProjectionInit = "zero"
    sona_values: ValueLayers = "conv"
    leaky_slope: Fraction = 0.1
    drop_op: Literal["none", "batch_dropblock", "dropblock", "dropblock_plus"] = "dropblock_plus"
    drop_prob: Fraction = 0.1
    gamma_is: Gamma = "drop_prob"
    block: Count = 7
    block_plus: tuple[Count, Count] = (5, 8)
    rh: Fraction = 0.3
    rw: Fraction = 1.0
    global_dim: Count = 512
    local_dim: Count = 1024
    margin: Annotated[float, Range(0.0, 10.0)] | None = None
    label_smoothing: Fraction = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.sona_after_stage) != sorted(set(self.sona_after_stage)):
            raise ValueError(
                f"Config.sona_after_stage is {self.sona_after_stage!r}: name each stage once, in rising order"
            )


VARIANTS = {
    "default": Config(),  # SONA2-Net
    "sona3": Config(sona_after_stage=(3,)),
    "sona2_3": Config(sona_after_stage=(2, 3)),
    "sona4": Config(sona_after_stage=(4,)),  # in the text of section 4.4
    # Table 5; BL is both branches without dropping and without attention.
    "bl": Config(sona_after_stage=(), drop_op="none"),
    "bl_db": Config(sona_after_stage=(), drop_op="dropblock"),
    "bl_db_plus": Config(sona_after_stage=()),
    "bl_bfe": Config(sona_after_stage=(), drop_op="batch_dropblock"),
    "bl_sona2": Config(drop_op="none"),
    "bl_bfe_sona2": Config(drop_op="batch_dropblock"),
}

# BDB's recipe with its Cutout; at test, the features of image and mirror are averaged.
RECIPE = Recipe(augment=Augment(cutout=0.5), protocol=Protocol(flip=True))


class Network(Method):
    """Dilated trunk, then the branches `global` and `local`; embedding of `global_dim` + `local_dim`."""

    def __init__(self, config: Config, *, num_ids: int, backbone: str, weights: str | None) -> None:
        super().__init__(
            label_smoothing=config.label_smoothing, metric_loss=metric_loss("hard_triplet", margin=config.margin)
        )
        self.trunk = build_trunk(backbone, layout="dilated", weights=weights)
        channels = self.trunk.channels
        attention = {
            stage: _attention(config, self.trunk.stage_channels[stage - 1]) for stage in config.sona_after_stage
        }
        in_global = attention.pop(4, None)
        for stage, module in attention.items():
            self.trunk.insert_after(f"layer{stage}", module)
        self.heads = nn.ModuleDict()
        self.heads["global"] = global_branch(channels, config.global_dim, num_ids=num_ids, body=in_global)
        self.heads["local"] = part_branch(channels, config.local_dim, num_ids=num_ids, operator=_drop_operator(config))
        self.embedding_dim = config.global_dim + config.local_dim

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """Both branches, on one map of the trunk."""
        maps = self.trunk(images)
        return {name: head(maps) for name, head in self.heads.items()}


def _attention(config: Config, channels: int) -> SecondOrderAttention:
    return SecondOrderAttention(
        channels,
        scale=config.sona_scale,
        p_init=config.p_init,
        values=config.sona_values,
        slope=config.leaky_slope,
    )


def _drop_operator(config: Config) -> nn.Module:
    blocks = {"dropblock": (config.block, config.block), "dropblock_plus": config.block_plus}
    if config.drop_op in blocks:
        return DropBlock(config.drop_prob, blocks[config.drop_op], gamma_is=config.gamma_is)
    return drop_operator(config.drop_op, height_ratio=config.rh, width_ratio=config.rw)
