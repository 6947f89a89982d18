"""Generalised-mean pooling against its formula, at its limits and where powers overflow."""

import pytest
import torch

from reid.parts.gem import GeneralisedMean


def maps() -> torch.Tensor:
    return torch.rand(3, 5, 6, 4, generator=torch.Generator().manual_seed(0)) * 30


@pytest.mark.parametrize("p", [0.5, 2.0, 3.0, 6.5])
def test_it_is_the_formula(p: float) -> None:
    expected = maps().double().pow(p).mean((2, 3)).pow(1 / p).float()
    torch.testing.assert_close(GeneralisedMean(p)(maps()), expected)


def test_with_exponent_1_it_is_the_mean() -> None:
    torch.testing.assert_close(GeneralisedMean(1.0)(maps()), maps().mean((2, 3)))


def test_with_a_large_exponent_it_is_nearly_the_maximum() -> None:
    pooled, maximum = GeneralisedMean(500.0)(maps()), maps().amax((2, 3))
    assert (pooled <= maximum * 1.0001).all()
    assert (pooled > 0.99 * maximum).all()  # 24 positions: at least 24^(-1/500) of it


def test_the_gradients_are_those_of_the_formula() -> None:
    pool, values, exact = GeneralisedMean(), maps().requires_grad_(), maps().double().requires_grad_()
    p = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(pool(values).sum(), [values, pool.p])
    formula = torch.autograd.grad(exact.pow(p).mean((2, 3)).pow(1 / p).sum(), [exact, p])
    for one, other in zip(ours, formula, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-3, 1e4])
def test_constant_maps_keep_their_value_and_finite_gradients(value: float) -> None:
    pool, values = GeneralisedMean(60.0), torch.full((1, 1, 4, 4), value, requires_grad=True)
    pooled = pool(values)
    assert pooled.item() == pytest.approx(value, rel=1e-4, abs=1.1e-6)
    assert all(g.isfinite().all() for g in torch.autograd.grad(pooled.sum(), [values, pool.p]))


def test_it_is_computed_in_float32() -> None:
    rounded = maps().bfloat16()
    assert torch.equal(GeneralisedMean()(rounded), GeneralisedMean()(rounded.float()))
