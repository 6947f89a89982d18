"""Which positions a salient drop erases, and how often it takes its turn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from reid.parts.salience import DropOrAttend, DropRule, SalientDrop, most_salient, near_maximum

# Few different values, so that ties are common; whole numbers and quarters, so that thresholds are exact.
levels = st.lists(st.integers(0, 6), min_size=12, max_size=12)
both_rules = pytest.mark.parametrize("rule", ["max_frac", "top_frac"])


def positive_maps(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1


def drop(rule: DropRule, *, alpha: float = 0.8, frac: float = 0.2) -> SalientDrop:
    return SalientDrop(rule, alpha=alpha, frac=frac)


@settings(max_examples=50, deadline=None)
@given(values=levels, alpha=st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_a_threshold_erases_what_reaches_a_share_of_the_maximum(values: list[int], alpha: float) -> None:
    erased = near_maximum(torch.tensor(values).float().reshape(1, 4, 3), alpha).flatten().tolist()
    assert erased == [value >= alpha * max(values) for value in values]
    assert erased[values.index(max(values))]


@settings(max_examples=50, deadline=None)
@given(values=levels, frac=st.floats(0, 0.9))
def test_a_share_erases_exactly_that_many_and_of_ties_the_first(values: list[int], frac: float) -> None:
    erased = most_salient(torch.tensor(values).float().reshape(1, 4, 3), frac).flatten().tolist()
    order = sorted(range(12), key=lambda position: (-values[position], position))
    assert {position for position in range(12) if erased[position]} == set(order[: round(frac * 12)])


def test_the_kept_positions_of_every_image_are_those_below_four_fifths_of_its_own_maximum() -> None:
    maps = positive_maps(5, 16, 24, 8) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0]).reshape(5, 1, 1, 1)
    dropped = drop("max_frac")(maps)
    for image, result in zip(maps, dropped, strict=True):
        salience = sum(image) / 16
        assert isinstance(salience, Tensor)
        kept = salience < 0.8 * salience.max()
        assert 0 < kept.sum() < 192
        assert not kept.flatten()[salience.argmax()]
        assert torch.equal(result, image * kept)


def test_a_fifth_of_24_x_8_positions_is_38_in_every_image() -> None:
    dropped = drop("top_frac")(positive_maps(5, 16, 24, 8))
    assert torch.equal(dropped.eq(0).all(1), dropped.eq(0).any(1))
    assert dropped.eq(0).all(1).sum((1, 2)).tolist() == [38] * 5


@both_rules
def test_nothing_is_erased_at_test(rule: DropRule) -> None:
    maps = positive_maps(2, 3, 4, 2)
    assert torch.equal(drop(rule).eval()(maps), maps)


@both_rules
def test_the_mask_carries_no_gradient_and_the_type_is_kept(rule: DropRule) -> None:
    maps = positive_maps(4, 3, 12, 8).bfloat16().requires_grad_()
    dropped = drop(rule)(maps)
    (gradient,) = torch.autograd.grad(dropped.float().sum(), maps)
    assert dropped.dtype is torch.bfloat16
    assert torch.equal(gradient, dropped.ne(0).to(gradient.dtype))


def test_an_image_without_any_activation_is_harmless() -> None:
    assert drop("max_frac")(torch.zeros(2, 3, 4, 2)).eq(0).all()


# ---- taking turns


class Scale(nn.Module):
    """Multiplies by a parameter that starts at `factor`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.factor


def turns(probability: float) -> DropOrAttend:
    return DropOrAttend(Scale(2.0), Scale(3.0), drop_probability=probability)


def factors(module: nn.Module, *, draws: int) -> list[float]:
    """What each of several forward passes multiplies a whole batch by."""
    results = [module(torch.ones(4, 1, 2, 2)) for _ in range(draws)]
    assert all(result.unique().numel() == 1 for result in results)
    return [result.flatten()[0].item() for result in results]


def test_a_batch_is_dropped_with_the_given_probability_and_attended_otherwise() -> None:
    torch.manual_seed(0)
    drawn = factors(turns(0.25), draws=2000)
    assert set(drawn) == {2.0, 3.0}
    assert drawn.count(2.0) / 2000 == pytest.approx(0.25, abs=0.03)  # three standard deviations


@pytest.mark.parametrize(("probability", "factor"), [(0.0, 3.0), (1.0, 2.0)])
def test_a_probability_of_0_or_1_always_takes_the_same(probability: float, factor: float) -> None:
    assert factors(turns(probability), draws=50) == [factor] * 50


def test_the_turns_follow_the_cpus_default_generator_one_draw_each() -> None:
    torch.manual_seed(7)
    expected = [2.0 if torch.rand(()).item() < 0.5 else 3.0 for _ in range(20)]
    torch.manual_seed(7)
    assert factors(turns(0.5), draws=20) == expected


def test_at_test_maps_are_attended_and_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    assert factors(turns(0.5).eval(), draws=5) == [3.0] * 5
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_layer_that_was_not_chosen_gets_no_gradient(probability: float) -> None:
    module = turns(probability)
    torch.autograd.backward(module(torch.ones(1, 1, 2, 2)).sum())
    without = {name for name, parameter in module.named_parameters() if parameter.grad is None}
    assert without == ({"drop.factor"} if probability == 0 else {"attend.factor"})


@both_rules
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_neither_turn_waits_for_the_device(rule: DropRule, probability: float) -> None:
    with FakeTensorMode():
        module = DropOrAttend(drop(rule), nn.Identity(), drop_probability=probability)
        assert module(torch.empty(2, 3, 4, 2)).shape == (2, 3, 4, 2)
