"""Where the matches of a query stand in its ranking, by counting."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reid.evaluation.embeddings import Ints, Matches


@dataclass(frozen=True, eq=False, kw_only=True)
class Placement:
    """Where the matches of some queries stand: the queries in turn, each with its matches from near to far.

    Attributes:
        starts: [n] each query's first match in the arrays below; every query has one.
        before: [M] ranked images nearer than the match.
        tied: [M] ranked images at the distance of the match, itself included.
        hits_before: [M] matches among `before`.
        hits_tied: [M] matches among `tied`.
    """

    starts: Ints
    before: Ints
    tied: Ints
    hits_before: Ints
    hits_tied: Ints

    @property
    def counts(self) -> Ints:
        """[n] matches of each query."""
        return np.diff(self.starts, append=len(self.before))

    @property
    def lasts(self) -> Ints:
        """[n] each query's last match in the arrays."""
        return self.starts + self.counts - 1

    def wrong_first(self) -> "Placement":
        """The same matches, each behind the wrong images it is tied with, so that no ties are left."""
        index = np.arange(len(self.before)) - np.repeat(self.starts, self.counts)
        before = self.before + (self.tied - self.hits_tied) + (index - self.hits_before)
        single = np.ones_like(self.tied)
        return Placement(starts=self.starts, before=before, tied=single, hits_before=index, hits_tied=single)


def place(distances: Tensor, matches: Matches, queries: Ints) -> Placement:
    """Count, for each match, the ranked images nearer than it and those tied with it.

    Args:
        distances: [len(queries), G] float32, smaller is nearer; set to infinity where an image is not to be ranked.
        matches: who matches whom.
        queries: the query of each row of `distances`; every one has a match.
    """
    rows, columns = _forget_unranked(distances, matches, queries)
    values = distances[rows, columns]
    keys, nearest_first = order_keys(values, rows).sort()
    counts = torch.bincount(rows)
    starts = counts.cumsum(0) - counts
    near, num_near = within(distances, values[nearest_first][starts + counts - 1])
    near_keys = order_keys(near, torch.repeat_interleave(num_near))

    slots = torch.searchsorted(keys, near_keys)  # the first match that is as far or farther, always of the same query
    up_to = torch.bincount(slots, minlength=len(keys)).cumsum(0) - (num_near.cumsum(0) - num_near)[rows]
    level = torch.bincount(slots[up_to_limits(keys.index_select(0, slots), near_keys)], minlength=len(keys))
    group = torch.searchsorted(keys, keys)  # the first match at this distance: the slot of all that is tied with it
    tied = level[group]
    return Placement(
        starts=starts.cpu().numpy(),
        before=(up_to - tied).cpu().numpy(),
        tied=tied.cpu().numpy(),
        hits_before=(group - starts[rows]).cpu().numpy(),
        hits_tied=(torch.searchsorted(keys, keys, right=True) - group).cpu().numpy(),
    )


def within(distances: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """The distances [n, G] up to each row's limit [n], row after row, and how many a row has."""
    near = up_to_limits(distances, limits[:, None])
    row_ends = torch.arange(len(distances) + 1, device=near.device) * distances.shape[1]
    return distances.view(-1).index_select(0, near), torch.searchsorted(near, row_ends).diff()


def up_to_limits(values: Tensor, limits: Tensor) -> Tensor:
    """Where in the flattened values they are up to their limits, which broadcast."""
    if values.device.type != "cpu":
        return (values <= limits).view(-1).nonzero().view(-1)
    # NumPy's comparison and selection take a quarter of torch's time on a CPU.
    return torch.from_numpy(np.flatnonzero(values.numpy() <= limits.numpy()))


def _forget_unranked(distances: Tensor, matches: Matches, queries: Ints) -> tuple[Tensor, Tensor]:
    """Move what is not ranked to infinity; rows and columns of the matches."""
    pairs = matches.pairs(queries)
    rows, columns, scored = (torch.from_numpy(array).to(distances.device) for array in pairs)
    distances[rows[~scored], columns[~scored]] = torch.inf
    if len(matches.junk):
        distances[:, torch.from_numpy(matches.junk).to(distances.device)] = torch.inf
    return rows[scored], columns[scored]


def order_keys(values: Tensor, rows: Tensor) -> Tensor:
    """int64 that order as (row, value) do: a float32's bits order as it does, once those of negatives are flipped."""
    bits = (values + 0.0).view(torch.int32)  # adding zero makes -0.0 the 0.0 that it equals
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() + (rows << 32)
