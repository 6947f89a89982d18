"""The nearest images of every image, exact, without a matrix of all images by all images.

Distances are made in square tiles, each of which serves its rows and its columns: the distances of i to j and of j to i
are one number, made once. Those of the queries, which re-ranking needs again at the end, are kept if they take half a
gigabyte or less, and made again if they take more.

Among images at the same distance, an image itself is its nearest, then the order is that of their positions, queries
first: neither the size of the tiles nor the number of threads decides. Images whose features are equal bit for bit
are at distance 0 from each other and at the same distance from everything else.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid.evaluation.distances import PART_VALUES, distances, hashes, slices, squared_lengths
from reid.evaluation.embeddings import Ints
from reid.evaluation.ranking import order_keys, up_to_limits

TILE = 1024  # images by images whose distances exist at a time: 4 MiB, and a matmul near its peak
KEPT_VALUES = 2**27  # distances of queries to all images that are kept for the end: 512 MiB
ROWS = 256  # images whose neighbourhoods, or queries whose overlaps, are worked out at a time

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Queries and gallery as one list of N images, queries first, without a copy of their features.

    Half the squared distance of two images is the sum of their `constants` less their product, each of them multiplied
    by its `scales`, if those are given: one over its length, and 0 for a length of 0.
    """

    query: Tensor
    gallery: Tensor
    constants: Tensor
    scales: Tensor | None

    @classmethod
    def of(cls, query: Tensor, gallery: Tensor, *, cosine: bool) -> "Images":
        """Check the features [Q, D] and [G, D], and prepare the terms; the gallery's device does the work.

        Raises:
            ValueError: a feature is not finite, or so large that its square is not.
        """
        sides = squared_lengths("query", query).to(gallery.device), squared_lengths("gallery", gallery)
        squares = torch.cat(sides)
        if not cosine:
            return cls(query=query, gallery=gallery, constants=squares / 2, scales=None)
        scales = torch.where(squares > 0, squares.rsqrt(), 0.0)
        return cls(query=query, gallery=gallery, constants=torch.full_like(squares, 0.5), scales=scales)

    def __len__(self) -> int:
        return len(self.constants)

    def features(self, rows: Ints) -> Tensor:
        """[n, D] on the gallery's device; a view where that is possible."""
        start, stop, border = int(rows[0]), int(rows[0]) + len(rows), len(self.query)
        if np.array_equal(rows, np.arange(start, stop)) and (stop <= border or start >= border):
            side = self.query[start:stop] if stop <= border else self.gallery[start - border : stop - border]
            return side.to(self.gallery.device)
        at = torch.from_numpy(rows)
        of_query = at < border
        features = self.gallery.new_empty(len(rows), self.gallery.shape[1])
        features[of_query] = self.query[at[of_query]].to(features.device)
        features[~of_query] = self.gallery[at[~of_query] - border]
        return features

    def half_distances(self, dots: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Half the squared distances from the products of images, in their place; `left` and `right` broadcast."""
        if self.scales is not None:
            dots.mul_(self.scales[left]).mul_(self.scales[right])
        return torch.sub(self.constants[right], dots, out=dots).add_(self.constants[left])

    def to_gallery(self, queries: Ints) -> Iterator[tuple[Ints, Tensor]]:
        """Some of the queries at a time, and half their squared distances to the gallery, made here."""
        cosine = self.scales is not None
        for rows, values in distances(self.query, self.gallery, queries, cosine=cosine):
            at = torch.from_numpy(rows).to(values.device)
            if self.scales is None:
                values.add_(self.constants[at, None])
            else:
                values.mul_(self.scales[at, None]).add_(1)
            yield rows, values

    def between(self, left: Ints, right: Ints) -> Floats:
        """[n] half the squared distances of pairs of images."""
        halves = np.empty(len(left), np.float32)
        for part in slices(len(left), max(1, PART_VALUES // self.gallery.shape[1])):
            dots = self.features(left[part]).mul(self.features(right[part])).sum(dim=1)
            pair = [torch.from_numpy(rows[part]).to(dots.device) for rows in (left, right)]
            halves[part] = self.half_distances(dots, pair[0], pair[1]).clamp_(min=0).cpu().numpy()
        return halves

    def originals(self) -> Ints:
        """[N] the first image whose features are equal bit for bit."""
        named = np.concatenate([hashes(side).cpu().numpy() for side in (self.query, self.gallery)])
        _, first, group = np.unique(named, return_index=True, return_inverse=True)
        earlier: Ints = first[group]
        if self.scales is not None:  # without a direction, images are as far from each other as from the rest
            earlier = np.where(self.scales.cpu().numpy() > 0, earlier, np.arange(len(self)))
        repeats = np.flatnonzero(earlier != np.arange(len(self)))
        for part in slices(len(repeats), max(1, PART_VALUES // self.gallery.shape[1])):
            rows = repeats[part]
            same = (self.features(rows) == self.features(earlier[rows])).all(dim=1).cpu().numpy()
            earlier[rows[~same]] = rows[~same]
        return earlier


@dataclass(frozen=True, kw_only=True, eq=False)
class Near:
    """The nearest images of each image, from near to far, itself first.

    Attributes:
        index: [N, k] images.
        halves: [N, k] half their squared distances.
        far: [N] the largest one of all images; 1 where that is 0.
    """

    index: Ints
    halves: Floats
    far: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """Half the squared distances of the queries to all images, of those that are equal only the first.

    Attributes:
        halves: [distinct queries, distinct images].
        number: [N] the distinct image that an image is equal to.
        border: how many images are queries.
    """

    halves: Tensor
    number: Tensor
    border: int

    @classmethod
    def empty(cls, distinct: Ints, number: Ints, images: Images) -> "Kept | None":
        """Room for them; None if they are too many."""
        border = len(images.query)
        shape = int(np.searchsorted(distinct, border)), len(distinct)
        if shape[0] * shape[1] > KEPT_VALUES:
            return None
        device = images.gallery.device
        return cls(halves=torch.empty(shape, device=device), number=torch.from_numpy(number).to(device), border=border)

    def keep(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Copy what a tile says of queries, along both of its sides; an image is before itself, not at distance 0."""
        for part, values in ((self.halves[rows, columns], tile), (self.halves[columns, rows], tile.T)):
            part.copy_(values[: len(part)])

    def to_gallery(self, queries: Ints) -> Iterator[tuple[Ints, Tensor]]:
        """Some of the queries at a time, and half their squared distances to the gallery, read."""
        columns = self.number[self.border :]
        for part in slices(len(queries), max(1, PART_VALUES // len(columns))):
            rows = torch.from_numpy(queries[part]).to(columns.device)
            yield queries[part], self.halves[self.number[rows, None], columns]


def nearest(images: Images, count: int) -> tuple[Near, Kept | None]:
    """The `count` nearest images of each, or as many as there are; and what was kept of the distances."""
    distinct, number = np.unique(images.originals(), return_inverse=True)
    kept = Kept.empty(distinct, number, images)
    lists = _Lists(len(distinct), min(count, len(distinct)), images.gallery.device)
    blocks = slices(len(distinct), TILE)
    for last, columns in enumerate(blocks):
        right, at_right = images.features(distinct[columns]), torch.from_numpy(distinct[columns]).to(lists.far.device)
        for rows in blocks[: last + 1]:  # whatever the block, the others come to it in their order
            at_left = torch.from_numpy(distinct[rows]).to(lists.far.device)
            tile = images.half_distances(images.features(distinct[rows]) @ right.T, at_left[:, None], at_right)
            if rows == columns:
                tile.fill_diagonal_(-torch.inf)  # an image is its own nearest, whatever the rounding
            else:
                lists.offer(columns, tile, rows, dim=0)
            lists.offer(rows, tile, columns, dim=1)
            if kept:
                kept.keep(tile, rows, columns)
    near = lists.near()
    return near if len(distinct) == len(images) else _with_repeats(near, number, count), kept


class _Lists:
    """The nearest images so far. Of equal ones, the first that were offered are kept, and stay in front."""

    def __init__(self, total: int, count: int, device: torch.device) -> None:
        self.halves = torch.full((total, count), torch.inf, device=device)
        self.index = torch.zeros((total, count), dtype=torch.int64, device=device)
        self.far = torch.zeros(total, device=device)

    def offer(self, own: slice, tile: Tensor, others: slice, *, dim: int) -> None:
        """Show the images `own` their distances to `others`, which are along dimension `dim` of the tile."""
        torch.maximum(self.far[own], tile.amax(dim), out=self.far[own])
        kept, count = self.halves[own], self.halves.shape[1]
        limits = torch.nextafter(kept[:, -1], kept.new_tensor(-torch.inf))
        if bool(kept[:, -1].isinf().any()):  # a list that is not full has no limit, but no use for the whole tile
            some = tile.narrow(dim, 0, min(8 * count, tile.shape[dim]))
            limits = torch.minimum(
                limits, some.topk(min(count, some.shape[dim]), dim=dim, largest=False).values.amax(dim)
            )
        found = up_to_limits(tile, limits.unsqueeze(dim))
        places = found // tile.shape[1], found % tile.shape[1]
        halves = torch.cat([kept.flatten(), tile.view(-1).index_select(0, found)])
        index = torch.cat([self.index[own].flatten(), places[dim] + others.start])
        rows = torch.cat([torch.arange(len(kept), device=found.device).repeat_interleave(count), places[1 - dim]])
        order = order_keys(halves, rows).argsort(stable=True)
        sizes = torch.bincount(rows)
        keep = order[(sizes.cumsum(0) - sizes)[:, None] + torch.arange(count, device=found.device)]
        self.halves[own], self.index[own] = halves[keep], index[keep]

    def near(self) -> Near:
        """What is kept, on the host."""
        kept = self.index, self.halves.clamp(min=0), torch.where(self.far > 0, self.far, 1.0)
        index, halves, far = (numbers.cpu().numpy() for numbers in kept)
        return Near(index=index, halves=halves, far=far)


def _with_repeats(near: Near, number: Ints, count: int) -> Near:
    """From the nearest of the distinct images to the nearest of all, whose distinct image is `number` [N].

    A distinct image that is not among the `count` nearest has as many images before it, and so have all equal to it.
    """
    members, sizes = np.argsort(number, kind="stable"), np.bincount(number)
    starts, counts = np.cumsum(sizes) - sizes, np.minimum(sizes, count)
    index = np.empty((len(number), min(count, len(number))), np.int64)
    halves = np.empty(index.shape, np.float32)
    for part in slices(len(number), ROWS):
        rows = np.arange(part.start, part.stop)
        groups, values = near.index[number[part]], near.halves[number[part]]
        repeats = counts[groups].ravel()
        others = members[ragged(starts[groups].ravel(), repeats)]
        owners = np.repeat(np.repeat(rows, groups.shape[1]), repeats)
        other = others != owners  # the image itself goes in front, wherever it stands among its equals
        owners, others = np.concatenate([rows, owners[other]]), np.concatenate([rows, others[other]])
        values = np.concatenate([np.full(len(rows), -1, np.float32), np.repeat(values.ravel(), repeats)[other]])
        order = np.lexsort((others, values, owners))
        keep = order[np.searchsorted(owners[order], rows)[:, None] + np.arange(index.shape[1])]
        index[part], halves[part] = others[keep], values[keep]
    return Near(index=index, halves=halves.clip(min=0), far=near.far[number])


def ragged(starts: Ints, counts: Ints) -> Ints:
    """Each start and the `count` - 1 numbers after it, one after the other."""
    ends = np.cumsum(counts)
    positions: Ints = np.arange(int(counts.sum())) + np.repeat(starts - (ends - counts), counts)
    return positions
