"""Erasing the most salient pixels of the images of a batch.

Shen et al., "ES-Net: Erasing Salient Parts to Learn More in Re-Identification" (IEEE TIP 2021), section III-C,
algorithm 1 (BESM).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid.config import IMAGENET_MEAN, IMAGENET_STD
from reid.distributed import batch_size, mine
from reid.parts.chance import happens
from reid.parts.heads import BranchOutput
from reid.parts.relevance import BranchLayers, Layer, cg_ram, grad_cam, positive_pairs, silently

EraseBy = Literal["none", "besm", "grad_cam"]
ErasePer = Literal["image", "batch"]
EraseValue = Literal["mean", "black"]

# Resizing repeats values at the border, but compiled code rounds each of them differently.
_ROUNDING = 1e-5


class SalientErasing(nn.Module):
    """BESM: find what is salient to a branch in its images, and give those pixels one value in all three colours.

    What it returns is data: no gradient leads back to the images, nor through their maps into the network.

    Args:
        by: the maps, `besm` for those of CG-RAM; with `none` nothing is erased.
        layer: whose map it is.
        ratio: R, the share of an image's pixels that is erased.
        probability: P, with which an image is erased.
        per: whether each `image` is drawn on its own, as in algorithm 1, or a whole `batch` at once.
        value: `mean` colour, which is 0 behind the normalisation, or `black`.
    """

    fill: Tensor

    def __init__(
        self, by: EraseBy, *, layer: Layer, ratio: float, probability: float, per: ErasePer, value: EraseValue
    ) -> None:
        super().__init__()
        self.by, self.layer, self.ratio, self.probability, self.per = by, layer, ratio, probability, per
        black = -torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD)
        fill = black if value == "black" else torch.zeros(3)
        self.register_buffer("fill", fill[:, None, None], persistent=False)

    def begins(self) -> bool:
        """Whether anything is to be erased from this batch: a draw, for whole batches. If not, no map is needed."""
        if not self.training or self.by == "none" or min(self.ratio, self.probability) == 0:
            return False
        return self.per == "image" or happens(self.probability)

    @torch.no_grad()
    def forward(
        self, images: Tensor, labels: Tensor, *, branch: BranchLayers, shared: Tensor, beside: Tensor | None = None
    ) -> Tensor:
        """Erase from the images that are drawn, after `begins`.

        Args:
            images: [B, 3, H, W].
            labels: [B].
            branch: to which something is salient.
            shared: what the shared layers make of the images.
            beside: for CG-RAM, see `reid.parts.relevance.cg_ram`.
        """
        if self.by == "grad_cam":
            salience = grad_cam(branch, shared, labels, layer=self.layer)
        else:
            salience = cg_ram(branch, shared, positive_pairs(images, labels), layer=self.layer, beside=beside)
        erased = self._erase(images, salience)
        if self.per == "batch":
            return erased
        drawn = mine(torch.rand(batch_size(len(images)), device=images.device)) < self.probability
        return torch.where(drawn[:, None, None, None], erased, images)

    @torch.no_grad()
    def without_salient(
        self, images: Tensor, labels: Tensor, *, branch: BranchLayers, shared: nn.Module
    ) -> BranchOutput:
        """What a branch says of images that have all lost what CG-RAM finds salient to it; running averages stay.

        Args:
            images: [B, 3, H, W], unerased.
            labels: [B].
            branch: in training mode.
            shared: the layers before the branch's own.
        """
        pairs, seen = positive_pairs(images, labels), silently(shared, images)
        erased = self._erase(images, cg_ram(branch, seen, pairs, layer=self.layer))
        output: BranchOutput = silently(branch, silently(shared, erased))
        return output

    def _erase(self, images: Tensor, salience: Tensor) -> Tensor:
        erased = most_salient_pixels(salience, (images.shape[2], images.shape[3]), ratio=self.ratio)
        return torch.where(erased[:, None], self.fill, images)


def most_salient_pixels(salience: Tensor, size: tuple[int, int], *, ratio: float) -> Tensor:
    """The round(ratio * H * W) most salient pixels of every image, and those as salient as the last of them.

    A pixel without salience is never one of them: a map behind a ReLU has many zeros, and may have fewer pixels above
    zero than are asked for. Nor is a whole image: one that is salient everywhere alike has nothing that stands out.

    Args:
        salience: float [B, h, w], at least 0; resized bilinearly.
        size: H and W.
        ratio: share of the pixels.

    Returns:
        bool [B, H, W].
    """
    resized = F.interpolate(salience[:, None], size, mode="bilinear")[:, 0]
    count = round(ratio * resized[0].numel())
    if count == 0:
        return torch.zeros_like(resized, dtype=torch.bool)
    threshold = resized.flatten(1).topk(count).values[:, -1, None, None]
    erased = (resized >= threshold * (1 - _ROUNDING)) & (resized > 0)
    return erased & ~erased.all(2).all(1)[:, None, None]
