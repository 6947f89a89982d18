"""Features with their labels, and which gallery images match which query."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Ints = NDArray[np.int64]

DISTRACTOR, JUNK = 0, -1


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Features of images and whose they are; entry i of each array is image i.

    Args:
        features: [N, D] numbers, a tensor on any device or an array; float32 is used as it is, without a copy.
        ids: [N] identities: above 0 somebody, 0 a distractor (nobody known), -1 junk (never ranked).
        cameras: [N] camera numbers; None only where the protocol has no camera rule.

    Raises:
        ValueError: shapes that do not fit together, labels that are not integers, or an identity below -1.
    """

    features: Tensor | Array
    ids: Tensor | Array
    cameras: Tensor | Array | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            raise ValueError(
                f"Embeddings.features has shape {tuple(self.features.shape)}, expected [images, dimensions]"
            )
        for name in ("ids", "cameras"):
            if getattr(self, name) is not None:
                _check_labels(name, getattr(self, name), len(self.features))
        lowest = labels(self.ids).min(initial=JUNK)
        if lowest < JUNK:
            raise ValueError(f"Embeddings.ids holds {lowest}; below 1 there are only 0 (distractor) and -1 (junk)")


def tensor(features: Tensor | Array) -> Tensor:
    """The features as float32, [N, D], copied only where they are not so already."""
    if isinstance(features, Tensor):
        return features.detach().float()
    return torch.from_numpy(np.require(features, np.float32, ["C", "W"]))


def labels(values: Tensor | Array) -> Ints:
    """Identities or cameras as int64 on the host, [N]."""
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values).astype(np.int64, copy=False)


def _check_labels(name: str, values: Tensor | Array, count: int) -> None:
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.shape != (count,):
        raise ValueError(
            f"Embeddings.{name} has shape {array.shape}, expected ({count},): one for each row of features"
        )
    if count and array.dtype.kind not in "iu":
        raise ValueError(f"Embeddings.{name} has type {array.dtype}, expected integers")


@dataclass(frozen=True, eq=False, kw_only=True)
class Matches:
    """Which gallery images show a query's identity, and on how many of those it is scored.

    Attributes:
        order: gallery rows without junk, sorted by identity.
        start: [Q] where the images of the query's identity start in `order`.
        count: [Q] how many there are.
        num_matches: [Q] those of them that the camera rule leaves.
        junk: gallery rows that are never ranked.
        query_cameras: [Q]; without the camera rule a number that no gallery image has.
        gallery_cameras: [G]
    """

    order: Ints
    start: Ints
    count: Ints
    num_matches: Ints
    junk: Ints
    query_cameras: Ints
    gallery_cameras: Ints

    @classmethod
    def find(cls, query: Embeddings, gallery: Embeddings, *, camera_rule: bool) -> "Matches":
        """Look the queries' identities up in the gallery.

        Raises:
            ValueError: the camera rule is on and cameras are missing, or a query has no identity.
        """
        ids, gallery_ids = labels(query.ids), labels(gallery.ids)
        _check_queries(ids)
        cameras, gallery_cameras = np.zeros_like(ids), np.ones_like(gallery_ids)
        if camera_rule:
            cameras, gallery_cameras = _cameras("query", query), _cameras("gallery", gallery)
        order = np.argsort(gallery_ids, kind="stable")
        order = order[gallery_ids[order] != JUNK]
        start, count = _find(gallery_ids[order], ids)
        views, gallery_views = _views((ids, cameras), (gallery_ids, gallery_cameras))
        return cls(
            order=order,
            start=start,
            count=count,
            num_matches=count - _find(np.sort(gallery_views[order]), views)[1],
            junk=np.flatnonzero(gallery_ids == JUNK),
            query_cameras=cameras,
            gallery_cameras=gallery_cameras,
        )

    @property
    def valid(self) -> Ints:
        """The queries that have a match, in order."""
        return np.flatnonzero(self.num_matches > 0)

    def pairs(self, queries: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """Positions in `queries` and gallery rows of one identity, by position; and whether their cameras differ."""
        count = self.count[queries]
        rows = np.repeat(np.arange(len(queries)), count)
        shift = self.start[queries] - (np.cumsum(count) - count)
        columns = self.order[np.arange(len(rows)) + shift[rows]]
        return rows, columns, self.query_cameras[queries][rows] != self.gallery_cameras[columns]


def _check_queries(ids: Ints) -> None:
    nobody = np.flatnonzero(ids <= DISTRACTOR)
    if len(nobody):
        raise ValueError(
            f"{len(nobody)} queries have no identity (the first is query {nobody[0]} with {ids[nobody[0]]}): 0 is a "
            "distractor and -1 is junk, and neither can be searched for; if your identities start at 0, add 1 to all"
        )


def _cameras(side: str, images: Embeddings) -> Ints:
    if images.cameras is None:
        raise ValueError(
            f"the {side} has no cameras, and the protocol's camera rule needs them: give Embeddings(..., cameras=...) "
            "or score with Protocol(rule='query_gallery')"
        )
    return labels(images.cameras)


def _views(query: tuple[Ints, Ints], gallery: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    """One number for each identity under each camera, for (ids, cameras) of both sides."""
    num_cameras, cameras = np.unique(np.concatenate([query[1], gallery[1]]), return_inverse=True)
    views = np.concatenate([query[0], gallery[0]]) * len(num_cameras) + cameras
    return views[: len(query[0])], views[len(query[0]) :]


def _find(ordered: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """Where each wanted value starts in a sorted array, and how often it is there."""
    start = np.searchsorted(ordered, wanted)
    return start, np.searchsorted(ordered, wanted, side="right") - start
