"""One evaluation, from features to scores."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from reid.config import BOTH_PARTS, Protocol
from reid.evaluation import measures
from reid.evaluation.distances import distances, float32_matmul
from reid.evaluation.embeddings import JUNK, Embeddings, Ints, Matches, labels, tensor
from reid.evaluation.measures import Floats
from reid.evaluation.ranking import place
from reid.evaluation.reranking import reranked
from reid.evaluation.rules import check_same, one_shot_draws, select, without_itself

DEFAULT = Protocol().resolved()


@dataclass(frozen=True, eq=False, kw_only=True)
class RetrievalResult:
    """Scores of one evaluation. Means are over the valid queries: those with a match left in the gallery.

    Attributes:
        mean_ap: mean of `average_precision` over valid queries, 0 to 1.
        mean_inp: mean of `inverse_negative_penalty` over valid queries, 0 to 1.
        cmc: [max(ranks)] share of the valid queries with a match among the first k images, at `cmc[k - 1]`; beyond the
            end of a short gallery it keeps its last value.
        average_precision: [Q] as `protocol.ap` defines it; nan for a skipped query.
        first_match_rank: [Q] rank of the first match, from 1; nan for a skipped query. Where the first match is tied
            with wrong images and ties are `expected`, a mean, and perhaps no whole number.
        inverse_negative_penalty: [Q] matches / rank of the last match; nan for a skipped query.
        num_valid: queries that were scored.
        num_skipped: queries without a match.
        protocol: how they were scored.
    """

    mean_ap: float
    mean_inp: float
    cmc: Floats
    average_precision: Floats
    first_match_rank: Floats
    inverse_negative_penalty: Floats
    num_valid: int
    num_skipped: int
    protocol: Protocol

    def metrics(self) -> dict[str, float]:
        """The scalars by the names that tables use: mAP, mINP and Rank-K as fractions, num_valid, num_skipped.

        Without cameras or drawn galleries, as in image retrieval, the share found among K is called Recall@K.
        """
        word = "Recall@" if self.protocol.rule in ("query_gallery", "leave_one_out") else "Rank-"
        ranks = {f"{word}{rank}": float(self.cmc[rank - 1]) for rank in self.protocol.ranks or ()}
        counts = {"num_valid": float(self.num_valid), "num_skipped": float(self.num_skipped)}
        return {"mAP": self.mean_ap, "mINP": self.mean_inp} | ranks | counts

    def per_query(self) -> dict[str, Floats]:
        """What each query scored, [Q] each, by the attribute's name."""
        names = ("average_precision", "first_match_rank", "inverse_negative_penalty")
        return {name: getattr(self, name) for name in names}


def evaluate(query: Embeddings, gallery: Embeddings, protocol: Protocol = DEFAULT) -> RetrievalResult:
    """Rank the gallery for each query and score the rankings; see the package for the rules and for ties.

    Distances are float32 (no TF32, no autocast) and made on the gallery's device. Euclidean ones are compared as
    |g|^2 / 2 - q.g, whose rounding error is about 1e-6 |q| |g|: near-duplicates whose squared distances differ by less
    may swap, or tie. Subtract a large offset that all features share before you call. Gallery images whose features are
    equal bit for bit are always tied. Normalised Euclidean and cosine distance order alike and are computed alike.

    A CPU needs about 45 MB beyond the features, whatever the number of queries and for galleries to six million images;
    100 MB where most of a gallery is nearer than a query's farthest match: few identities, or a collapsed network.

    Args:
        query: the images searched for; their identities are above 0.
        gallery: the images searched. Where every image plays both parts (`leave_one_out`, `one_shot`), those of the
            query in the same order.
        protocol: what is ranked and how it is scored; what it leaves open is as for Market-1501. Its `flip` is for
            whoever extracts the features.

    Raises:
        ValueError: cameras are missing and the camera rule needs them, numbers of dimensions differ, a feature is not
            finite, a query has no identity, no query has a match, or query and gallery should be the same and are not.
    """
    protocol = protocol.resolved()
    if protocol.rule in BOTH_PARTS:
        check_same(query, gallery, protocol.rule)
    if protocol.rule == "one_shot":
        return _over_draws(query, protocol)
    if protocol.rule == "leave_one_out":
        query = gallery = without_itself(query)
    return _rank(query, gallery, protocol)


def _rank(query: Embeddings, gallery: Embeddings, protocol: Protocol) -> RetrievalResult:
    if protocol.rerank:  # what is never ranked must not be a neighbour either
        gallery = select(gallery, np.flatnonzero(labels(gallery.ids) != JUNK))
    features, gallery_features = tensor(query.features), tensor(gallery.features)
    if features.shape[1] != gallery_features.shape[1]:
        raise ValueError(
            f"query features have {features.shape[1]} dimensions and gallery features {gallery_features.shape[1]}: "
            "they come from different networks"
        )
    matches = Matches.find(query, gallery, camera_rule=protocol.rule in ("cross_camera", "leave_one_out"))
    _check_any_match(labels(query.ids), matches)
    cosine = protocol.normalise or protocol.distance == "cosine"
    with float32_matmul(gallery_features.device):
        if not protocol.rerank:
            return score(distances(features, gallery_features, matches.valid, cosine=cosine), matches, protocol)
        ranked = reranked(
            features,
            gallery_features,
            matches.valid,
            k1=protocol.rerank_k1,
            k2=protocol.rerank_k2,
            weight=protocol.rerank_weight,
            cosine=cosine,
        )
        return score(ranked, matches, protocol)


def _over_draws(images: Embeddings, protocol: Protocol) -> RetrievalResult:
    """Means over the draws; what an image scored is its mean over the draws in which it was a query."""
    sums, times = np.zeros((3, len(images.ids))), np.zeros(len(images.ids))
    results = []
    for queries, gallery in one_shot_draws(labels(images.ids), draws=protocol.draws, seed=protocol.draw_seed):
        result = _rank(select(images, queries), select(images, gallery), protocol)
        sums[:, queries] += [*result.per_query().values()]
        times[queries] += 1
        results.append(result)
    precision, first, penalty = np.where(times > 0, sums / np.maximum(times, 1), np.nan)
    return replace(
        results[0],
        mean_ap=float(np.mean([result.mean_ap for result in results])),
        mean_inp=float(np.mean([result.mean_inp for result in results])),
        cmc=np.mean([result.cmc for result in results], axis=0),
        average_precision=precision,
        first_match_rank=first,
        inverse_negative_penalty=penalty,
    )


def score(ranked: Iterable[tuple[Ints, Tensor]], matches: Matches, protocol: Protocol) -> RetrievalResult:
    """Score rankings that are given as distances.

    Args:
        ranked: pairs of queries [n] and their distances to the gallery [n, G], float32, which are overwritten. Together
            the pairs hold every valid query once, and there is at least one.
        matches: who matches whom.
        protocol: its `ap`, `ties` and `ranks` are used.
    """
    protocol = protocol.resolved()
    num_queries, num_valid, num_ranks = len(matches.num_matches), len(matches.valid), max(protocol.ranks or ())
    precision, first, penalty = np.full((3, num_queries), np.nan)
    found = np.zeros(num_ranks)
    for queries, values in ranked:
        placement = place(values, matches, queries)
        if protocol.ties == "pessimistic":
            placement = placement.wrong_first()
        precision[queries] = measures.average_precision(placement, protocol.ap)
        penalty[queries] = measures.inverse_negative_penalty(placement)
        first[queries] = measures.first_match_rank(placement)
        share = measures.share_found(placement, min(num_ranks, values.shape[1])).sum(axis=0)
        found += np.pad(share, (0, num_ranks - len(share)), mode="edge")
    return RetrievalResult(
        mean_ap=float(np.nanmean(precision)),
        mean_inp=float(np.nanmean(penalty)),
        cmc=found / num_valid,
        average_precision=precision,
        first_match_rank=first,
        inverse_negative_penalty=penalty,
        num_valid=num_valid,
        num_skipped=num_queries - num_valid,
        protocol=protocol,
    )


def _check_any_match(ids: Ints, matches: Matches) -> None:
    if len(matches.valid):
        return
    absent = matches.count == 0
    raise ValueError(
        f"none of the {len(ids)} queries has a match in the gallery: {np.sum(~absent)} lost every match to the camera "
        f"rule (same identity, same camera), and {np.sum(absent)} show one of {len(np.unique(ids[absent]))} identities "
        "that are absent from the gallery; check that identities and cameras of both were read alike"
    )
