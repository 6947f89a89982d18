"""What the erasers of a method take away while it trains: the same code that trains, asked for its masks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reid.config import Augment, Recipe
from reid.data.augment import augment
from reid.methods.base import Method
from reid.parts.drop import BatchDropBlock, BatchDropout, DropBlock
from reid.parts.erasing import SalientErasing
from reid.parts.salience import DropOrAttend, SalientDrop

_LITTLE = 1e-6
_ON_MAPS = (BatchDropBlock, BatchDropout, DropBlock, SalientDrop)


def looks_at_images(method: Method) -> bool:
    """Whether an eraser of the network goes by what the network sees, so that only a trained one shows what it does."""
    turns = [module for module in method.modules() if isinstance(module, DropOrAttend)]
    idle = {module.drop for module in turns if module.drop_probability == 0}
    return any(
        (isinstance(module, SalientDrop) and module not in idle) or _is_besm(module) for module in method.modules()
    )


def masks(method: Method, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What the erasers in a network take from a batch, bool [B, h, w], by what they are called; each erases surely.

    The network runs once in training mode, as it would for this batch, and so its running averages change. Those of
    pixels have the size of the images, those of maps the maps'.

    Args:
        method: to be thrown away afterwards.
        images: [B, 3, H, W], normalised.
        labels: [B], below the network's number of identities.
    """
    found: dict[str, Tensor] = {}
    handles = []
    for module in method.train().modules():
        if isinstance(module, DropOrAttend):
            module.drop_probability = float(module.drop_probability > 0)
        elif isinstance(module, SalientErasing) and _is_besm(module):
            module.probability = 1.0
            handles.append(module.register_forward_hook(_changed(found)))
        elif isinstance(module, _ON_MAPS):
            handles.append(module.register_forward_pre_hook(_zeroed(found)))
    with torch.no_grad():
        method.branches(images, labels)
    for handle in handles:
        handle.remove()
    return found


def augmentations(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> dict[str, Tensor]:
    """What a recipe's augmentation erases from images, bool [B, H, W], by what it is called; it erases surely.

    Args:
        pixels: uint8 [B, H, W, 3].
        recipe: the trial's.
        generator: that the places are drawn from.
    """
    whole = Augment(flip=0.0)
    plain = augment(pixels, recipe.image_size, whole, generator)
    found = {}
    for name, settings in _alone(recipe.augment, whole):
        found[name] = (augment(pixels, recipe.image_size, settings, generator) != plain).any(1)
    return found


def _alone(settings: Augment, whole: Augment) -> Iterator[tuple[str, Augment]]:
    """Each eraser of an augmentation by itself."""
    if settings.random_erasing > 0:
        yield "Random Erasing", replace(whole, random_erasing=1.0)
    if settings.cutout > 0:
        size, at = settings.cutout_size, settings.cutout_at
        yield "Cutout", replace(whole, cutout=1.0, cutout_size=size, cutout_at=at)


def _is_besm(module: nn.Module) -> bool:
    return isinstance(module, SalientErasing) and module.by != "none" and module.probability > 0


def _changed(found: dict[str, Tensor]) -> Callable[..., None]:
    def hook(module: SalientErasing, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[_name(module)] = (output != inputs[0]).any(1)

    return hook


def _zeroed(found: dict[str, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nowhere_zero = inputs[0].clamp(min=_LITTLE)  # so that a zero behind the eraser is its doing
        found[_name(module)] = (module.forward(nowhere_zero) == 0).all(1)

    return hook


def _name(module: Any) -> str:
    match module:
        case SalientErasing():
            return "BESM" if module.by == "besm" else "Grad-CAM erasing"
        case SalientDrop():
            return "adaptive drop"
        case BatchDropBlock():
            return "DropBlock, one block" if module.groups is None else "Batch DropBlock"
        case DropBlock():
            return "DropBlock {} × {}".format(*module.block)
    return "Batch Dropout"
