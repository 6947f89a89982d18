from collections import Counter
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reid.data.sampler import IdentitySampler

Epoch = Literal["ids_once", "images_once"]


def draw(labels: Tensor, identities: int, images: int, epoch: Epoch, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return IdentitySampler(labels, identities=identities, images=images, epoch=epoch, generator=generator).epoch()


@st.composite
def problems(draw_: st.DrawFn) -> tuple[Tensor, int, int]:
    """Labels in random order, P and K."""
    counts = draw_(st.lists(st.integers(1, 11), min_size=1, max_size=12))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return torch.tensor(draw_(st.permutations(labels))), draw_(st.integers(1, len(counts))), draw_(st.integers(1, 5))


@given(problems(), st.sampled_from(["ids_once", "images_once"]), st.integers(0, 1000))
def test_a_batch_is_p_identities_with_k_images(problem: tuple[Tensor, int, int], epoch: Epoch, seed: int) -> None:
    labels, identities, images = problem
    batches = draw(labels, identities, images, epoch, seed)
    assert batches.dtype == torch.int64
    assert batches.shape[1] == identities * images
    for batch in batches:
        groups = labels[batch].view(identities, images)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == identities
        for label, group in zip(groups[:, 0], batch.view(identities, images), strict=True):
            if (labels == label).sum() >= images:
                assert len(set(group.tolist())) == images


@given(problems(), st.integers(0, 1000))
def test_ids_once_shows_no_identity_twice_and_drops_one_short_batch(
    problem: tuple[Tensor, int, int], seed: int
) -> None:
    labels, identities, images = problem
    batches = draw(labels, identities, images, "ids_once", seed)
    shown = labels[batches].view(-1, images)[:, 0]
    total = len(set(labels.tolist()))
    assert len(batches) == total // identities
    assert len(set(shown.tolist())) == len(shown) == total // identities * identities


@given(problems(), st.integers(0, 1000))
def test_images_once_uses_up_the_groups(problem: tuple[Tensor, int, int], seed: int) -> None:
    labels, identities, images = problem
    batches = draw(labels, identities, images, "images_once", seed)
    counts = Counter(labels.tolist())
    groups = {label: max(1, count // images) for label, count in counts.items()}
    used = Counter(labels[batches].view(-1, images)[:, 0].tolist())
    assert all(used[label] <= groups[label] for label in groups)
    # It stops only when fewer than P identities have a group left, and no sooner.
    assert sum(groups[label] > used[label] for label in groups) < identities
    # No image twice, but for identities with fewer than K.
    shown = Counter(batches.flatten().tolist())
    assert all(times == 1 for index, times in shown.items() if counts[int(labels[index])] >= images)


def test_images_once_stops_at_the_first_batch_it_cannot_fill() -> None:
    """Before every batch at least P identities had a group left: replayed here batch by batch."""
    labels = torch.arange(10).repeat_interleave(torch.tensor([4, 8, 12, 16, 20, 4, 4, 8, 8, 40]))
    for seed in range(20):
        left = Counter({label: count // 4 for label, count in Counter(labels.tolist()).items()})
        for batch in draw(labels, 3, 4, "images_once", seed):
            assert sum(count > 0 for count in left.values()) >= 3
            left.subtract(labels[batch][::4].tolist())
        assert min(left.values()) >= 0


def test_every_image_can_be_drawn_equally_often() -> None:
    labels = torch.arange(6).repeat_interleave(8)
    generator = torch.Generator().manual_seed(0)
    sampler = IdentitySampler(labels, identities=3, images=2, epoch="ids_once", generator=generator)
    shown = torch.stack([sampler.epoch() for _ in range(2000)]).flatten().bincount(minlength=48)
    # 2000 epochs show 2 of the 8 images of every identity: binomial, mean 500, standard deviation 19.4.
    assert ((shown - 500).abs() < 100).all()


def test_few_images_are_drawn_with_replacement() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    generator = torch.Generator().manual_seed(0)
    sampler = IdentitySampler(labels, identities=2, images=4, epoch="ids_once", generator=generator)
    drawn = torch.cat([batch[labels[batch] == 0] for _ in range(1500) for batch in sampler.epoch()]).view(-1, 4)
    outcomes = Counter(tuple(row.tolist()) for row in drawn)
    assert len(outcomes) == 81  # every one of 3^4 sequences
    assert max(outcomes.values()) < 45  # of 1500 / 81 = 18.5 expected


def test_market_sized_epochs_have_the_published_lengths() -> None:
    """751 identities, 12,936 images: 23 batches of 32 x 4, and about 185 of 16 x 4 (methods.md 1.3)."""
    counts = torch.full((751,), 12_936 // 751)
    counts[: 12_936 - int(counts.sum())] += 1
    labels = torch.arange(751).repeat_interleave(counts)
    assert len(draw(labels, 32, 4, "ids_once")) == 23
    assert 170 <= len(draw(labels, 16, 4, "images_once")) <= 202


@pytest.mark.parametrize("epoch", ["ids_once", "images_once"])
def test_the_generator_alone_decides(epoch: Epoch) -> None:
    labels = torch.arange(8).repeat_interleave(9)
    torch.manual_seed(1)
    first = draw(labels, 4, 2, epoch, seed=7)
    torch.manual_seed(2)
    assert torch.equal(first, draw(labels, 4, 2, epoch, seed=7))
    assert not torch.equal(first, draw(labels, 4, 2, epoch, seed=8))


@pytest.mark.parametrize("epoch", ["ids_once", "images_once"])
def test_an_epoch_continues_from_the_state_of_the_generator(epoch: Epoch) -> None:
    labels, generator = torch.arange(8).repeat_interleave(5), torch.Generator().manual_seed(0)
    sampler = IdentitySampler(labels, identities=4, images=2, epoch=epoch, generator=generator)
    sampler.epoch()
    state = generator.get_state()
    second = sampler.epoch()
    resumed = torch.Generator()
    resumed.set_state(state)
    again = IdentitySampler(labels, identities=4, images=2, epoch=epoch, generator=resumed)
    assert torch.equal(again.epoch(), second)


def test_more_identities_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"32 identities cannot be drawn from the 3 .* recipe.sampler.identities"):
        draw(torch.tensor([0, 1, 2, 2]), 32, 4, "ids_once")
