"""HAN: the maps of all stages of the trunk, attended to, side by side, and read by a head for each of 21 parts.

Zhang et al., "Hybrid-Attention Guided Network with Multiple Resolution Features for Person Re-Identification" (arXiv
2009.07536), section III. The stages' maps are pooled to the size of the last (FMR), weighted by positions (SAM),
concatenated, weighted by channels (CAM), cut into overlapping windows of six granularities (MGO), and each window goes
through an extractor of its own (MPFE).

NOTE the authors' code is the network without attention; here attention is that of its CBAM file, on pooled maps. From
the code too: LeakyReLU and the 256 channels in MPFE, the triplet loss behind the batch norm and per granularity. The
paper's baseline is not described: it is taken to be the public one the code descends from, whose head a part has when
it has no MPFE, without its biases. Stages no one reads are not computed.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from reid.config import Augment, Count, Fraction, Optimiser, Protocol, Range, Recipe, Sampler, Schedule, Settings
from reid.distributed import whole
from reid.losses import cross_entropy, metric_loss
from reid.methods.base import OWN, BranchOutput, Method
from reid.parts.backbone import STAGES, Layout, build_trunk
from reid.parts.multi_granularity import check_size, num_parts
from reid.parts.part_heads import Activation, AveragePool, FeatureFrom, MultiPool, PartHeads
from reid.parts.stage_fusion import CamSum, Operation, SamAt, StageFusion, check_fusion


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What is ablated or tuned. Published: Market-1501 95.7 % Rank-1, 87.7 % mAP; DukeMTMC-reID 90.2 % and 80.2 %.

    `stages` whose maps are fused; `order`, `cam_sum`, `sam_at`: see `reid.parts.stage_fusion.StageFusion`. `stripes`
    of the finest granularity; 1 is the whole map alone. Without `mpfe` parts have average pooling and `plain_dropout`.
    `triplet_on`: the feature before (`linear`) or behind (`bn`) its batch norm. `triplet_groups`: a triplet loss for
    all parts of a granularity side by side, or for each part; their mean counts.
    """

    layout: Layout = "stride1"
    stages: tuple[Literal[1, 2, 3, 4], ...] = (1, 2, 3, 4)
    order: tuple[Operation, ...] = ("SAM", "cat", "CAM")
    stripes: Count = 6
    mpfe: bool = True
    hidden_dim: Count = 256
    feature_dim: Count = 512
    activation: Activation = "leaky_relu"
    plain_dropout: Fraction = 0.5
    cam_sum: CamSum = "after"
    sam_at: SamAt = "pooled"
    triplet: bool = True
    triplet_on: FeatureFrom = "bn"
    triplet_groups: Literal["levels", "parts"] = "levels"
    margin: Annotated[float, Range(0.0, 10.0)] = 1.0
    label_smoothing: Fraction = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fusion(self.stages, self.order, self.sam_at)


_BASELINE = Config(layout="stride2", stages=(4,), order=(), stripes=1, mpfe=False, triplet=False, label_smoothing=0.0)

VARIANTS = {
    "default": Config(),
    # Tables VI and VIII, one component more in each row; `bmm_fused` is the authors' code.
    "baseline": _BASELINE,
    "tricks": replace(_BASELINE, layout="stride1", label_smoothing=0.1),
    "tricks_mpfe": Config(stages=(4,), order=(), stripes=1),
    "bmm": Config(stages=(4,), order=()),
    "bmm_fused": Config(order=("cat",)),
    "bmm_sam": Config(order=("SAM", "cat")),
    # Table VII, single components
    "only_mgo": replace(_BASELINE, stripes=6),
    "only_mpfe": replace(_BASELINE, mpfe=True, triplet=True),
    "only_sam": replace(_BASELINE, order=("SAM",)),
    "only_cam": replace(_BASELINE, order=("CAM",)),
    # The other readings of what paper and code leave open
    "relu": Config(activation="relu"),
    "cam_sum_before": Config(cam_sum="before"),
    "sam_native": Config(sam_at="native"),
    "triplet_linear": Config(triplet_on="linear"),
    "triplet_parts": Config(triplet_groups="parts"),
}

RECIPE = Recipe(
    sampler=Sampler(identities=16, images=4, epoch="images_once"),
    augment=Augment(random_erasing=0.5),
    optimiser=Optimiser(name="sgd", weight_decay=5e-4, momentum=0.9, nesterov=True),
    schedule=Schedule(name="S2", epochs=150, peak_lr=1e-2),
    protocol=Protocol(distance="cosine", normalise=True, flip=True),
)

# Rows of an image to one of a stage's map; columns likewise.
_STRIDES = {"stride2": (4, 8, 16, 32), "stride1": (4, 8, 16, 16), "dilated": (4, 8, 8, 8)}


class Network(Method):
    """Trunk, fusion, and for every window a branch: `level<p>.<i>` is window i of granularity p, counted from 1."""

    def __init__(self, config: Config, *, num_ids: int, backbone: str, weights: str | None) -> None:
        triplet = metric_loss("hard_triplet", margin=config.margin) if config.triplet else None
        super().__init__(label_smoothing=config.label_smoothing, metric_loss=triplet)
        self.config, parts = config, num_parts(config.stripes)
        self.embedding_dim = parts * config.feature_dim
        self.trunk = build_trunk(backbone, layout=config.layout, weights=weights)
        channels = [self.trunk.stage_channels[stage - 1] for stage in config.stages]
        for unread in STAGES[max(config.stages) :]:
            self.trunk.add_module(unread, nn.Identity())
        self.strides = _STRIDES[config.layout]
        factors = [self.strides[-1] // self.strides[stage - 1] for stage in config.stages]
        self.fusion = StageFusion(channels, factors, order=config.order, cam_sum=config.cam_sum, sam_at=config.sam_at)
        pool: AveragePool | MultiPool = AveragePool(sum(channels), stripes=config.stripes)
        if config.mpfe:
            pool = MultiPool(sum(channels), config.hidden_dim, stripes=config.stripes, activation=config.activation)
        self.heads = PartHeads(
            pool,
            config.feature_dim,
            num_ids=num_ids,
            feature_from=config.triplet_on,
            dropout=0.0 if config.mpfe else config.plain_dropout,
        )

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """The outputs of all parts, from the whole map to single stripes."""
        all_parts, levels = self._parts(images), range(1, self.config.stripes + 1)
        names = [f"level{level}.{window}" for level in levels for window in range(1, level + 1)]
        fields = {field: value.unbind(1) for field, value in vars(all_parts).items()}
        return {name: BranchOutput(**{f: fields[f][part] for f in fields}) for part, name in enumerate(names)}

    def embeddings(self, images: Tensor) -> dict[str, Tensor]:
        """The embedding of all parts, and those of each granularity: `level<p>`, its p windows side by side."""
        parts = self._parts(images).embedding
        levels = torch.split(parts, list(range(1, self.config.stripes + 1)), 1)
        apart = {f"level{level}": part.flatten(1) for level, part in enumerate(levels, 1)}
        return {OWN: parts.flatten(1)} | (apart if len(apart) > 1 else {})

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`id/parts`, the mean over all parts, and `triplet/levels` or `triplet/parts`, the mean over the groups."""
        parts, groups = self._parts(images), self.config.triplet_groups
        logits, identities = whole(parts.logits), whole(labels)
        count = logits.shape[1]
        repeated = identities.repeat_interleave(count)
        losses = {"id/parts": cross_entropy(logits.flatten(0, 1), repeated, label_smoothing=self.label_smoothing)}
        if self.metric_loss is not None:
            sizes = list(range(1, self.config.stripes + 1)) if groups == "levels" else [1] * count
            levels = torch.split(whole(parts.feature), sizes, 1)
            triplets = [self.metric_loss(level.flatten(1), identities) for level in levels]
            losses[f"triplet/{groups}"] = torch.stack(triplets).mean()
        return losses

    def _parts(self, images: Tensor) -> BranchOutput:
        """All parts at once: the fields of the output have them in their second dimension."""
        check_size(*images.shape[2:], step=self.strides[-1], stripes=self.config.stripes)
        maps = self.trunk.stages(images)
        parts: BranchOutput = self.heads(self.fusion([maps[stage - 1] for stage in self.config.stages]))
        return parts
