"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), exact, without a matrix of all images by all images.

Over all N images, queries and gallery together, with d(i, j) the squared Euclidean distance divided by the largest one
of i, and "the k nearest" counting i itself:

* R(i, k): those of the k + 1 nearest of i that have i among their own k + 1 nearest.
* R*(i): R(i, k1), and for each q in it also R(q, round(k1 / 2)) if more than 2/3 of that lies in R(i, k1).
* V_i = exp(-d(i, j)) for j in R*(i), 0 elsewhere, divided by its sum; then the mean of V over the k2 nearest of i.
* d_J = 1 - m / (2 - m) with m the sum over j of min(V_i(j), V_g(j)), and the final distance (1 - w) d_J + w d.

What is kept of an image is its neighbours, found as `neighbours` says, and the few numbers of V that are not 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid.evaluation.distances import slices
from reid.evaluation.embeddings import Array, Ints
from reid.evaluation.neighbours import ROWS, Floats, Images, Near, nearest, ragged


def reranked(
    query: Tensor, gallery: Tensor, queries: Ints, *, k1: int, k2: int, weight: float, cosine: bool
) -> Iterator[tuple[Ints, Tensor]]:
    """Some of the queries and their re-ranked distances to the gallery, until all of `queries` had their turn.

    Every row of `query` and `gallery` is a neighbour to the others, whether it is asked for or not: leave out images
    that are not to be ranked (junk). Cosine: what is squared is the distance of normalised features; a feature of
    length zero is at right angles to everything. Distances are float32, their rounding error is about 1e-6 |q| |g|; run
    it within `float32_matmul`. A CPU needs about 70 MB beyond the features, 2 KB more for each image, and 4 bytes more
    for each query and image unless that is above half a gigabyte.

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
    images = Images.of(query, gallery, cosine=cosine)
    near, kept = nearest(images, max(k1 + 1, k2))
    vectors = _averaged(_vectors(images, near, k1), near.index[:, :k2])
    overlap = _Overlap.of(vectors, len(query))
    far = torch.from_numpy(near.far).to(gallery.device)
    for rows, values in (kept or images).to_gallery(queries):
        values.clamp_(min=0).mul_(weight / far[torch.from_numpy(rows).to(far.device), None])
        for part in slices(len(rows), ROWS):
            jaccard = 1 - overlap.similarity(rows[part])
            values[part] += torch.from_numpy(jaccard).to(values.device, values.dtype).mul_(1 - weight)
        yield rows, values


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
        return ragged(self.starts[rows], counts), counts


def _reciprocal(lists: Ints) -> NDArray[np.bool_]:
    """[N, k] which of the nearest of an image have it among their own nearest."""
    mutual = np.empty(lists.shape, np.bool_)
    for part in slices(len(lists), ROWS):
        owners = np.arange(part.start, part.stop)[:, None, None]
        mutual[part] = (lists[lists[part]] == owners).any(axis=2)
    return mutual


def _vectors(images: Images, near: Near, k1: int) -> _Sparse:
    """V before it is averaged."""
    parts = []
    for start, owners, neighbours, halves in _neighbourhoods(near, k1):
        unknown = np.isnan(halves)
        halves[unknown] = images.between(owners[unknown], neighbours[unknown])
        weights = np.exp(-halves / near.far[owners])
        weights /= np.bincount(owners - start, weights)[owners - start]
        parts.append((owners, neighbours, weights))
    return _Sparse.joined(parts, len(images))


def _neighbourhoods(near: Near, k1: int) -> Iterator[tuple[int, Ints, Ints, Floats]]:
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
        shared = ragged(self.starts[columns], holders)
        smaller = np.minimum(self.values[shared], np.repeat(self.vectors.values[entries], holders))
        places = np.repeat(owners * self.num_gallery, holders) + self.rows[shared]
        overlap = np.bincount(places, smaller, minlength=len(queries) * self.num_gallery)
        return (overlap / (2 - overlap)).reshape(len(queries), -1)
