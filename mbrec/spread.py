"""Scores of unit spread: those of different methods have different scales."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mbrec.scoring import (
    Factors,
    ItemNeighbors,
    ItemToItem,
    Scorer,
    Sparse,
    Sum,
    UserNeighbors,
    Weighted,
)

_CELLS = 1 << 24  # scores of one scorer held at a time


def unit_spread(scorer: Scorer) -> Scorer:
    """The same rankings, with scores whose standard deviation over the items is 1 for every user.

    Users whose scores are all equal keep them.
    """
    spread = _spread(scorer)
    return rescaled(scorer, torch.where(spread > 0, 1 / spread.clamp(min=1e-30), 1.0))


def rescaled(scorer: Scorer, factor: Tensor) -> Scorer:
    """The scorer with every user's scores multiplied by her factor (U,)."""
    if isinstance(scorer, Factors):
        return Factors(scorer.user_emb * factor[:, None], scorer.item_emb)
    if isinstance(scorer, Sparse):
        return _rescaled_rows(scorer, factor)
    if isinstance(scorer, (ItemToItem, ItemNeighbors)):
        return replace(scorer, history=_rescaled_rows(scorer.history, factor))
    if isinstance(scorer, UserNeighbors):
        return replace(scorer, similar=_rescaled_rows(scorer.similar, factor))
    if isinstance(scorer, Weighted):
        return replace(scorer, inner=rescaled(scorer.inner, factor))
    if isinstance(scorer, Sum):
        return replace(scorer, parts=tuple(rescaled(part, factor) for part in scorer.parts))
    raise TypeError(f"no rule to rescale {type(scorer).__name__}")


def users_at_a_time(num_items: int) -> int:
    """How many users' scores of all items are held at a time."""
    return max(_CELLS // max(num_items, 1), 1)


def _rescaled_rows(matrix: Sparse, factor: Tensor) -> Sparse:
    return replace(matrix, values=matrix.values * factor.repeat_interleave(matrix.indptr.diff()))


@torch.no_grad()
def _spread(scorer: Scorer) -> Tensor:
    """The standard deviation of every user's scores over all items. (U,)."""
    if isinstance(scorer, Factors):
        centered = scorer.item_emb - scorer.item_emb.mean(0)
        covariance = centered.T @ centered / max(len(centered), 1)
        variance = ((scorer.user_emb @ covariance) * scorer.user_emb).sum(1)
        return variance.clamp(min=0).sqrt()
    everyone = torch.arange(scorer.num_users, device=scorer.device)
    found = [
        scorer.scores(users, 0, scorer.num_items).std(1, correction=0)
        for users in torch.split(everyone, users_at_a_time(scorer.num_items))
    ]
    return torch.cat([torch.empty(0, device=scorer.device), *found])
