"""Which places of an image a branch goes by: CG-RAM and, to compare with it, Grad-CAM; both while the network trains.

Shen et al., "ES-Net: Erasing Salient Parts to Learn More in Re-Identification" (IEEE TIP 2021), sections III-B and
III-C. Everything here looks at a network and leaves it as it is: no gradient is kept, and batch norms normalise by the
statistics of the batch without adding them to their running averages.

No convolution is differentiated for a map of layer4: its gradient is that of what follows, pooling, neck and score.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid.distributed import mine, once, whole
from reid.parts.backbone import Trunk
from reid.parts.heads import BranchOutput
from reid.parts.neck import NeckBranch
from reid.parts.pooling import Pool
from reid.parts.power_pooling import PowerPooling, full_precision

Layer = Literal["layer3", "layer4"]
# From the pooled vectors [B, C] of a batch to the gradient of a score with respect to them.
ScoreGradient = Callable[[Tensor], Tensor]

# Of normalised values, a sixteenth of a grey level. A mirrored photograph may be rounded otherwise when it is resized,
# which is a third of this; two photographs are further apart in the mean of some row.
_SAME_ROWS = 1e-3


class BranchLayers(nn.Module):
    """What a branch has for itself: the layers behind the shared ones, and its head.

    Args:
        middle: layers from the shared ones to the end of layer3; may be empty.
        last: layer4.
        head: reads the map of layer4.
    """

    def __init__(self, middle: nn.Module, last: nn.Module, head: NeckBranch) -> None:
        super().__init__()
        self.middle, self.last, self.head = middle, last, head

    def maps(self, shared: Tensor) -> Tensor:
        """The map of layer4 from that of the shared layers."""
        maps: Tensor = self.last(self.middle(shared))
        return maps

    def read(self, maps: Tensor) -> BranchOutput:
        """What the head makes of the map of layer4."""
        output: BranchOutput = self.head(maps)
        return output

    def forward(self, shared: Tensor) -> BranchOutput:
        """What the head makes of the map of the shared layers."""
        return self.read(self.maps(shared))


def split_trunk(
    trunk: Trunk, share_upto: str, pools: Mapping[str, Pool], *, num_ids: int
) -> tuple[nn.Sequential, dict[str, BranchLayers]]:
    """The layers up to a place in layer2 or layer3, and a branch with a neck for each pooling.

    All branches start with the trunk's weights; the first has the trunk's own layers, the others copies of them. What
    is said to be a dict of them is a module that behaves like one.
    """
    shared, _ = trunk.split(share_upto)
    to_layer3, layer4 = trunk.split("layer3")
    own = nn.ModuleList([to_layer3[len(shared) :], layer4])
    branches = nn.ModuleDict()
    for name, pool in pools.items():
        middle, last = _copy(own) if branches else own
        head = NeckBranch(trunk.channels, num_ids=num_ids, pool=pool, neck="bn")
        branches[name] = BranchLayers(middle, last, head)
    return shared, cast("dict[str, BranchLayers]", branches)


@torch.no_grad()
def cg_ram(
    branch: BranchLayers, shared: Tensor, pairs: Tensor, *, layer: Layer, beside: Tensor | None = None
) -> Tensor:
    """CG-RAM in training, equations 3 to 5: ReLU of the sum over channels of dS_batch/dA * A, float32 [B, h, w].

    Unlike Grad-CAM's, the gradient is not averaged over the positions. An image collects gradient from all pairs it is
    in; one that has no pair has a map of zeros.

    Args:
        branch: in training mode.
        shared: map of the shared layers for the unerased images.
        pairs: which images of the whole batch may be paired, see `positive_pairs`.
        layer: whose output is A.
        beside: [B, E], a constant part of the vectors that are compared, besides what is behind the branch's neck.
    """

    def score(pooled: Tensor) -> Tensor:
        embedding = branch.head.neck(pooled)
        compared = embedding if beside is None else torch.cat([full_precision(beside), embedding], 1)
        return once(batch_score(whole(compared), pairs))

    maps, gradient = _at(layer, branch, shared, torch.func.grad(score))
    return F.relu((gradient * maps).sum(1)) * mine(pairs.any(1))[:, None, None]


@torch.no_grad()
def grad_cam(branch: BranchLayers, shared: Tensor, labels: Tensor, *, layer: Layer) -> Tensor:
    """ReLU of the sum over channels of alpha * A, where alpha is the mean over the positions of dy/dA; [B, h, w].

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV
    2017), equations 1 and 2. y is the logit of the image's own identity. Of its derivative, the part that goes through
    other images, by the batch statistics of the neck, is left out.
    """
    maps, gradient = _at(layer, branch, shared, lambda pooled: _own_logit_gradient(branch.head, pooled, labels))
    return F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1))


def batch_score(features: Tensor, pairs: Tensor) -> Tensor:
    """S_batch, equation 5: the sum of exp(S) S over the images, S being the similarity to the easiest positive.

    Both factors have a gradient. S is the cosine of the angle between two features [B, D], equation 2 ("distance" in
    the paper). An image without a pair adds nothing.
    """
    unit = F.normalize(features)
    similarity = unit @ unit.T
    to_easiest = (similarity * easiest_positives(similarity, pairs)).sum(1)
    return (to_easiest.exp() * to_easiest).sum()


def easiest_positives(similarity: Tensor, pairs: Tensor) -> Tensor:
    """For each image the most similar of those it may be paired with: bool [B, B], at most one in a row."""
    best = similarity.detach().masked_fill(~pairs, -torch.inf).argmax(1, keepdim=True)
    return (torch.arange(len(pairs), device=pairs.device) == best) & pairs


def positive_pairs(images: Tensor, labels: Tensor) -> Tensor:
    """Which images of the whole batch show the same identity and are not the same photograph: bool [B, B], symmetric.

    A batch drawn with replacement holds photographs twice, mirrored or not. Their similarity says nothing: it is 1, and
    its gradient 0. They are known by the means of their rows, which a mirror leaves alone.

    NOTE not in the paper, which excludes an image itself.
    """
    rows, labels = whole(images.mean(3, dtype=torch.float32).flatten(1)), whole(labels)
    same_photograph = torch.cdist(rows, rows, p=torch.inf) < _SAME_ROWS
    return (labels[:, None] == labels[None, :]) & ~same_photograph


@contextmanager
def untracked(module: nn.Module) -> Iterator[None]:
    """Within this, batch norms in training mode do not touch their running averages, nor count the batch."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@torch.no_grad()
def silently(module: nn.Module, inputs: Tensor) -> Any:
    """What the module makes of the inputs, without a gradient and with its running averages left alone."""
    with untracked(module):
        return module(inputs)


def _copy(module: nn.ModuleList) -> nn.ModuleList:
    """A copy with tensors of its own; these are made here, because deepcopy cannot copy tensors without values."""
    parameters = {id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, parameters | {id(buffer): buffer.clone() for buffer in module.buffers()})


def _at(layer: Layer, branch: BranchLayers, shared: Tensor, score_gradient: ScoreGradient) -> tuple[Tensor, Tensor]:
    """The map of a layer, and the gradient of the score with respect to it, both [B, C, h, w] in full precision."""
    with untracked(branch):
        maps = branch.middle(shared)
        if layer == "layer4":
            maps = full_precision(branch.last(maps))
            return maps, _at_last(branch.head, maps, score_gradient)
        last, back = _with_backward(branch.last, maps)
        gradient = _at_last(branch.head, full_precision(last), score_gradient)
        return full_precision(maps), full_precision(back(gradient.to(last.dtype)))


def _at_last(head: NeckBranch, maps: Tensor, score_gradient: ScoreGradient) -> Tensor:
    """The gradient with respect to the map the head reads; all in full precision."""
    with torch.autocast(maps.device.type, enabled=False):
        if isinstance(head.pool, PowerPooling):
            return head.pool.spread(maps, score_gradient(head.pool(maps)))
        pooled, back = _with_backward(head.pool, maps)
        return back(score_gradient(pooled))


def _with_backward(function: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What a function makes of its inputs, and how it takes a gradient back to them; its parameters get none."""
    outputs, back = cast("tuple[Tensor, Any]", torch.func.vjp(function, inputs))
    return outputs, lambda gradient: cast(Tensor, back(gradient)[0])


def _own_logit_gradient(head: NeckBranch, pooled: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each image's own logit with respect to its own pooled vector, [B, C].

    Through a batch norm of B images and x = (F - mean) / deviation, dx/dF = (1 - (1 + x^2) / B) / deviation.
    """
    neck = cast(nn.BatchNorm1d, head.neck)
    batch = whole(pooled)
    centred = batch - batch.mean(0)
    inverse = (centred.square().mean(0) + neck.eps).rsqrt()
    own_share = 1 - (1 + (mine(centred) * inverse).square()) / len(batch)
    return head.classifier.weight[labels] * neck.weight * inverse * own_share
