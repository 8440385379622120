"""The shares of a score, from what scores it.

Sums, histories times similarities, and stored scores are taken apart exactly, whatever the method.
Embeddings are left to a function that the caller gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mbrec.explain.shares import Done, Shares, single
from mbrec.network import Network
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

POPULARITY = "popularity"
SIMILAR = "similar items"
ALIKE = "similar users"
STORED = "stored score"
TOGETHER = "all parts together"
EMBEDDINGS = "embeddings"

FactorShares = Callable[[Factors, str], list[Shares]]
"""The shares of a score by embeddings; the second argument is the name of the part, or ""."""


@dataclass(frozen=True)
class Asked:
    """Whose score, and what is known of it."""

    user: int
    item: int
    done: Done  # by the user
    weights: Mapping[str, float]  # behavior → its weight in histories
    names: Sequence[str]  # of the parts of the sum, where the run knows them
    factors: FactorShares


def decompose(scorer: Scorer, asked: Asked, name: str = "") -> list[Shares]:
    """Shares that add up to the score.

    Args:
        scorer: Of one behavior.
        asked: Whose score.
        name: What the part is called, if it is one of a sum.

    Raises:
        TypeError: A kind of scorer without a rule.
    """
    if isinstance(scorer, Sum):
        names = asked.names if len(asked.names) == len(scorer.parts) else [""] * len(scorer.parts)
        return [
            shares.scaled(weight)
            for part, weight, own in zip(scorer.parts, scorer.weights, names, strict=True)
            for shares in decompose(part, asked, own)
        ]
    if isinstance(scorer, Weighted):
        factor = float(scorer.by_user[asked.user] + scorer.by_item[asked.item])
        return [shares.scaled(factor) for shares in decompose(scorer.inner, asked, name)]
    if isinstance(scorer, Factors):
        # What is the same for all users but for a factor is popularity, under any name.
        if name == POPULARITY or scorer.user_emb.shape[1] == 1:
            return [single(name or POPULARITY, _score(scorer, asked))]
        return asked.factors(scorer, name)
    if isinstance(scorer, Sparse):
        value = _score(scorer, asked)
        return _own(name or STORED, asked, value) if value else []
    if isinstance(scorer, (ItemNeighbors, ItemToItem)):
        return _similar(name or SIMILAR, scorer, asked)
    if isinstance(scorer, UserNeighbors):
        value = _score(scorer, asked)
        return [single(name or ALIKE, value)] if value else []
    if isinstance(scorer, Network):
        added = scorer.correction(torch.tensor([asked.user]), asked.item, asked.item + 1)
        return [*decompose(scorer.base, asked), single(TOGETHER, float(added[0, 0]))]
    raise TypeError(f"no rule to explain {type(scorer).__name__}")


def _score(scorer: Scorer, asked: Asked) -> float:
    rows = torch.tensor([asked.user])
    return float(scorer.scores(rows, asked.item, asked.item + 1)[0, 0])


def _own(part: str, asked: Asked, value: float) -> list[Shares]:
    """A score kept for this user and item: for what she has done to it, or by walks."""
    prefix, _, behavior = part.partition("/")
    nodes, values = np.array([asked.item]), np.array([value])
    if prefix in ("history", "recency") and behavior in asked.done.behaviors:
        return [Shares(part, behavior, 0, nodes, values)]
    if asked.item not in asked.done.known():
        return [single(part, value)]
    return asked.done.combined(part, 0, nodes, values)


def _similar(part: str, scorer: ItemNeighbors | ItemToItem, asked: Asked) -> list[Shares]:
    """Weight · similarity of every item of the history."""
    _, items, weights = scorer.history.rows(torch.tensor([asked.user]))
    if isinstance(scorer, ItemToItem):
        values = weights.double() * scorer.similarity[items, asked.item].double()
    else:
        entry, scored, similarity = scorer.neighbors.rows(items)
        mine = scored == asked.item
        values = torch.zeros(len(items), dtype=torch.float64)
        values[entry[mine]] = weights[entry[mine]].double() * similarity[mine].double()
    used = values != 0
    return asked.done.split(part, items[used].numpy(), values[used].numpy(), asked.weights)
