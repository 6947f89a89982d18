"""Power pooling against its formula, at its limits, where powers overflow, and at the borders of its exponent."""

import pytest
import torch
from torch import Tensor

from reid.parts.gem import GeneralisedMean
from reid.parts.pooling import global_average, global_max
from reid.parts.power_pooling import PowerPooling, make_pool, power_mean

EXPONENTS = [1.0, 1.5, 3.0, 8.0]


def maps(*, zeros: float = 0.0) -> Tensor:
    """[3, 5, 6, 4] in 0.1 to 3, double precision, a share of them zero."""
    generator = torch.Generator().manual_seed(0)
    values = 0.1 + 2.9 * torch.rand(3, 5, 6, 4, generator=generator, dtype=torch.float64)
    return values * (torch.rand(values.shape, generator=generator) >= zeros)


def pooling(exponent: float, *, per_channel: bool = False) -> PowerPooling:
    """In double precision; the channels' exponents differ, the first has `exponent`."""
    pool = PowerPooling(exponent, channels=5 if per_channel else None).double()
    with torch.no_grad():
        pool.exponent.add_(torch.arange(pool.exponent.numel()).reshape(pool.exponent.shape) * 0.3)
    return pool


def literal(values: Tensor, exponent: Tensor) -> Tensor:
    """Equation 6."""
    power = exponent.detach().reshape(-1, 1, 1)
    return values.pow(power).sum((2, 3)) / values.pow(power - 1).sum((2, 3))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_it_is_equation_6(exponent: float, per_channel: bool) -> None:
    pool = pooling(exponent, per_channel=per_channel)
    torch.testing.assert_close(pool(maps()), literal(maps(), pool.exponent), rtol=1e-12, atol=0)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_gradient_of_the_exponent_is_equation_7(exponent: float, per_channel: bool) -> None:
    pool, values = pooling(exponent, per_channel=per_channel), maps()
    power = pool.exponent.detach().reshape(-1, 1, 1)

    def mean_log(weights: Tensor) -> Tensor:
        return (weights * values.log()).sum((2, 3)) / weights.sum((2, 3))

    derivative = literal(values, power) * (mean_log(values**power) - mean_log(values ** (power - 1)))  # [B, C]
    expected = derivative.sum(0) if per_channel else derivative.sum()
    (gradient,) = torch.autograd.grad(pool(values).sum(), pool.exponent)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_with_exponent_1_it_is_the_mean() -> None:
    values = maps(zeros=0.5).float()
    torch.testing.assert_close(PowerPooling(1.0)(values), values.mean((2, 3)))


def test_with_exponent_200_it_is_nearly_the_maximum() -> None:
    values = torch.rand(4, 8, 24, 8, generator=torch.Generator().manual_seed(1)) * 30
    pooled, maximum = power_mean(values, torch.tensor(200.0)), values.amax((2, 3))
    assert (pooled <= maximum * 1.0001).all()
    assert (pooled > 0.99 * maximum).all()


@pytest.mark.parametrize("exponent", [1.0, 20.0, 60.0])
def test_no_power_overflows(exponent: float) -> None:
    values = torch.rand(4, 8, 24, 8, generator=torch.Generator().manual_seed(1)) * 30
    values[:, 0], values[:, 1, :12] = 30, 0
    values.requires_grad_()
    power = torch.tensor(exponent, requires_grad=True)
    pooled = power_mean(values, power)
    assert all(tensor.isfinite().all() for tensor in (pooled, *torch.autograd.grad(pooled.sum(), [values, power])))
    assert literal(values, power).isfinite().all().item() == (exponent < 60)  # the formula as printed does


def test_zeros_count_at_1_and_hardly_above_it() -> None:
    values = torch.tensor([0.0, 0.0, 2.0, 4.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    assert power_mean(values, torch.tensor(1.0)).item() == pytest.approx(6 / 4)
    assert power_mean(values, torch.tensor(2.0)).item() == pytest.approx(20 / 6, rel=1e-6)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("exponent", range(1, 9))
def test_the_spread_is_the_gradient_of_autograd(exponent: int, per_channel: bool) -> None:
    pool, values = pooling(exponent, per_channel=per_channel), maps(zeros=0.4).requires_grad_()
    gradient = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (expected,) = torch.autograd.grad(pool(values), values, gradient)
    torch.testing.assert_close(pool.spread(values.detach(), gradient), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_gradient_times_map_is_the_closed_form(exponent: float) -> None:
    """G w (a + (l - 1) (a - F) [a > eps]), with w and F written out."""
    values, gradient = maps(zeros=0.4), torch.randn(3, 5, generator=torch.Generator().manual_seed(2)).double()
    weights = values.clamp(min=1e-6) ** (exponent - 1)
    weights = weights / weights.sum((2, 3), keepdim=True)
    pooled = (weights * values).sum((2, 3), keepdim=True)
    steeper = (exponent - 1) * (values - pooled) * (values > 1e-6)
    expected = gradient[:, :, None, None] * weights * (values + steeper)
    torch.testing.assert_close(pooling(exponent).spread(values, gradient) * values, expected, rtol=1e-9, atol=1e-14)


def test_it_is_computed_in_float32() -> None:
    pool, rounded = PowerPooling(3.0), maps(zeros=0.2).bfloat16()
    assert torch.equal(pool(rounded), pool(rounded.float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pool(rounded), pool(rounded.float()))
    assert pool(rounded).dtype is torch.float32


# ---- the range of the exponent


@pytest.mark.parametrize(("outside", "border"), [(0.3, 1.0), (99.0, 50.0)])
def test_training_puts_the_exponent_back_and_a_test_only_reads_it(outside: float, border: float) -> None:
    pool, values = PowerPooling(outside), maps().float()
    expected = PowerPooling(border)(values)
    torch.testing.assert_close(pool.eval()(values), expected)
    assert pool.exponent.item() == pytest.approx(outside)
    torch.testing.assert_close(pool.train()(values), expected)
    assert pool.exponent.item() == border


@pytest.mark.parametrize("start", [1.0, 0.3, 50.0, 99.0])
def test_the_gradient_passes_at_the_borders(start: float) -> None:
    pool, values = PowerPooling(start), maps()[:, :, :2].float()
    (gradient,) = torch.autograd.grad(pool(values).sum(), pool.exponent)
    free = torch.tensor(pool.exponent.item(), requires_grad=True)
    (expected,) = torch.autograd.grad(power_mean(values, free).sum(), free)
    torch.testing.assert_close(gradient, expected)
    assert gradient > 0


def test_the_exponent_leaves_the_border_with_the_first_step_that_asks_for_it() -> None:
    pool, values = PowerPooling(1.0), maps().float()
    optimiser = torch.optim.SGD(pool.parameters(), 0.01)
    for direction, expected in [(1, 1.0), (1, 1.0), (1, 1.0), (-1, None)]:
        optimiser.zero_grad()
        torch.autograd.backward(direction * pool(values).mean())
        assert pool.exponent.item() == 1.0
        optimiser.step()
        pool(values)
        assert (pool.exponent.item() == expected) if expected else pool.exponent.item() > 1.001


def test_several_forwards_before_a_backward_do_not_disturb_it() -> None:
    pool, values = PowerPooling(0.5), maps().float()
    losses = [pool(values).sum() for _ in range(3)]
    torch.autograd.backward(losses)
    once = PowerPooling(1.0)
    torch.autograd.backward(once(values).sum())
    assert pool.exponent.grad is not None
    assert once.exponent.grad is not None
    torch.testing.assert_close(pool.exponent.grad, 3 * once.exponent.grad)


# ---- choosing one


def test_poolings_by_name() -> None:
    assert make_pool("gap", initial=1.0, channels=None) is global_average
    assert make_pool("gmp", initial=1.0, channels=None) is global_max
    generalised, shared, own = (make_pool(name, initial=2.0, channels=c) for name, c in _KINDS)
    assert isinstance(generalised, GeneralisedMean)
    assert isinstance(shared, PowerPooling)
    assert isinstance(own, PowerPooling)
    assert shared.exponent.item() == 2.0
    assert shared.exponent.shape == ()
    assert own.exponent.tolist() == [2.0, 2.0, 2.0]


_KINDS: list[tuple[str, int | None]] = [("gem", None), ("ppool", None), ("ppool", 3)]


def test_an_unknown_pooling_is_named_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown pooling 'pool', allowed: gap, gem, gmp, ppool; did you mean 'ppool'"
    ):
        make_pool("pool", initial=1.0, channels=None)
