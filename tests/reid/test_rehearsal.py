"""A rehearsal passes what trains, and names what does not fit, without touching anything."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from reid import methods
from reid.config import Augment, TrialConfig
from reid.rehearsal import rehearse


def published(method: str, *, model: dict[str, Any] | None = None, **recipe: Any) -> TrialConfig:
    settings = methods.config(method, **(model or {}))
    return TrialConfig(method=method, model=settings, recipe=replace(methods.recipe(method), **recipe))


@pytest.mark.parametrize("method", methods.names())
def test_every_published_recipe_takes_its_first_step(method: str) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    rehearse(published(method))  # 384 x 128, with weights that are not on this machine
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (published("han", image_size=(128, 64)), r"8 rows, which cannot be cut into 6 .* set model.stripes to one of"),
        (published("bdb", model={"rh": 1.0}), r"a dropped block of 1 x 1 .* covers all of a 24 x 8 map"),
        (published("bdb", augment=Augment(cutout=0.5, cutout_size=200)), r"cutout_size is 200, at most 128 fits"),
    ],
)
def test_what_does_not_fit_is_said_at_once(config: TrialConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rehearse(config)
