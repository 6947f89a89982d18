"""P x K batches: P identities with K images each, and two definitions of an epoch."""

from typing import Literal

import torch
from torch import Tensor


class IdentitySampler:
    """Draws an epoch of batches of P distinct identities with K images each (Hermans et al., In Defense, section 2).

    `ids_once` (the code of BDB): every identity once, with K of its images at random; a last, short batch is dropped.
    `images_once` (the code of Bag of Tricks): every identity's images are shuffled and cut into groups of K, what is
    left over is dropped; each batch takes one group of P random identities that still have one, until fewer than P do.
    An identity with fewer than K images gives K drawn with replacement: one group.

    Args:
        labels: int64 [n], on the CPU.
        identities: P.
        images: K.
        epoch: which of the two.
        generator: the source of every draw; an epoch is a function of its state.

    Raises:
        ValueError: there are fewer than P identities.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        identities: int,
        images: int,
        epoch: Literal["ids_once", "images_once"],
        generator: torch.Generator,
    ) -> None:
        self._labels, self._identities, self._images = labels, identities, images
        self._draw_epoch = {"ids_once": self._ids_once, "images_once": self._images_once}[epoch]
        self._generator = generator
        counts = torch.unique(labels, return_counts=True)[1]
        if len(counts) < identities:
            raise ValueError(
                f"a batch of {identities} identities cannot be drawn from the {len(counts)} of the training set: "
                f"lower recipe.sampler.identities"
            )
        self._counts, self._starts = counts, counts.cumsum(0) - counts

    def epoch(self) -> Tensor:
        """Indices into `labels`, int64 [batches, P * K]; the K images of an identity are neighbours."""
        return self._draw_epoch()

    def _ids_once(self) -> Tensor:
        first = self._groups(self._shuffled(), torch.zeros_like(self._counts))
        batches = len(first) // self._identities
        order = self._permutation(len(first))[: batches * self._identities]
        return first[order].view(batches, -1)

    def _images_once(self) -> Tensor:
        order = self._shuffled()
        left = (self._counts // self._images).clamp(min=1)
        total = left.clone()
        batches = []
        while len(available := left.nonzero().squeeze(1)) >= self._identities:
            chosen = available[self._permutation(len(available))[: self._identities]]
            batches.append((chosen, (total - left)[chosen]))
            left[chosen] -= 1
        owners, ranks = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return self._groups(order, ranks, owners).view(len(batches), -1)

    def _shuffled(self) -> Tensor:
        """All indices ordered by label, in random order within a label."""
        order = self._permutation(len(self._labels))
        return order[self._labels[order].argsort(stable=True)]

    def _groups(self, order: Tensor, ranks: Tensor, owners: Tensor | None = None) -> Tensor:
        """The `ranks`-th K images of each of the `owners` (all identities by default), [len(ranks), K]."""
        counts, starts = (values if owners is None else values[owners] for values in (self._counts, self._starts))
        in_turn = ranks[:, None] * self._images + torch.arange(self._images)
        chance = torch.rand(len(ranks), self._images, generator=self._generator, dtype=torch.float64)
        replaced = (chance * counts[:, None]).long()
        return order[starts[:, None] + torch.where(counts[:, None] < self._images, replaced, in_turn)]

    def _permutation(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self._generator)
