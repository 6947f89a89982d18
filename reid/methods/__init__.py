"""The methods, found by their file names.

A method is one file in this folder with four names: `Config` (a frozen `Settings`: what the paper ablates or tunes),
`VARIANTS` (named instances of it, `default` among them), `RECIPE` (the published training recipe) and `Network` (a
`Method`, built as `Network(config, num_ids=..., backbone=..., weights=...)`). A new file is a new method; nothing else
is edited, and a file is imported only when its method is asked for.
"""

import dataclasses
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from reid.config import Recipe, Settings
from reid.methods.base import Method
from reid.parts.choices import check_name, choose

__all__ = ["Method", "build", "config", "names", "recipe", "variants"]


def names() -> list[str]:
    """The names of all methods, sorted; imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def variants(name: str) -> dict[str, Settings]:
    """The named configurations of a method.

    Raises:
        ValueError: unknown method; the message lists the known ones.
    """
    return dict(_module(name).VARIANTS)


def recipe(name: str) -> Recipe:
    """The published training recipe of a method.

    Raises:
        ValueError: unknown method; the message lists the known ones.
    """
    published: Recipe = _module(name).RECIPE
    return published


def config(name: str, variant: str = "default", **overrides: Any) -> Settings:
    """A method's configuration: a variant, with some fields replaced.

    Raises:
        ValueError: unknown method, variant or field, with the known ones and the nearest; or a value out of range.
    """
    settings = choose(f"variant of method {name!r}", variant, variants(name))
    fields = [field.name for field in dataclasses.fields(settings)]
    for key in overrides:
        check_name(f"setting of method {name!r}", key, fields)
    return dataclasses.replace(settings, **overrides)


def build(
    name: str,
    variant: str = "default",
    *,
    num_ids: int,
    backbone: str = "resnet50",
    weights: str | None = None,
    **overrides: Any,
) -> Method:
    """A method's network, initialised from torch's default generator.

    Args:
        name: one of `names()`.
        variant: one of `variants(name)`.
        num_ids: training identities, the classes of its classifiers.
        backbone: the trunk, see `reid.parts.backbone.build_trunk`.
        weights: of the trunk: None, `imagenet` or a file.
        overrides: fields of the method's configuration to replace.

    Raises:
        ValueError: an unknown name or a value out of range, see `config` and `build_trunk`.
        FileNotFoundError: the weights are not there.
    """
    settings = config(name, variant, **overrides)
    network: Method = _module(name).Network(settings, num_ids=num_ids, backbone=backbone, weights=weights)
    return network


def _module(name: str) -> ModuleType:
    check_name("method", name, names())
    return importlib.import_module(f"{__name__}.{name}")
