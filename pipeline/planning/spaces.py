"""A search against the configuration that it searches: what it asks for must exist, be allowed and be measured."""

import re
from typing import Any

import numpy as np

from pipeline.planning.params import overridden
from pipeline.planning.searches import SECONDS, Point, Search, Space, Value, inner, listed
from pipeline.planning.strict import ParamsError, nearest, override, unknown
from reid.config import Protocol, TrialConfig, flatten, to_dict
from reid.evaluation import RetrievalResult


def check(config: TrialConfig, search: Search, *, where: str) -> None:
    """Every value a search may take must be allowed; a range is allowed when both its ends are.

    A condition on a setting that the space does not have must be on one there is, and hold.

    Raises:
        ParamsError: what is unknown or not allowed, one line each.
    """
    flat = dict(flatten(to_dict(config)))
    for path, space in search.space.items():
        for value in space.choices if space.choices is not None else (space.low, space.high):
            overridden(config, whole(config, {path: value}), where=where)
        for other in sorted(space.when.keys() - search.space.keys()):
            if other not in flat:
                raise ParamsError([f"{where}.{path}.when: {other} is unknown{nearest(other, flat)}"])
            if flat[other] not in listed(space.when[other]):
                raise ParamsError([f"{where}.{path} is never asked for: {other} is {flat[other]!r} in the row"])


def check_objectives(search: Search, protocol: Protocol, *, where: str) -> None:
    """Every objective must be among what trials are scored by under this protocol.

    Raises:
        ParamsError: one is not.
    """
    zeros = np.zeros(max(protocol.ranks or (1,)))
    nothing = RetrievalResult(
        mean_ap=0.0,
        mean_inp=0.0,
        cmc=zeros,
        average_precision=zeros,
        first_match_rank=zeros,
        inverse_negative_penalty=zeros,
        num_valid=0,
        num_skipped=0,
        protocol=protocol,
    )
    known = [name for name in nothing.metrics() if not name.startswith("num_")] + [SECONDS]
    for name in search.objectives:
        if name not in known:
            raise ParamsError([f"{where} {unknown(name, known)}"])


def typed(search: Search, base: TrialConfig) -> Search:
    """The search on this configuration: conditions that hold anyway left out, numbers of their settings' kind.

    Zero to one need not be two whole numbers: a range's ends are fractions where the setting is one.
    """
    fractions = {path for path, item in search.space.items() if _is_fraction(base, path, item)}
    space = {path: _as_float(item) if path in fractions else item for path, item in inner(search.space).items()}
    first = {path: _float(value) if path in fractions else value for path, value in search.first.items()}
    return search.model_copy(update={"space": space, "first": first})


def whole(config: TrialConfig, point: Point) -> dict[str, Any]:
    """A point with whole lists where it has elements: `model.block_plus[0]` replaces one of the configuration's."""
    flat, found = dict(flatten(to_dict(config))), dict[str, Any]()
    for path, value in point.items():
        name, index = _element(path)
        elements = found.get(name, flat.get(name))
        if index is not None and isinstance(elements, (tuple, list)) and index < len(elements):
            found[name] = [*elements[:index], value, *elements[index + 1 :]]
        else:
            found[path] = value
    return found


def _element(path: str) -> tuple[str, int | None]:
    """The setting that a path names, and which of its elements, if one."""
    match = re.fullmatch(r"(.+)\[(\d+)\]", path)
    return (match[1], int(match[2])) if match else (path, None)


def _is_fraction(base: TrialConfig, path: str, space: Space) -> bool:
    """Whether the setting takes fractions: it makes one of the whole number it is given."""
    if space.low is None:
        return False
    name, index = _element(path)
    changed = override(base, whole(base, {path: space.low}), where="search.space")
    value = dict(flatten(to_dict(changed)))[name]
    return isinstance(value if index is None else value[index], float)


def _as_float(space: Space) -> Space:
    return space.model_copy(update={name: _float(getattr(space, name)) for name in ("low", "high", "step")})


def _float(value: Value) -> Value:
    return float(value) if isinstance(value, int) else value
