"""Ranking lists: what of the gallery is nearest to a query, in the order that is scored."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from reid.config import BOTH_PARTS, Protocol
from reid.evaluation.distances import distances, float32_matmul
from reid.evaluation.embeddings import JUNK, Embeddings, Ints, Matches, labels, tensor
from reid.evaluation.reranking import reranked
from reid.evaluation.rules import check_same, one_shot_draws, select, without_itself


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Who is ranked against whom by a protocol, with what is never ranked left out.

    Under the rule `one_shot` these are the parts of the first draw.

    Attributes:
        query: the queries.
        gallery: the gallery.
        numbers: [Q] of the queries among all.
        rows: [G] of the gallery's images among all.
        matches: which match.
    """

    query: Embeddings
    gallery: Embeddings
    numbers: Ints
    rows: Ints
    matches: Matches

    @classmethod
    def of(cls, query: Embeddings, gallery: Embeddings, protocol: Protocol) -> "Parts":
        """Those of queries and a gallery as `reid.evaluation.evaluate` takes them."""
        protocol = protocol.resolved()
        numbers, rows = np.arange(len(query.ids)), np.arange(len(gallery.ids))
        if protocol.rule in BOTH_PARTS:
            check_same(query, gallery, str(protocol.rule))
        if protocol.rule == "one_shot":
            numbers, rows = next(one_shot_draws(labels(query.ids), draws=1, seed=protocol.draw_seed))
        if protocol.rule == "leave_one_out":
            query = gallery = without_itself(query)
        rows = rows[labels(gallery.ids)[rows] != JUNK]
        query, gallery = select(query, numbers), select(gallery, rows)
        matches = Matches.find(query, gallery, camera_rule=protocol.rule in ("cross_camera", "leave_one_out"))
        return cls(query=query, gallery=gallery, numbers=numbers, rows=rows, matches=matches)


def ranking_lists(
    query: Embeddings, gallery: Embeddings, protocol: Protocol, queries: Ints, *, count: int
) -> list[Ints]:
    """The gallery images nearest to some queries, from near to far, by a protocol.

    What `reid.evaluation.evaluate` does not rank is in no list: junk, and by rule images of the query's identity from
    its camera, or the query itself. Of images at the same distance the first comes first; a score counts all their
    orders.

    Args:
        query: all queries, as `evaluate` takes them.
        gallery: likewise.
        protocol: by which is ranked.
        queries: numbers of queries that have a match.
        count: images in a list; all that are ranked, if they are fewer.

    Returns:
        For each of these queries the rows of the gallery.
    """
    parts = Parts.of(query, gallery, protocol)
    wanted = np.flatnonzero(np.isin(parts.numbers, queries))
    found: dict[int, Ints] = {}
    with float32_matmul(tensor(parts.gallery.features).device):
        for some, values in _distances(parts, wanted, protocol):
            pairs, columns, scored = parts.matches.pairs(some)
            near = values.cpu().numpy().copy()
            near[pairs[~scored], columns[~scored]] = np.inf
            order = near.argsort(axis=1, kind="stable")[:, :count]
            for position, number in enumerate(parts.numbers[some]):
                ranked = order[position][np.isfinite(near[position, order[position]])]
                found[int(number)] = parts.rows[ranked]
    return [found[int(number)] for number in queries]


def _distances(parts: Parts, wanted: Ints, protocol: Protocol) -> Iterator[tuple[Ints, Tensor]]:
    features, others = tensor(parts.query.features), tensor(parts.gallery.features)
    cosine = protocol.normalise or protocol.distance == "cosine"
    if not protocol.rerank:
        return distances(features, others, wanted, cosine=cosine)
    k1, k2, weight = protocol.rerank_k1, protocol.rerank_k2, protocol.rerank_weight
    return reranked(features, others, wanted, k1=k1, k2=k2, weight=weight, cosine=cosine)
