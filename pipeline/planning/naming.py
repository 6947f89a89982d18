"""Names of trials for people: from what a trial is alone, so that it has one name in whatever table it stands."""

import functools
from collections.abc import Mapping
from typing import Any

from reid import methods
from reid.config import Settings, TrialConfig, to_dict


def readable(config: TrialConfig, spec: Mapping[str, Any]) -> str:
    """The readable part of a name: method, variant, data set, seed; and whether it scores what another one trained."""
    own = spec["dataset"]
    target = spec["scored_on"]["dataset"] if "scored_on" in spec else None
    where = own if target in (own, None) else f"{own}-to-{target}"
    name = f"{config.method}-{_variant(config.method, config.model)}-{where}-s{config.seed}"
    return f"{name}-scored" if target == own else name


@functools.cache
def _variant(method: str, model: Settings) -> str:
    """The variant that a configuration is, or `<variant>-custom` for the nearest: a name from the trial alone."""
    own, variants = to_dict(model), methods.variants(method)

    def departures(name: str) -> int:
        return sum(value != own[field] for field, value in to_dict(variants[name]).items())

    nearest = min(variants, key=departures)
    return f"{nearest}-custom" if departures(nearest) else nearest
