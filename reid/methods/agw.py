"""AGW: Bag of Tricks with non-local attention, generalised-mean pooling and the weighted regularised triplet loss.

Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook" (TPAMI 2022), the baseline proposed there.
Non-local blocks follow the last two blocks of layer2 and the last three of layer3, or all of them in a smaller trunk.

NOTE the paper takes its non-local blocks from Wang et al., who give theta, phi and g half of the map's channels; the
authors' code gives them a single one, by dividing a number by itself: variant `authors_code`. Their pooling adds a
constant where ours has a least value (see `reid.parts.gem`).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from reid.config import Fraction, Range, Settings
from reid.losses import metric_loss, weighted_triplet
from reid.methods.base import BranchOutput, Method
from reid.parts.backbone import build_trunk
from reid.parts.gem import GeneralisedMean
from reid.parts.neck import NeckBranch
from reid.parts.non_local import insert_non_local
from reid.parts.pooling import global_average
from reid.parts.recipes import BAG_OF_TRICKS


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What is ablated or tuned. Published: Market-1501 95.1 % Rank-1, 87.8 % mAP; DukeMTMC-reID 89.0 % and 79.6 %.

    `non_local`: inner channels of the blocks, half of the map's or a single one; `none` leaves the blocks out.
    `gem_p`: the exponent at the start; None pools by the average. `triplet`: `hard` is that of Bag of Tricks, whose
    `margin` the weighted one does not have.
    """

    non_local: Literal["half", "single", "none"] = "half"
    gem_p: Annotated[float, Range(1.0, 100.0)] | None = 3.0
    triplet: Literal["weighted", "hard"] = "weighted"
    margin: Annotated[float, Range(0.0, 10.0)] = 0.3
    label_smoothing: Fraction = 0.1


VARIANTS = {
    "default": Config(),
    "authors_code": Config(non_local="single"),
    "no_non_local": Config(non_local="none"),
    "average_pooling": Config(gem_p=None),
    "hard_triplet": Config(triplet="hard"),
}

RECIPE = BAG_OF_TRICKS


class Network(Method):
    """Trunk of last stride 1 with blocks in it, then one branch called `global`; its embedding has 2048 channels."""

    def __init__(self, config: Config, *, num_ids: int, backbone: str, weights: str | None) -> None:
        hard = metric_loss("hard_triplet", margin=config.margin)
        super().__init__(
            label_smoothing=config.label_smoothing,
            metric_loss=hard if config.triplet == "hard" else weighted_triplet,
        )
        self.trunk = build_trunk(backbone, layout="stride1", weights=weights)
        if config.non_local != "none":
            insert_non_local(self.trunk, inner=config.non_local)
        self.head = NeckBranch(
            self.trunk.channels,
            num_ids=num_ids,
            pool=global_average if config.gem_p is None else GeneralisedMean(config.gem_p),
            neck="bn",
        )
        self.embedding_dim = self.trunk.channels

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """The one branch; its `feature` is the vector before the neck."""
        return {"global": self.head(self.trunk(images))}
