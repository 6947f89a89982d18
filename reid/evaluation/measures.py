"""Measures of placed matches, one value a query, exact under ties: each is its mean over the orders of tied images.

In a tie of m images, a of them matches, behind s images with p matches: the image at place j of the tie is a match in a
share a/m of the orders, and in those orders there are on average p + (j - 1)(a - 1)/(m - 1) matches before it.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from reid.evaluation.ranking import Placement

Floats = NDArray[np.float64]
CUT = 50  # the last rank that `cut50` looks at


def average_precision(placement: Placement, kind: Literal["hits", "trapezoid", "cut50"]) -> Floats:
    """[n] average precision, over all matches of the query.

    `hits`: mean over the matches of the precision at their ranks. `trapezoid`: mean over the matches of the average of
    the precision at their rank and at the rank before, which is 1 before the first rank (the Market-1501 script).
    `cut50`: like `hits`, but matches beyond rank 50 count as 0 (the code of BDB).
    """
    before, tied = placement.before, placement.tied
    slope = (placement.hits_tied - 1) / np.maximum(tied - 1, 1)
    places = np.clip(CUT - before, 0, tied) if kind == "cut50" else tied
    precision = _sum_of_ratios(placement.hits_before + 1, before + 1, slope, places)
    if kind == "trapezoid":
        behind = _sum_of_ratios(placement.hits_before, np.maximum(before, 1), slope, places)
        at_the_top = 1 + slope * (tied - 1)
        precision = (precision + np.where(before > 0, behind, at_the_top)) / 2
    return np.add.reduceat(precision / tied, placement.starts) / placement.counts


def inverse_negative_penalty(placement: Placement) -> Floats:
    """[n] matches / rank of the last match.

    Source: Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook" (TPAMI 2021), mINP.
    """
    before, tied, hits = (a[placement.lasts] for a in (placement.before, placement.tied, placement.hits_tied))
    inverse = 1.0 / (before + tied)
    for query in np.flatnonzero(tied > hits):
        inverse[query] = _mean_inverse_last(int(before[query]), int(tied[query]), int(hits[query]))
    return placement.counts * inverse


def first_match_rank(placement: Placement) -> Floats:
    """[n] rank of the first match; a of m tied images leave m + 1 places to be shared by a + 1 gaps."""
    before, tied, hits = (a[placement.starts] for a in (placement.before, placement.tied, placement.hits_tied))
    first: Floats = before + (tied + 1) / (hits + 1)
    return first


def share_found(placement: Placement, depth: int) -> Floats:
    """[n, depth] probability that a match is among the first k images, at k - 1."""
    before, tied, hits = (a[placement.starts, None] for a in (placement.before, placement.tied, placement.hits_tied))
    passed = np.arange(depth) - before  # tied images that were all wrong before this rank
    miss = np.clip((tied - hits - passed) / np.maximum(tied - passed, 1), 0.0, 1.0)
    return np.asarray(1.0 - np.cumprod(np.where(passed < 0, 1.0, miss), axis=1), np.float64)


def _sum_of_ratios(top: NDArray[Any], bottom: NDArray[Any], slope: Floats, count: NDArray[Any]) -> Floats:
    """Sum over i = 0 .. count - 1 of (top + slope i) / (bottom + i), by harmonic numbers."""
    harmonic = _digamma(bottom + count) - _digamma(bottom)
    total: Floats = np.where(count == 1, top / bottom, slope * count + (top - slope * bottom) * harmonic)
    return total


def _digamma(values: NDArray[Any]) -> Floats:
    digamma: Floats = torch.special.digamma(torch.from_numpy(values.astype(np.float64))).numpy()
    return digamma


def _mean_inverse_last(before: int, tied: int, hits: int) -> float:
    """Mean of 1 / rank of the last match: it is at place j of the tie in C(j-1, hits-1) of C(tied, hits) orders."""
    places = np.arange(tied, hits - 1, -1)
    ratios = (places[:-1] - hits) / (places[:-1] - 1)  # of the odds of place j - 1 to those of place j
    odds = np.cumprod(np.concatenate([[hits / tied], ratios]))
    return float(odds @ (1.0 / (before + places)))
