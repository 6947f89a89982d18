"""The size, the work and the time of a network: against counts done by hand."""

import time

import pytest
import torch
from torch import nn

from reid import methods
from reid.footprint import IMAGES, footprint


def test_a_small_network_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 6 * 4, 10))
    found = footprint(network.eval(), network, torch.zeros(2, 3, 6, 4))
    assert found["parameters"] == 3 * 8 * 9 + 8 * 6 * 4 * 10 + 10
    assert found["multiply_adds"] == 6 * 4 * 3 * 8 * 9 + 8 * 6 * 4 * 10


def test_the_time_is_that_of_one_image_and_a_slow_first_call_is_not_in_it() -> None:
    calls = []

    def embed(pixels: torch.Tensor) -> None:
        time.sleep(0.3 if not calls else 0.002 * len(pixels))
        calls.append(len(pixels))

    found = footprint(nn.Identity(), embed, torch.zeros(IMAGES + 5, 3, 2, 2))
    assert 0.002 <= found["embed_seconds_per_image"] < 0.01
    assert calls[0] == 1
    assert set(calls[1:]) == {IMAGES}


@pytest.mark.parametrize(("method", "variant"), [("sona", "bl_db_plus"), ("sona", "default")])
def test_attention_adds_parameters_and_work(method: str, variant: str) -> None:
    def cost(name: str) -> dict[str, float]:
        network = methods.build(method, name, num_ids=5, backbone="resnet10_w16").eval()
        return footprint(network, network.embed, torch.zeros(2, 3, 64, 32))

    plain, found = cost("bl_db_plus"), cost(variant)
    added = variant == "default"
    assert (found["parameters"] > plain["parameters"]) == added
    assert (found["multiply_adds"] > plain["multiply_adds"]) == added
