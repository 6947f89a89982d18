"""Distances of a few queries at a time to a whole gallery, in a form that only their order matters."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from reid.evaluation.embeddings import Ints

BLOCK_VALUES = 6 * 2**20  # distances of one matmul: 24 MiB, enough queries at a time to keep a CPU near its peak
PART_VALUES = 2**19  # distances handed out at once on a CPU: 2 MiB stay in its cache; a GPU gets the whole block
COLUMNS = 512  # gallery images of one matmul on a CPU: up to half as fast again as all of a long gallery at once


def distances(query: Tensor, gallery: Tensor, queries: Ints, *, cosine: bool) -> Iterator[tuple[Ints, Tensor]]:
    """Some of the queries and their distances to the gallery, until all of `queries` had their turn.

    Euclidean: |g|^2 / 2 - q.g, half the squared distance without the part that all images of a query share. Cosine:
    -q.g / |g|, without the query's length; a feature of length zero is at right angles to everything.

    Args:
        query: [Q, D] float32.
        gallery: [G, D] float32, G > 0; its device does the work.
        queries: rows of `query` to work on.
        cosine: whether lengths are to count for nothing.

    Yields:
        queries [n] and distances [n, G] on the gallery's device, in a buffer that the next turn overwrites.

    Raises:
        ValueError: a feature is not finite, or so large that its square is not.
    """
    squares = squared_lengths("gallery", gallery)
    squared_lengths("query", query)
    half, scale = squares / 2, -torch.where(squares > 0, squares, 1.0).rsqrt()
    copies, originals = _duplicates(gallery)
    per_block = max(1, BLOCK_VALUES // max(gallery.shape))
    per_part = per_block if gallery.device.type != "cpu" else max(1, PART_VALUES // len(gallery))
    products = gallery.new_empty(min(per_block, len(queries)), len(gallery))
    for block in slices(len(queries), per_block):
        features = query[torch.from_numpy(queries[block])].to(gallery.device)
        for columns in slices(len(gallery), COLUMNS if gallery.device.type == "cpu" else len(gallery)):
            torch.mm(features, gallery[columns].T, out=products[: len(features), columns])
        for part in slices(len(features), per_part):
            values = products[part]
            if cosine:
                values.mul_(scale)
            else:
                torch.sub(half, values, out=values)
            if len(copies):
                values[:, copies] = values[:, originals]
            yield queries[block][part], values


@contextlib.contextmanager
def float32_matmul(device: torch.device) -> Iterator[None]:
    """Full float32 products, whatever was allowed outside: no autocast, no TF32 on a GPU, no bfloat16 on a CPU."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    allowed = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, allowed, strict=True):
            backend.fp32_precision = precision


def slices(count: int, size: int) -> list[slice]:
    """Runs of at most `size` consecutive rows out of `count`."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _chunks(features: Tensor) -> list[slice]:
    """Rows to take at a time. Results go to one tensor made before: small ones between large ones break up the heap."""
    return slices(len(features), max(1, PART_VALUES // features.shape[1]))


def squared_lengths(side: str, features: Tensor) -> Tensor:
    """[N] sums of squares; not through a root, so that whole numbers stay exact and tie where they should."""
    squares = features.new_empty(len(features))
    for chunk in _chunks(features):
        torch.sum(features[chunk].square(), dim=1, out=squares[chunk])
    wrong = (~squares.isfinite()).nonzero()
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} {side} features hold NaN, infinity or values too large to square in float32 (the first is "
            f"image {int(wrong[0])}): the network diverged, or ran in a precision too low for it"
        )
    return squares


def _duplicates(features: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that repeat an earlier row bit for bit, and that earlier row.

    A matmul may round equal rows differently, by their place in its tiles. Their distances are copied instead, so that
    a collapsed network or an image that is in the gallery twice gives ties, and not the order of the files.
    """
    _, first, group = np.unique(hashes(features).cpu().numpy(), return_index=True, return_inverse=True)
    earlier = torch.from_numpy(first[group]).to(features.device)
    (repeats,) = torch.nonzero(earlier != torch.arange(len(earlier), device=features.device), as_tuple=True)
    same = torch.zeros_like(repeats, dtype=torch.bool)
    for chunk in _chunks(features[: len(repeats)]):
        same[chunk] = (features[repeats[chunk]] == features[earlier[repeats[chunk]]]).all(dim=1)
    return repeats[same], earlier[repeats[same]]


def hashes(features: Tensor) -> Tensor:
    """[N] int32; integer arithmetic, so that equal rows agree whatever the order of the sum."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**31), 2**31, features.shape[1:], dtype=torch.int32, generator=generator)
    odd = (weights | 1).to(features.device)
    sums = odd.new_empty(len(features))
    for chunk in _chunks(features):
        bits = features[chunk].contiguous().view(torch.int32)
        mixed = (bits >> 16).bitwise_xor_(bits)  # whole numbers and half precision leave the low bits empty
        torch.sum(mixed.mul_(odd), dim=1, dtype=torch.int32, out=sums[chunk])
    return sums
