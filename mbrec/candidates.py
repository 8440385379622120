"""The items among which the weights of a stack are learned, with the scores of all its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mbrec import metrics
from mbrec.graph import Pairs
from mbrec.ranking import Exclusion
from mbrec.scoring import Scorer, Sparse
from mbrec.spread import users_at_a_time

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """For every user the best items of every part, popular ones, and some at random.

    N users, W items, P parts.

    The random ones are there for what no part ranks high: a weight must not lift that unseen.
    """

    users: Tensor  # (N,) int64, who they are, ascending
    items: Tensor  # (N, W) int64, ascending; -1 where there is none
    scores: Tensor  # (N, W, P) float32; 0 where there is no item
    held_out: Tensor  # (N, W) bool: the user has it among her held-out rows
    relevant: Pairs  # all held-out rows, with users 0 … N-1; sorted

    def metric(self, scores: Tensor, ks: Sequence[int], name: str) -> FloatArray:
        """A metric of the rankings by `scores` (N, W), averaged over the lengths. (N,)."""
        ranked = scores.masked_fill(self.items < 0, -torch.inf)
        places = ranked.topk(min(max(ks), ranked.shape[1]), dim=1).indices
        lists = self.items.gather(1, places)
        # Where there are fewer candidates than places, the rest of the list is empty.
        padded = F.pad(lists, (0, max(ks) - lists.shape[1]), value=-1).numpy()
        found = metrics.per_user(padded, self.relevant, ks)
        mean: FloatArray = np.mean([found[f"{name}@{k}"] for k in ks], axis=0)
        return mean

    def of(self, users: npt.NDArray[np.int64]) -> Candidates:
        """Those of some of the users, ascending."""
        place = np.full(len(self.items), -1, np.int32)
        place[users] = np.arange(len(users), dtype=np.int32)
        mine = place[self.relevant.user_idx] >= 0
        relevant = Pairs(place[self.relevant.user_idx[mine]], self.relevant.item_idx[mine])
        rows = torch.from_numpy(users)
        return Candidates(
            self.users[rows], self.items[rows], self.scores[rows], self.held_out[rows], relevant
        )


@torch.no_grad()
def find_candidates(
    scorers: Sequence[Scorer],
    held_out: Pairs,
    exclude: Exclusion,
    *,
    depth: int,
    others: int,
    most_users: int,
    also: Sequence[Tensor] = (),
) -> Candidates:
    """Gather them.

    Args:
        scorers: The parts.
        held_out: Validation rows of the behavior, sorted by user, then item; not empty.
        exclude: Items that are not ranked, those of training.
        depth: Best items taken from each part. Of a `Sparse` one, only what it stores.
        others: Items drawn at random per user, from a fixed seed.
        most_users: Where there are more, they are taken evenly from among them.
        also: Scores (I,) that are the same for all users; their best items are taken, too.

    Memory: 4 bytes per user, candidate and part, twice that while blocks of users are put together;
    and the scores of one block, see `users_at_a_time`, of one part at a time, some three times.
    """
    users = np.unique(held_out.user_idx)
    if len(users) > most_users:
        users = users[np.linspace(0, len(users) - 1, most_users).astype(np.int64)]
    kept = np.isin(held_out.user_idx, users)
    rows = np.searchsorted(users, held_out.user_idx[kept]).astype(np.int32)
    relevant = Pairs(rows, held_out.item_idx[kept])
    random = torch.Generator().manual_seed(0)
    num_items = scorers[0].num_items
    blocks = [
        _gather(
            scorers,
            also,
            batch,
            exclude,
            depth,
            torch.randint(num_items, (len(batch), others), generator=random),
        )
        for batch in torch.split(torch.from_numpy(users).long(), users_at_a_time(num_items))
    ]
    width = max(items.shape[1] for items, _ in blocks)
    items = torch.full((len(users), width), -1)
    scores = torch.zeros(len(users), width, len(scorers))
    start = 0
    for found, values in blocks:
        stop = start + len(found)
        items[start:stop, : found.shape[1]], scores[start:stop, : found.shape[1]] = found, values
        start = stop
    who = torch.from_numpy(users).long()
    return Candidates(who, items, scores, _among(items, relevant, num_items), relevant)


def _gather(
    scorers: Sequence[Scorer],
    also: Sequence[Tensor],
    users: Tensor,
    exclude: Exclusion,
    depth: int,
    drawn: Tensor,
) -> tuple[Tensor, Tensor]:
    """Items (B, W), each once per user and -1 at the end, and their scores (B, W, P).

    All scores are computed twice: to hold those of all parts would take P times the memory, and
    fewer users at a time would change the last bits of products.
    """
    num_items = scorers[0].num_items
    row, item = exclude.rows(users)
    wanted = torch.zeros(len(users), num_items, dtype=torch.bool)
    wanted.scatter_(1, drawn, True)
    for scores in also:
        wanted[:, scores.topk(min(depth, num_items)).indices] = True

    def scored(scorer: Scorer) -> Tensor:
        found = scorer.scores(users.to(scorer.device), 0, num_items).cpu()
        return found.contiguous()  # an expanded row could not be written to

    for scorer in scorers:
        block = scored(scorer)
        if isinstance(scorer, Sparse):
            wanted |= block != 0
            continue
        block[row, item] = -torch.inf
        best = block.topk(min(depth, num_items), dim=1).indices
        wanted.scatter_(1, best, True)
    wanted[row, item] = False
    items = _columns(wanted)
    place = items.clamp(min=0)
    found = [scored(scorer).gather(1, place) for scorer in scorers]
    return items, torch.stack(found, dim=2).masked_fill_(items[:, :, None] < 0, 0.0)


def _columns(wanted: Tensor) -> Tensor:
    """Where rows of (B, I) are true: (B, W), ascending, then -1."""
    counts = wanted.sum(1)
    row, column = wanted.nonzero(as_tuple=True)
    place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    columns = torch.full((len(wanted), int(counts.max())), -1)
    columns[row, place] = column
    return columns


def _among(items: Tensor, relevant: Pairs, num_items: int) -> Tensor:
    """Which of `items` (N, W) are in `relevant`."""
    keys = torch.arange(len(items))[:, None] * num_items + items
    held_out = torch.from_numpy(relevant.keys(num_items))
    return torch.isin(keys, held_out) & (items >= 0)
