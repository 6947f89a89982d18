"""ES-Net: a branch that sees whole images, and one from whose images the most salient parts are erased.

Shen et al., "ES-Net: Erasing Salient Parts to Learn More in Re-Identification" (IEEE TIP 2021). The all information
branch (AIB) and the erasing salient branch (ESB) share the layers before res_conv4. What is salient is found anew in
every batch, from ESB's own map of the unerased images.

NOTE the paper states R = 10 % and P = 0.3, but its results are those of its Table II with 20 % and 0.5. Where it is
silent: the look for what is salient uses the statistics of the batch, and no photograph is a pair of itself; P-pooling
learns one exponent, from 1 on; Grad-CAM asks for the true identity's logit; both branches are ranked, behind the neck.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor

from reid.config import Fraction, Protocol, Range, Recipe, Sampler, Schedule, Settings
from reid.distributed import whole
from reid.losses import cross_entropy, metric_loss, weighted_triplet
from reid.methods.base import BranchOutput, Method
from reid.parts.backbone import build_trunk
from reid.parts.drop import BatchDropBlock
from reid.parts.erasing import EraseBy, ErasePer, EraseValue, SalientErasing
from reid.parts.heads import part_branch
from reid.parts.non_local import insert_non_local
from reid.parts.power_pooling import Pooling, make_pool
from reid.parts.relevance import Layer, silently, split_trunk


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What is ablated or tuned. Published: Market-1501 95.7 % Rank-1, 88.6 % mAP; DukeMTMC-reID 89.2 % and 78.8 %.

    `all_branch`, `erasing_branch`: AIB and ESB, which share the trunk up to the end of `share_upto`; one alone has all
    of it. `drop_branch`: BDB's second branch, on the map of the first. `pool` is that of ESB, `pool_aib` of AIB;
    `ppool_init`: the first exponent of `ppool`. `erase`: what finds the salient parts, `saliency_layer`: in which map,
    `saliency_feature`: by the similarity of which vectors. `erase_ratio` is R, `erase_probability` P, see
    `reid.parts.erasing`. `agw`: AGW as the backbone (ES-Net*): non-local blocks, generalised-mean pooling in AIB, the
    weighted triplet loss, without `margin`. `probe_erased`: record the loss on erased images as well (figure 3).
    """

    all_branch: bool = True
    erasing_branch: bool = True
    drop_branch: bool = False
    share_upto: Literal["layer2", "layer3.0", "layer3"] = "layer2"
    pool: Pooling = "ppool"
    pool_aib: Pooling = "gap"
    ppool_init: Annotated[float, Range(1.0, 50.0)] = 1.0
    ppool_per_channel: bool = False
    erase: EraseBy = "besm"
    erase_ratio: Annotated[float, Range(0.0, 0.9)] = 0.2
    erase_probability: Fraction = 0.5
    erase_per: ErasePer = "image"
    erase_value: EraseValue = "mean"
    saliency_layer: Layer = "layer4"
    saliency_feature: Literal["esb", "concat"] = "esb"
    triplet: bool = True
    margin: Annotated[float, Range(0.0, 10.0)] = 0.3
    label_smoothing: Fraction = 0.0
    agw: bool = False
    probe_erased: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.all_branch or self.erasing_branch):
            raise ValueError("esnet has no branch left: set all_branch or erasing_branch to true")
        if self.saliency_feature == "concat" and not (self.all_branch and self.erasing_branch):
            raise ValueError("saliency_feature 'concat' is of two branches: set all_branch and erasing_branch to true")
        if self.agw and self.pool_aib != "gap":
            raise ValueError("agw pools by the generalised mean in AIB: leave pool_aib at 'gap'")


_BASE: dict[str, Any] = {"triplet": False, "erase_ratio": 0.1, "erase_probability": 0.3}
VARIANTS = {
    "default": Config(),
    "base": Config(erasing_branch=False, **_BASE),
    "aib": Config(erasing_branch=False),
    "esb": Config(all_branch=False, erase_ratio=0.1, erase_probability=0.3),
    "base_besm": Config(all_branch=False, pool="gap", **_BASE),
    "base_besm_gmp": Config(all_branch=False, pool="gmp", **_BASE),
    "base_besm_ppool": Config(all_branch=False, **_BASE),
    "grad_cam": Config(all_branch=False, pool="gap", erase="grad_cam", **_BASE),
    "dropping": Config(erasing_branch=False, drop_branch=True, **_BASE),
    "ppool_in_aib": Config(pool_aib="ppool"),
    "agw": Config(agw=True),
    "share_layer3_0": Config(share_upto="layer3.0"),  # this and the rest are other readings of the paper
    "share_layer3": Config(share_upto="layer3"),
    "per_batch": Config(erase_per="batch"),
    "black": Config(erase_value="black"),
    "concat_feature": Config(saliency_feature="concat"),
    "layer3_saliency": Config(saliency_layer="layer3"),
    "per_channel": Config(ppool_per_channel=True),
}

RECIPE = Recipe(
    sampler=Sampler(identities=16, images=4, epoch="images_once"),
    schedule=Schedule(name="S3", epochs=120, peak_lr=3.5e-4),
    protocol=Protocol(distance="cosine", normalise=True, flip=True),
)


class Network(Method):
    """Trunk of last stride 1, split among the branches `all` and `erasing`; `drop` is on the map of the first."""

    def __init__(self, config: Config, *, num_ids: int, backbone: str, weights: str | None) -> None:
        metric = weighted_triplet if config.agw else metric_loss("hard_triplet", margin=config.margin)
        super().__init__(label_smoothing=config.label_smoothing, metric_loss=metric if config.triplet else None)
        self.concat, self.probe_erased = config.saliency_feature == "concat", config.probe_erased
        trunk = build_trunk(backbone, layout="stride1", weights=weights)
        if config.agw:
            insert_non_local(trunk, inner="half")
        kinds = {"all": "gem" if config.agw else config.pool_aib} if config.all_branch else {}
        kinds |= {"erasing": config.pool} if config.erasing_branch else {}
        channels = trunk.channels if config.ppool_per_channel else None
        pools = {name: make_pool(kind, initial=config.ppool_init, channels=channels) for name, kind in kinds.items()}
        self.shared, self.own = split_trunk(trunk, config.share_upto, pools, num_ids=num_ids)
        drop = config.drop_branch
        self.drop = part_branch(trunk.channels, 1024, num_ids=num_ids, operator=BatchDropBlock()) if drop else None
        self.embedding_dim = trunk.channels * len(pools) + 1024 * drop
        self.erasing = SalientErasing(
            config.erase,
            layer=config.saliency_layer,
            ratio=config.erase_ratio,
            probability=config.erase_probability if config.erasing_branch else 0.0,
            per=config.erase_per,
            value=config.erase_value,
        )

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """The branches, in training ESB on erased images; what the unerased ones leave behind is AIB's doing alone."""
        erases = labels is not None and self.erasing.begins()
        clean = self.shared(images) if "all" in self.own or not erases else silently(self.shared, images)
        maps: list[Tensor] = []
        outputs: dict[str, BranchOutput] = {}
        for name, own in self.own.items():
            shared = clean
            if name == "erasing" and labels is not None and erases:
                beside = outputs["all"].embedding if self.concat else None
                shared = self.shared(self.erasing(images, labels, branch=own, shared=clean, beside=beside))
            maps.append(own.maps(shared))
            outputs[name] = own.read(maps[-1])
        return outputs if self.drop is None else outputs | {"drop": self.drop(maps[0])}

    def probes(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """With `probe_erased`, `probe/id/<branch>`: its loss when all images lose what CG-RAM finds salient to it."""
        losses: dict[str, Tensor] = {}
        for name, own in self.own.items() if self.probe_erased else ():
            output = self.erasing.without_salient(images, labels, branch=own, shared=self.shared)
            losses[f"probe/id/{name}"] = cross_entropy(
                whole(output.logits), whole(labels), label_smoothing=self.label_smoothing
            )
        return losses
