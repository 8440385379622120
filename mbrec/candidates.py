"""The items among which the weights of a stack are learned, with the scores of all its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mbrec import metrics
from mbrec.graph import Pairs
from mbrec.ranking import Exclusion
from mbrec.scoring import Scorer, Sparse
from mbrec.spread import users_at_a_time

_RANKED = 4096  # held-out rows whose ranks are found at a time

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """For every user the best items of every part, popular ones, and some at random.

    N users, W items, P parts.

    The random ones are there for what no part ranks high: a weight must not lift that unseen. Users
    of whom no held-out row is among the candidates are left out: whatever the weights, their lists
    miss everything, and they teach nothing.
    """

    users: Tensor  # (N,) int64, who they are, ascending
    items: Tensor  # (N, W) int64, ascending; -1 where there is none
    scores: Tensor  # (P, N, W) float32; 0 where there is no item
    held_out: Tensor  # (N, W) bool: the user has it among her held-out rows; one at least
    relevant: Pairs  # all held-out rows of these users, as 0 … N-1; sorted
    asked: int  # N, and those who were left out

    def metrics(self, scores: Tensor, ks: Sequence[int]) -> dict[str, FloatArray]:
        """All metrics of the rankings by `scores` (N, W), by name. (N,) each."""
        sizes = np.bincount(self.relevant.user_idx, minlength=len(self.items)).astype(np.float64)
        return metrics.of_hits(self._hits(scores, max(ks)), sizes, ks)

    def metric(self, scores: Tensor, ks: Sequence[int], name: str) -> FloatArray:
        """A metric of the rankings by `scores` (N, W), averaged over the lengths. (N,)."""
        found = self.metrics(scores, ks)
        mean: FloatArray = np.mean([found[f"{name}@{k}"] for k in ks], axis=0)
        return mean

    def mean(self, values: FloatArray) -> float:
        """The mean of a metric (N,) over all who were asked: it is 0 of who was left out."""
        return float(values.sum()) / max(self.asked, 1)

    def _hits(self, scores: Tensor, length: int) -> npt.NDArray[np.bool_]:
        """Whether the best items are held out, best first. (N, length)."""
        hits = np.zeros((len(self.items), length), bool)
        ranked = scores.masked_fill(self.items < 0, -torch.inf)
        # Ranks of the few that are held out: to sort all candidates takes several times as long.
        for some in torch.split(self.held_out.nonzero(), _RANKED):
            user, place = some.unbind(1)
            rows = ranked[user]
            own = rows.gather(1, place[:, None])
            rank = (rows > own).sum(1)
            tied = ((rows >= own).sum(1) > rank + 1).nonzero()[:, 0]
            if len(tied):  # of equal scores the lower index comes first
                earlier = (rows[tied] == own[tied]).cumsum(1) - 1
                rank[tied] += earlier.gather(1, place[tied, None])[:, 0]
            listed = rank < length
            hits[user[listed].numpy(), rank[listed].numpy()] = True
        return hits

    def of(self, users: npt.NDArray[np.int64]) -> Candidates:
        """Those of some of the users, ascending; nobody else was asked."""
        place = np.full(len(self.items), -1, np.int32)
        place[users] = np.arange(len(users), dtype=np.int32)
        mine = place[self.relevant.user_idx] >= 0
        relevant = Pairs(place[self.relevant.user_idx[mine]], self.relevant.item_idx[mine])
        rows = torch.from_numpy(users)
        return Candidates(
            self.users[rows],
            self.items[rows],
            self.scores[:, rows],
            self.held_out[rows],
            relevant,
            len(users),
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
        most_users: Where there are more, as many are asked, evenly from among them.
        also: Scores (I,) that are the same for all users; their best items are taken, too.

    Memory: 4 bytes per user, candidate and part, twice that while blocks of users are put together;
    and the scores of one block, see `users_at_a_time`, of one part at a time, some three times.
    """
    users = np.unique(held_out.user_idx)
    if len(users) > most_users:
        users = users[np.linspace(0, len(users) - 1, most_users).astype(np.int64)]
    random = torch.Generator().manual_seed(0)
    num_items = scorers[0].num_items
    blocks = [
        _gather(
            scorers,
            also,
            batch,
            held_out,
            exclude,
            depth,
            torch.randint(num_items, (len(batch), others), generator=random),
        )
        for batch in torch.split(torch.from_numpy(users).long(), users_at_a_time(num_items))
    ]
    width = max(items.shape[1] for _, items, _, _ in blocks)
    count = sum(len(who) for who, _, _, _ in blocks)
    items, wanted = torch.full((count, width), -1), torch.zeros(count, width, dtype=torch.bool)
    scores = torch.zeros(len(scorers), count, width)
    start = 0
    for who, found, mine, values in blocks:
        block = slice(start, start + len(who)), slice(found.shape[1])
        items[block], wanted[block], scores[:, block[0], block[1]] = found, mine, values
        start += len(who)
    who = torch.cat([who for who, _, _, _ in blocks])
    theirs = np.isin(held_out.user_idx, who.numpy())
    rows = np.searchsorted(who.numpy(), held_out.user_idx[theirs]).astype(np.int32)
    relevant = Pairs(rows, held_out.item_idx[theirs])
    return Candidates(who, items, scores, wanted, relevant, len(users))


def _gather(
    scorers: Sequence[Scorer],
    also: Sequence[Tensor],
    users: Tensor,
    held_out: Pairs,
    exclude: Exclusion,
    depth: int,
    drawn: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Candidates of a block of users.

    Returns:
        The users with a held-out row among their candidates (B,); their items (B, W), each once per
        user and -1 at the end; which of these are held out (B, W); and the scores (P, B, W).

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
    found = _columns(wanted)
    mine = _among(found, users, held_out, num_items)
    kept = mine.any(1).nonzero()[:, 0]
    items, mine = found[kept], mine[kept]
    place = items.clamp(min=0)
    values = torch.stack([scored(scorer)[kept].gather(1, place) for scorer in scorers])
    return users[kept], items, mine, values.masked_fill_(items < 0, 0.0)


def _columns(wanted: Tensor) -> Tensor:
    """Where rows of (B, I) are true: (B, W), ascending, then -1."""
    counts = wanted.sum(1)
    row, column = wanted.nonzero(as_tuple=True)
    place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    columns = torch.full((len(wanted), int(counts.max())), -1)
    columns[row, place] = column
    return columns


def _among(items: Tensor, users: Tensor, held_out: Pairs, num_items: int) -> Tensor:
    """Which items (B, W) of users (B,) are held out."""
    keys = users[:, None] * num_items + items
    return torch.isin(keys, torch.from_numpy(held_out.keys(num_items))) & (items >= 0)
