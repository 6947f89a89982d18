"""Who is ranked against whom where every test image plays both parts: query and gallery."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from reid.evaluation.embeddings import Embeddings, Ints, labels


def check_same(query: Embeddings, gallery: Embeddings, rule: str) -> None:
    """Where a rule takes its queries from the gallery, both must be the same images in the same order.

    Raises:
        ValueError: they are not.
    """
    if not np.array_equal(labels(query.ids), labels(gallery.ids)):
        raise ValueError(
            f"rule {rule} ranks images among themselves: give the same images, in the same order, as query and as "
            f"gallery (there are {len(query.ids)} and {len(gallery.ids)}, and their identities differ)"
        )


def without_itself(images: Embeddings) -> Embeddings:
    """The images with a camera for each: the rule that drops the query's identity under its camera drops the query."""
    return replace(images, cameras=np.arange(len(images.ids)))


def one_shot_draws(ids: Ints, *, draws: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """For each draw the rows of the queries and of the gallery, which holds one image of every identity.

    A draw depends on its number, the seed and the order of the images alone. An identity with a single image is always
    in the gallery.

    Args:
        ids: [N], all above 0.
        draws: how many.
        seed: of all of them.
    """
    for draw in range(draws):
        order = np.random.default_rng([seed, draw]).permutation(len(ids))
        _, first = np.unique(ids[order], return_index=True)
        gallery = np.sort(order[first])
        yield np.setdiff1d(np.arange(len(ids)), gallery), gallery


def select(images: Embeddings, rows: Ints) -> Embeddings:
    """Some of the images, by row."""
    cameras = None if images.cameras is None else labels(images.cameras)[rows]
    return Embeddings(images.features[rows], labels(images.ids)[rows], cameras)
