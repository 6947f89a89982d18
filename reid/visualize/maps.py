"""Which places of an image a network goes by: maps of activation, of relevance and of attention.

All networks are in evaluation mode, in float32. A map is read where a branch pools: `branch_maps` finds these places by
the parts that branches are made of, whatever the method.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid.methods.base import Method
from reid.parts.heads import Branch
from reid.parts.neck import NeckBranch
from reid.parts.part_heads import PartHeads
from reid.parts.second_order import SecondOrderAttention
from reid.parts.stage_fusion import StageFusion

LAST_STAGE, FUSED = "last stage", "fused stages"


def branch_maps(method: Method, images: Tensor) -> dict[str, Tensor]:
    """The map [B, C, h, w] that each branch of a method pools, by the branch's name.

    Where all branches read one map, as HAN's do, it is called `fused stages`, and what the last stage adds to it, its
    attention applied, `last stage`; where that is all of it, there is no other.

    Args:
        method: in evaluation mode.
        images: [B, 3, H, W], normalised.
    """
    return _seen(method, images)[1]


def activation(maps: Tensor) -> Tensor:
    """How much a map [B, C, h, w] has at each position: the sum of squares over its channels, [B, h, w].

    Divided by its maximum in the image, so that it is 0 to 1.

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention" (ICLR 2017), section 3.1, with p = 2. The
    papers print such maps of their networks (BDB Figures 1, 4 and 8, SaADB Figure 4, HAN Figure 8) and do not say how
    they are made; those of a class need one, and who is searched for is none of the training's.
    """
    return _to_one(maps.float().square().sum(1))


def cg_ram_pairs(method: Method, query: Tensor, gallery: Tensor, *, flip: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """CG-RAM of a query and a gallery image each: what of either makes the two alike, by branch; [B, h, w] twice.

    M = ReLU of the sum over channels of dS/dA * A, elementwise, S being the cosine of the two vectors that are ranked
    and A the map that a branch pools, as it is pooled by this branch alone. Divided by its maximum in the image; 0
    everywhere where nothing is relevant.

    Source: Shen et al., "ES-Net" (IEEE TIP 2021), section III-B, equations 2 to 4.

    Args:
        method: in evaluation mode.
        query: [B, 3, H, W], normalised.
        gallery: as many.
        flip: whether the vectors are means over image and mirror; the map is that of the image.
    """
    sides = [_embedded(method, images, flip=flip) for images in (query, gallery)]
    score = F.cosine_similarity(sides[0][0], sides[1][0]).sum()  # a pair's score depends on its own two images alone
    flat = [maps for _, side in sides for maps in side.values()]
    gradients = iter(torch.autograd.grad(score, flat))
    count = len(query)
    found = [
        {name: _to_one(F.relu((next(gradients) * maps).sum(1)[:count])).detach() for name, maps in side.items()}
        for _, side in sides
    ]
    return {name: (found[0][name], found[1][name]) for name in found[0]}


@torch.no_grad()
def attention(method: Method, images: Tensor) -> list[tuple[Tensor, tuple[int, int]]]:
    """What each second-order attention of a network gives every position to attend to, in the order of the network.

    Source: Xia et al., "Second-order Non-local Attention Networks" (ICCV 2019), equations 1 and 2.

    Args:
        method: in evaluation mode.
        images: [B, 3, H, W], normalised.

    Returns:
        For each: weights [B, n, n] of the n = h * w positions, row i being those of position i, which sum to 1; and
        (h, w). None where the network has no such attention.
    """
    found: dict[nn.Module, Tensor] = {}
    modules = [module for module in method.modules() if isinstance(module, SecondOrderAttention)]
    with _hooked([_at_input(module, functools.partial(found.__setitem__, module)) for module in modules]):
        method.branches(images)
    return [(_weights(module, found[module]), _size(found[module])) for module in modules]


_Keep = Callable[[Tensor], None]
_Hook = Callable[[], Any]


def _seen(method: Method, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What is ranked, [B, D], and the maps that the branches pool, from one forward."""
    found: dict[str, Tensor] = {}
    places = [_place(path, module, found) for path, module in method.named_modules()]
    with _hooked([place for place in places if place]):
        outputs = method.branches(images)
    named = {_branch(path, list(outputs)): maps for path, maps in found.items()}
    if LAST_STAGE in named and torch.equal(named[LAST_STAGE], named[FUSED]):
        del named[FUSED]
    return torch.cat([output.embedding for output in outputs.values()], 1), named


def _place(path: str, module: nn.Module, found: dict[str, Tensor]) -> _Hook | None:
    """Where a module's map is to be seen, if it is one that pools, or that fuses stages: there, the last one's."""
    match module:
        case Branch():
            return _at_output(module.body, functools.partial(found.__setitem__, path))
        case NeckBranch():
            return _at_input(module, functools.partial(found.__setitem__, path))
        case StageFusion():
            return _at_output(module.stages[-1], functools.partial(found.__setitem__, LAST_STAGE))
        case PartHeads():
            return _at_input(module, functools.partial(found.__setitem__, FUSED))
    return None


# What is kept is a view that this module alone goes on with: several branches may read one map, and what matters to one
# of them is not what matters to all.


def _at_output(module: nn.Module, keep: _Keep) -> _Hook:
    return lambda: module.register_forward_hook(lambda _module, _inputs, output: _kept(output, keep))


def _at_input(module: nn.Module, keep: _Keep) -> _Hook:
    return lambda: module.register_forward_pre_hook(lambda _module, inputs: (_kept(inputs[0], keep), *inputs[1:]))


def _kept(maps: Tensor, keep: _Keep) -> Tensor:
    view = maps.view_as(maps)
    keep(view)
    return view


@contextmanager
def _hooked(hooks: list[_Hook]) -> Iterator[None]:
    handles = [hook() for hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _branch(path: str, names: list[str]) -> str:
    """The branch that a module belongs to: the one that its path names, or the only one."""
    own = [part for part in path.split(".") if part in (*names, LAST_STAGE, FUSED)]
    return own[0] if own else names[0]


def _embedded(method: Method, images: Tensor, *, flip: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """As `_seen`, with a graph from the maps to the vectors, and what is ranked of image and mirror."""
    views = torch.cat([images, images.flip(3)]) if flip else images
    with torch.enable_grad():
        vectors, maps = _seen(method, views.detach().requires_grad_())
        return (vectors[: len(images)] + vectors[len(images) :] if flip else vectors), maps


def _weights(module: SecondOrderAttention, maps: Tensor) -> Tensor:
    theta = module.theta(maps).flatten(2).transpose(1, 2).float()
    centred = theta - theta.mean(2, keepdim=True)
    weights: Tensor = (module.scale * centred @ centred.transpose(1, 2)).softmax(2)
    return weights


def _size(maps: Tensor) -> tuple[int, int]:
    return cast("tuple[int, int]", tuple(maps.shape[2:]))


def _to_one(values: Tensor) -> Tensor:
    """Each map [B, h, w], at least 0, divided by its maximum."""
    most = values.amax((1, 2), keepdim=True)
    return values / torch.where(most > 0, most, 1.0)
