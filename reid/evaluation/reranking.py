"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), exact, without a matrix of all images by all images.

Over all N images, queries and gallery together, with d(i, j) the squared Euclidean distance divided by the largest one
of i, and "the k nearest" counting i itself:

* R(i, k): those of the k + 1 nearest of i that have i among their own k + 1 nearest.
* R*(i): R(i, k1), and for each q in it also R(q, round(k1 / 2)) if more than 2/3 of that lies in R(i, k1).
* V_i = exp(-d(i, j)) for j in R*(i), 0 elsewhere, divided by its sum; then the mean of V over the k2 nearest of i.
* d_J = 1 - m / (2 - m) with m the sum over j of min(V_i(j), V_g(j)), and the final distance (1 - w) d_J + w d.

What is kept of an image is its neighbours and the few numbers of V that are not 0. Distances are made in square tiles,
each of which serves its rows and its columns: the distances of i to j and of j to i are one number, made once.

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
from reid.evaluation.embeddings import Array, Ints
from reid.evaluation.ranking import order_keys

TILE = 1536  # images by images whose distances exist at a time: 9 MiB, and long enough for a matmul near its peak
ROWS = 256  # images whose neighbourhoods, or queries whose overlaps, are worked out at a time

Floats = NDArray[np.float32]


def reranked(
    query: Tensor, gallery: Tensor, queries: Ints, *, k1: int, k2: int, weight: float, cosine: bool
) -> Iterator[tuple[Ints, Tensor]]:
    """Some of the queries and their re-ranked distances to the gallery, until all of `queries` had their turn.

    Every row of `query` and `gallery` is a neighbour to the others, whether it is asked for or not: leave out images
    that are not to be ranked (junk). Cosine: what is squared is the distance of normalised features; a feature of
    length zero is at right angles to everything. Distances are float32, their rounding error is about 1e-6 |q| |g|; run
    it within `float32_matmul`. A CPU needs about 70 MB beyond the features, and 2 KB more for each image.

    Args:
        query: [Q, D] float32.
        gallery: [G, D] float32, G > 0; its device does the matmuls, the host the rest.
        queries: rows of `query` to work on.
        k1: nearest images among which reciprocal neighbours are looked for; 20 in the paper.
        k2: nearest images, itself included, over which V is averaged; 6 in the paper, 1 to leave V alone.
        weight: the share w of the distance itself in the final distance, 0 to 1; 0.3 in the paper.
        cosine: whether lengths are to count for nothing.

    Yields:
        queries [n] and final distances [n, G] on the gallery's device, in a buffer that the next turn overwrites.

    Raises:
        ValueError: a feature is not finite, or so large that its square is not.
    """
    images = _Images.of(query, gallery, cosine=cosine)
    near = _nearest(images, max(k1 + 1, k2))
    vectors = _averaged(_vectors(images, near, k1), near.index[:, :k2])
    overlap = _Overlap.of(vectors, len(query))
    scales, constants = images.final_terms()
    far = torch.from_numpy(near.far).to(gallery.device)
    for rows, values in distances(query, gallery, queries, cosine=cosine):
        at = torch.from_numpy(rows).to(gallery.device)
        values.mul_(scales[at, None]).add_(constants[at, None]).clamp_(min=0).mul_(weight / far[at, None])
        for part in slices(len(rows), ROWS):
            jaccard = 1 - overlap.similarity(rows[part])
            values[part] += torch.from_numpy(jaccard).to(values.device, values.dtype).mul_(1 - weight)
        yield rows, values


@dataclass(frozen=True, kw_only=True, eq=False)
class _Images:
    """Queries and gallery as one list of N images, queries first, without a copy of their features.

    Half the squared distance of two images is the sum of their `constants` less their product, each of them multiplied
    by its `scales`, if those are given: one over its length, and 0 for a length of 0.
    """

    query: Tensor
    gallery: Tensor
    constants: Tensor
    scales: Tensor | None

    @classmethod
    def of(cls, query: Tensor, gallery: Tensor, *, cosine: bool) -> "_Images":
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

    def final_terms(self) -> tuple[Tensor, Tensor]:
        """[N] and [N]: what makes half a squared distance of what `distances` gives: a factor, and what to add."""
        if self.scales is not None:
            return self.scales, torch.ones_like(self.constants)
        return torch.ones_like(self.constants), self.constants

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
class _Near:
    """The nearest images of each image, from near to far, itself first.

    Attributes:
        index: [N, k] images.
        halves: [N, k] half their squared distances.
        far: [N] the largest one of all images; 1 where that is 0.
    """

    index: Ints
    halves: Floats
    far: Floats


def _nearest(images: _Images, count: int) -> _Near:
    """The `count` nearest images of each, or as many as there are."""
    distinct, number = np.unique(images.originals(), return_inverse=True)
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
    near = lists.near()
    return near if len(distinct) == len(images) else _with_repeats(near, number, count)


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
            nearest = tile.topk(min(count, tile.shape[dim]), dim=dim, largest=False).values.amax(dim)
            limits = torch.minimum(limits, nearest)
        found = _positions(tile <= limits.unsqueeze(dim))
        places = found // tile.shape[1], found % tile.shape[1]
        halves = torch.cat([kept.flatten(), tile.view(-1)[found]])
        index = torch.cat([self.index[own].flatten(), places[dim] + others.start])
        rows = torch.cat([torch.arange(len(kept), device=found.device).repeat_interleave(count), places[1 - dim]])
        order = order_keys(halves, rows).argsort(stable=True)
        sizes = torch.bincount(rows)
        keep = order[(sizes.cumsum(0) - sizes)[:, None] + torch.arange(count, device=found.device)]
        self.halves[own], self.index[own] = halves[keep], index[keep]

    def near(self) -> _Near:
        """What is kept, on the host."""
        kept = self.index, self.halves.clamp(min=0), torch.where(self.far > 0, self.far, 1.0)
        index, halves, far = (numbers.cpu().numpy() for numbers in kept)
        return _Near(index=index, halves=halves, far=far)


def _positions(mask: Tensor) -> Tensor:
    """Where a mask is true, in its flattened form. NumPy's takes a fifth of torch's time on a CPU."""
    if mask.device.type != "cpu":
        return mask.view(-1).nonzero().view(-1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _with_repeats(near: _Near, number: Ints, count: int) -> _Near:
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
        others = members[_ragged(starts[groups].ravel(), repeats)]
        owners = np.repeat(np.repeat(rows, groups.shape[1]), repeats)
        other = others != owners  # the image itself goes in front, wherever it stands among its equals
        owners, others = np.concatenate([rows, owners[other]]), np.concatenate([rows, others[other]])
        values = np.concatenate([np.full(len(rows), -1, np.float32), np.repeat(values.ravel(), repeats)[other]])
        order = np.lexsort((others, values, owners))
        keep = order[np.searchsorted(owners[order], rows)[:, None] + np.arange(index.shape[1])]
        index[part], halves[part] = others[keep], values[keep]
    return _Near(index=index, halves=halves.clip(min=0), far=near.far[number])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sparse:
    """A matrix of mostly zeros: the entries of row i are at `starts[i]` to `starts[i + 1]`."""

    starts: Ints
    columns: NDArray[np.int32]
    values: Floats

    @classmethod
    def joined(cls, parts: list[tuple[Ints, Ints, Floats]], num_rows: int) -> "_Sparse":
        """From parts of rows in order, each with its rows, columns and values."""
        counts = np.bincount(np.concatenate([rows for rows, _, _ in parts]), minlength=num_rows)
        return cls(
            starts=np.concatenate([[0], np.cumsum(counts)]),
            columns=np.concatenate([columns for _, columns, _ in parts]).astype(np.int32),
            values=np.concatenate([values for _, _, values in parts]),
        )

    def entries(self, rows: Ints) -> tuple[Ints, Ints]:
        """Where the entries of some rows are, row after row, and how many each row has."""
        counts = self.starts[rows + 1] - self.starts[rows]
        return _ragged(self.starts[rows], counts), counts


def _ragged(starts: Ints, counts: Ints) -> Ints:
    """Each start and the `count` - 1 numbers after it, one after the other."""
    ends = np.cumsum(counts)
    positions: Ints = np.arange(int(counts.sum())) + np.repeat(starts - (ends - counts), counts)
    return positions


def _reciprocal(lists: Ints) -> NDArray[np.bool_]:
    """[N, k] which of the nearest of an image have it among their own nearest."""
    mutual = np.empty(lists.shape, np.bool_)
    for part in slices(len(lists), ROWS):
        owners = np.arange(part.start, part.stop)[:, None, None]
        mutual[part] = (lists[lists[part]] == owners).any(axis=2)
    return mutual


def _vectors(images: _Images, near: _Near, k1: int) -> _Sparse:
    """V before it is averaged."""
    parts = []
    for start, owners, neighbours, halves in _neighbourhoods(near, k1):
        unknown = np.isnan(halves)
        halves[unknown] = images.between(owners[unknown], neighbours[unknown])
        weights = np.exp(-halves / near.far[owners])
        weights /= np.bincount(owners - start, weights)[owners - start]
        parts.append((owners, neighbours, weights))
    return _Sparse.joined(parts, len(images))


def _neighbourhoods(near: _Near, k1: int) -> Iterator[tuple[int, Ints, Ints, Floats]]:
    """R* of some images at a time: the first of them, whose neighbours, which, and half their squared distances.

    The distance is nan where the neighbour is not among the nearest that are kept of an image.
    """
    wide, narrow = near.index[:, : k1 + 1], near.index[:, : round(k1 / 2) + 1]
    in_wide, in_narrow = _reciprocal(wide), _reciprocal(narrow)
    members = np.zeros((ROWS, len(wide)), np.bool_)
    for part in slices(len(wide), ROWS):
        rows = np.arange(part.stop - part.start)[:, None]
        offered, offers = narrow[wide[part]], in_narrow[wide[part]] & in_wide[part][:, :, None]
        members[rows, wide[part]] = in_wide[part]
        common = (members[rows[:, :, None], offered] & offers).sum(axis=2)
        members[rows, wide[part]] = False
        offers &= (3 * common > 2 * offers.sum(axis=2))[:, :, None]
        own, of_others = np.nonzero(in_wide[part]), np.nonzero(offers)
        owners = np.concatenate([own[0], of_others[0]]) + part.start
        halves = np.full(len(owners), np.nan, np.float32)
        halves[: len(own[0])] = near.halves[part, : wide.shape[1]][own]
        yield part.start, *_first_of_each(owners, np.concatenate([wide[part][own], offered[of_others]]), halves)


def _first_of_each(rows: Ints, columns: Ints, values: Floats) -> tuple[Ints, Ints, Floats]:
    """The entries by row and column; of those at the same place, the one given first."""
    order = np.lexsort((columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    new = _changes(rows, columns)
    return rows[new], columns[new], values[new]


def _changes(rows: Ints, columns: Ints) -> NDArray[np.bool_]:
    """Whether an entry is the first one at its place, in order of place."""
    return np.append(True, (np.diff(rows) != 0) | (np.diff(columns) != 0))


def _averaged(vectors: _Sparse, lists: Ints) -> _Sparse:
    """For each image, the mean of the vectors of the images in its list."""
    parts = []
    for part in slices(len(lists), ROWS):
        rows = lists[part]
        entries, counts = vectors.entries(rows.ravel())
        owners = np.repeat(np.arange(part.start, part.stop), counts.reshape(rows.shape).sum(axis=1))
        columns = vectors.columns[entries].astype(np.int64)
        order = np.lexsort((columns, owners))
        owners, columns = owners[order], columns[order]
        new = _changes(owners, columns)
        sums = np.bincount(np.cumsum(new) - 1, vectors.values[entries[order]])
        parts.append((owners[new], columns[new], (sums / rows.shape[1]).astype(np.float32)))
    return _Sparse.joined(parts, len(lists))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Overlap:
    """The vectors of the queries, and those of the gallery by column: who has an entry there, and which."""

    vectors: _Sparse
    starts: Ints
    rows: NDArray[np.int32]
    values: Floats
    num_gallery: int

    @classmethod
    def of(cls, vectors: _Sparse, num_queries: int) -> "_Overlap":
        first, total = vectors.starts[num_queries], len(vectors.starts) - 1
        columns = vectors.columns[first:]
        rows = np.repeat(np.arange(total - num_queries, dtype=np.int32), np.diff(vectors.starts[num_queries:]))
        order = np.argsort(columns, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=total))])
        return cls(
            vectors=vectors,
            starts=starts,
            rows=rows[order],
            values=vectors.values[first:][order],
            num_gallery=total - num_queries,
        )

    def similarity(self, queries: Ints) -> Array:
        """[n, G] m / (2 - m), m the sum of the smaller entries of query and gallery image: 1 less Jaccard distance."""
        entries, counts = self.vectors.entries(queries)
        owners = np.repeat(np.arange(len(queries)), counts)
        columns = self.vectors.columns[entries]
        holders = self.starts[columns + 1] - self.starts[columns]
        shared = _ragged(self.starts[columns], holders)
        smaller = np.minimum(self.values[shared], np.repeat(self.vectors.values[entries], holders))
        places = np.repeat(owners * self.num_gallery, holders) + self.rows[shared]
        overlap = np.bincount(places, smaller, minlength=len(queries) * self.num_gallery)
        return (overlap / (2 - overlap)).reshape(len(queries), -1)
