"""The drop operators: which positions they erase, how often, and that they leave a test alone."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import DropBlock2d

from reid.parts.drop import BatchDropBlock, BatchDropout, DropBlock, drop_operator

NAMES = [
    "none",
    "dropout",
    "spatial_dropout",
    "batch_dropout",
    "dropblock_single",
    "batch_dropblock",
    "dropblock",
    "dropblock_plus",
]


def erased(operator: nn.Module, *shape: int) -> Tensor:
    """Which elements of an all-ones map of this shape the operator sets to zero."""
    zeros: Tensor = operator(torch.ones(shape)) == 0
    return zeros


def is_rectangle(mask: Tensor) -> bool:
    rows, columns = mask.any(1), mask.any(0)
    runs = [(line.nonzero().max() - line.nonzero().min() + 1 == line.sum()).item() for line in (rows, columns)]
    return all(runs) and torch.equal(mask, rows[:, None] & columns[None, :])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_erased_at_test(name: str) -> None:
    maps = torch.randn(4, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drop_operator(name).eval()(maps), maps)


@pytest.mark.parametrize("name", NAMES)
def test_shape_type_and_gradient_are_kept(name: str) -> None:
    torch.manual_seed(0)
    maps = torch.rand(4, 3, 12, 8).add(1).bfloat16().requires_grad_()  # no zeros but the operator's
    dropped = drop_operator(name)(maps)
    (gradient,) = torch.autograd.grad(dropped.sum(), maps)
    assert (dropped.shape, dropped.dtype) == (maps.shape, maps.dtype)
    assert torch.equal(gradient == 0, dropped == 0)


@pytest.mark.parametrize(("ratio", "rows"), [(0.3, 7), (0.33, 8), (0.5, 12), (0.0, 0)])
def test_batch_dropblock_erases_the_same_full_rows_everywhere(ratio: float, rows: int) -> None:
    torch.manual_seed(0)
    mask = erased(BatchDropBlock(ratio, 1.0), 6, 5, 24, 8)
    assert torch.equal(mask, mask[:1, :1].expand_as(mask))
    lines = mask[0, 0].all(1)
    assert torch.equal(mask[0, 0].any(1), lines)
    assert lines.sum() == rows
    assert "1" * rows in "".join(str(int(line)) for line in lines)


def test_every_place_of_the_block_is_equally_likely() -> None:
    torch.manual_seed(0)
    operator = BatchDropBlock(0.5, 0.5)
    draws = [erased(operator, 1, 1, 4, 4)[0, 0].nonzero()[0].tolist() for _ in range(1800)]
    counts = {place: draws.count(list(place)) for place in itertools.product(range(3), range(3))}
    assert sum(counts.values()) == 1800
    assert all(140 < count < 260 for count in counts.values())  # 200 expected, standard deviation 13


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    ratios=st.tuples(st.floats(0, 0.95), st.floats(0, 0.95)),
    groups=st.sampled_from([None, 1, 2, 3]),
)
def test_every_image_loses_one_rectangle_of_the_rounded_size(
    height: int, width: int, ratios: tuple[float, float], groups: int | None
) -> None:
    size = (round(ratios[0] * height), round(ratios[1] * width))
    if size == (height, width):
        return
    mask = erased(BatchDropBlock(*ratios, groups=groups), 6, 2, height, width)
    assert torch.equal(mask[:, 0], mask[:, 1])
    for image in mask[:, 0]:
        assert image.sum() == size[0] * size[1]
        assert not image.any() or is_rectangle(image)


def test_groups_of_consecutive_images_share_a_block() -> None:
    torch.manual_seed(0)
    mask = erased(BatchDropBlock(0.3, 0.3, groups=4), 10, 1, 40, 40)  # runs of 3, 3, 3 and 1
    for run in torch.split(mask, 3):
        assert torch.equal(run, run[:1].expand_as(run))
    firsts = mask[::3]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(firsts, 2))


def test_single_blocks_differ_between_images() -> None:
    torch.manual_seed(0)
    mask = erased(drop_operator("dropblock_single"), 8, 3, 96, 8)
    tops = {int(image[0, :, 0].nonzero()[0]) for image in mask}
    assert len(tops) > 4


def test_a_block_as_large_as_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"block of 0\.9 x 1 .* covers all of a 4 x 2 map; make one of the ratios"):
        BatchDropBlock(0.9, 1.0)(torch.ones(1, 1, 4, 2))


def test_batch_dropout_shares_single_positions_over_images_and_channels() -> None:
    torch.manual_seed(0)
    mask = erased(BatchDropout(0.3), 4, 3, 100, 100)
    assert torch.equal(mask, mask[:1, :1].expand_as(mask))
    assert mask[0, 0].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert (mask[0, 0, 1:] & mask[0, 0, :-1]).float().mean().item() == pytest.approx(0.09, abs=0.015)  # independent


@pytest.mark.parametrize("name", ["batch_dropout", "dropblock_single", "batch_dropblock"])
def test_operators_of_bdb_do_not_rescale(name: str) -> None:
    torch.manual_seed(0)
    assert drop_operator(name)(torch.ones(4, 3, 24, 8)).unique().tolist() == [0.0, 1.0]


def test_dropouts_rescale_and_spatial_dropout_erases_whole_channels() -> None:
    torch.manual_seed(0)
    elements = drop_operator("dropout", p=0.5)(torch.ones(4, 50, 24, 8))
    channels = drop_operator("spatial_dropout", p=0.5)(torch.ones(4, 50, 24, 8))
    assert elements.unique().tolist() == channels.unique().tolist() == [0.0, 2.0]
    assert (elements == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    zero = channels == 0
    assert torch.equal(zero, zero[:, :, :1, :1].expand_as(zero))
    assert 0.3 < zero.float().mean().item() < 0.7


def test_dropblock_plus_keeps_91_percent_of_sonas_map() -> None:
    torch.manual_seed(0)
    kept = DropBlock(0.1, (5, 8)).kept(torch.empty(2000, 1, 48, 16))
    assert kept.mean().item() == pytest.approx(0.91, abs=0.01)
    assert (kept.amin((1, 2, 3)) == 1).float().mean().item() == pytest.approx(0.14, abs=0.03)  # untouched images


def test_gamma_as_the_rate_of_seeds_keeps_4_percent_of_sonas_map() -> None:
    torch.manual_seed(0)
    kept = DropBlock(0.1, (5, 8), gamma_is="seed_rate").kept(torch.empty(2000, 1, 48, 16))
    assert kept.shape == (2000, 1, 48, 16)
    assert kept.mean().item() == pytest.approx(0.038, abs=0.002)
    # A position is kept if none of the positions whose block covers it is a seed: 5 rows and 8 columns, less the edges.
    rows = torch.tensor([len(range(max(row - 2, 0), min(row + 2, 47) + 1)) for row in range(48)])
    columns = torch.tensor([len(range(max(column - 4, 0), min(column + 3, 15) + 1)) for column in range(16)])
    expected = 0.9 ** (rows[:, None] * columns[None, :])
    torch.testing.assert_close(kept.mean((0, 1)), expected, rtol=0, atol=0.045)
    assert kept.mean().item() == pytest.approx(expected.mean().item(), abs=0.002)


def test_dropblock_erases_unions_of_whole_blocks_shared_over_channels() -> None:
    torch.manual_seed(0)
    height, width, block = 12, 9, (3, 2)
    mask = erased(DropBlock(0.3, block), 50, 2, height, width)
    assert torch.equal(mask[:, 0], mask[:, 1])
    for image in mask[:, 0]:
        union = torch.zeros(height, width, dtype=torch.bool)
        for top, left in itertools.product(range(height - block[0] + 1), range(width - block[1] + 1)):
            inside = image[top : top + block[0], left : left + block[1]]
            if inside.all():
                union[top : top + block[0], left : left + block[1]] = True
        assert torch.equal(union, image)
    seen = mask[:, 0].any(0)
    assert seen.all()  # every position, corners too, can be erased


@pytest.mark.parametrize(("side", "drop_prob"), [(1, 0.3), (3, 0.2), (7, 0.1), (7, 0.9)])
def test_dropblock_is_torchvisions(monkeypatch: pytest.MonkeyPatch, side: int, drop_prob: float) -> None:
    """On a map of one channel, given the same random numbers; torchvision's own are another stream of them."""
    numbers = torch.rand(40, 1, 24 - side + 1, 9 - side + 1, generator=torch.Generator().manual_seed(side))
    drawn: list[tuple[int, ...]] = []

    def rand(shape: tuple[int, ...], **_: object) -> Tensor:
        drawn.append(tuple(shape))
        return numbers

    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(Tensor, "bernoulli_", lambda seeds, rate: seeds.copy_(numbers < rate))
    maps = torch.randn(40, 1, 24, 9, generator=torch.Generator().manual_seed(0))
    ours, theirs = DropBlock(drop_prob, (side, side)), DropBlock2d(drop_prob, side)
    torch.testing.assert_close(ours(maps), theirs(maps))
    assert drawn == [tuple(numbers.shape)]
    assert (ours(maps) == 0).any()


def test_dropblock_keeps_the_mean_of_a_constant_map() -> None:
    torch.manual_seed(0)
    dropped = DropBlock()(torch.ones(16, 4, 24, 8))
    assert (dropped == 0).any()
    assert dropped.mean().item() == pytest.approx(1.0, abs=1e-4)


def test_dropblock_shrinks_to_a_small_map_and_survives_erasing_all_of_it() -> None:
    torch.manual_seed(0)
    dropped = DropBlock(1.0)(torch.ones(4, 1, 3, 2))
    assert dropped.count_nonzero() == 0
    share = (DropBlock(0.1).kept(torch.empty(4000, 1, 3, 2)) == 0).float().mean().item()
    assert share == pytest.approx(0.1, abs=0.02)


def test_default_parameters_are_the_published_ones() -> None:
    assert settings_of("dropout") == {"p": 0.3, "channels": False}
    assert settings_of("spatial_dropout") == {"p": 0.3, "channels": True}
    assert settings_of("batch_dropout") == {"p": 0.3}
    assert settings_of("dropblock") == {"drop_prob": 0.1, "block": (7, 7), "gamma_is": "drop_prob"}
    assert settings_of("dropblock_plus") == {"drop_prob": 0.1, "block": (5, 8), "gamma_is": "drop_prob"}
    assert settings_of("batch_dropblock") == {"height_ratio": 0.3, "width_ratio": 1.0, "groups": 1}
    assert settings_of("dropblock_single") == {"height_ratio": 0.3, "width_ratio": 1.0, "groups": None}


def settings_of(name: str) -> dict[str, object]:
    public = {key: value for key, value in vars(drop_operator(name)).items() if not key.startswith("_")}
    return {key: value for key, value in public.items() if key != "training"}


def test_an_unknown_operator_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown drop operator 'drop_block'.*did you mean 'dropblock'\?"):
        drop_operator("drop_block")
