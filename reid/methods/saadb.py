"""SaADB: a global branch and a branch that is, by chance, made to lose its most salient part or to attend to it.

arXiv 2007.03584, later called STADB. Each training iteration takes one of two maps from the second branch's
bottleneck: the drop map, its salient positions erased, or the attended map, weighted by channels and then by positions.
At test it is the attended one.

NOTE from the authors' code, the paper being silent or saying otherwise: the bottleneck before both maps; reduction
ratio 4; label smoothing; the neck, a batch norm before each classifier that stays without scale and shift; Cutout; the
mirror at test. Their layer returns the map as it is at test, neither dropped nor attended: every trial scores that too,
as the embedding `plain`. The paper says that 20 % of the activations are erased: `drop_rule="top_frac"` reads it
literally.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn

from reid.config import Augment, Count, Fraction, Protocol, Range, Recipe, Schedule, Settings
from reid.losses import metric_loss
from reid.methods.base import BranchOutput, Method, side_by_side
from reid.parts.attention import ChannelAttention, SpatialAttention
from reid.parts.backbone import build_trunk
from reid.parts.heads import Branch, Classifier, global_branch, part_branch
from reid.parts.salience import DropOrAttend, DropRule, SalientDrop


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What is ablated or tuned. Published: Market-1501 95.2 % Rank-1, 86.7 % mAP; DukeMTMC-reID 89.1 % and 77.1 %.

    `drop`, `attention`: the maps of the second branch. With one of them off the other is taken in every iteration;
    without attention the map is plain at test; with both off there is no second branch.
    `drop_probability`: the branch selection probability, that an iteration takes the drop map.
    `drop_rule`: erase positions from `alpha` (the drop threshold) times the image's maximum on, or the share `frac`
    (the drop ratio) of them. `reduction`: the channel attention's reduction ratio. `margin`: None is the soft margin.
    """

    global_branch: bool = True
    drop: bool = True
    attention: bool = True
    global_dim: Count = 512
    second_dim: Count = 1024
    drop_probability: Fraction = 0.25
    drop_rule: DropRule = "max_frac"
    alpha: Annotated[float, Range(0.1, 1.0)] = 0.8
    frac: Annotated[float, Range(0.0, 0.9)] = 0.2
    reduction: Annotated[int, Range(1, 64)] = 4
    neck: Literal["bn_fixed", "none"] = "bn_fixed"
    margin: Annotated[float, Range(0.0, 10.0)] | None = None
    label_smoothing: Fraction = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.global_branch or self.drop or self.attention):
            raise ValueError("saadb has no branch left: set global_branch, drop or attention to true")


VARIANTS = {
    "default": Config(),
    "top_frac": Config(drop_rule="top_frac"),
    "no_neck": Config(neck="none"),
    # Tables 4 and 5; their last row is the default.
    "global_only": Config(drop=False, attention=False),
    "drop_only": Config(global_branch=False, attention=False),
    "attention_only": Config(global_branch=False, drop=False),
    "global_attention": Config(drop=False),
    "global_drop": Config(attention=False),
}

RECIPE = Recipe(augment=Augment(cutout=0.5), schedule=Schedule(epochs=600), protocol=Protocol(flip=True))


class Network(Method):
    """Trunk of last stride 1, then the branches `global` and `second`; embedding of `global_dim` + `second_dim`."""

    def __init__(self, config: Config, *, num_ids: int, backbone: str, weights: str | None) -> None:
        super().__init__(
            label_smoothing=config.label_smoothing,
            metric_loss=metric_loss("hard_triplet", margin=config.margin),
        )
        self.trunk = build_trunk(backbone, layout="stride1", weights=weights)
        channels, sizes = self.trunk.channels, {"global": config.global_dim, "second": config.second_dim}
        heads: dict[str, Branch] = {}
        if config.global_branch:
            heads["global"] = global_branch(channels, sizes["global"], num_ids=num_ids)
        if config.drop or config.attention:
            operator = _drop_and_attention(config, channels)
            heads["second"] = part_branch(channels, sizes["second"], num_ids=num_ids, operator=operator)
        if config.neck == "bn_fixed":
            for name, head in heads.items():
                head.classifier = NeckClassifier(sizes[name], num_ids)
        self.heads, self.attends = nn.ModuleDict(heads), config.attention
        self.embedding_dim = sum(sizes[name] for name in heads)

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """The branches, all on one map of the trunk."""
        maps = self.trunk(images)
        return {name: head(maps) for name, head in self.heads.items()}

    def embeddings(self, images: Tensor) -> dict[str, Tensor]:
        """Those of the branches; with attention also `plain`, which takes the second branch's map as it is."""
        if not self.attends:
            return super().embeddings(images)
        maps, second = self.trunk(images), cast(Branch, self.heads["second"])
        bottleneck, turns = cast(nn.Sequential, second.body)
        local = bottleneck(maps)
        attended, plain = (second.reduction(second.pool(seen)) for seen in (turns(local), local))
        parts = {"global": self.heads["global"](maps).embedding} if "global" in self.heads else {}
        return side_by_side(parts | {"second": attended}) | {"plain": torch.cat([*parts.values(), plain], 1)}


class NeckClassifier(Classifier):
    """A classifier behind a batch norm whose scale and shift stay 1 and 0."""

    def __init__(self, features: int, num_ids: int) -> None:
        super().__init__(features, num_ids)
        self.neck = nn.BatchNorm1d(features).requires_grad_(False)

    def forward(self, feature: Tensor) -> Tensor:
        """Logits [B, num_ids] of features [B, D]."""
        return super().forward(self.neck(feature))


def _drop_and_attention(config: Config, channels: int) -> nn.Module:
    """What follows the second branch's bottleneck."""
    drop = SalientDrop(config.drop_rule, alpha=config.alpha, frac=config.frac)
    if not config.attention:
        return drop
    return DropOrAttend(
        drop,
        nn.Sequential(ChannelAttention(channels, reduction=config.reduction), SpatialAttention(kernel=3)),
        drop_probability=config.drop_probability if config.drop else 0.0,
    )
