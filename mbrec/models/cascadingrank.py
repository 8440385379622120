"""CascadingRank: personalized random walks along the cascade (Ko, Jeon and Jung, Inf. Sci. 2025).

No training. For a user u and every behavior k in cascade order, scores of all users and items are
the fixed point of

    r_U^(k) = γ Ã_k  r_I^(k) + α q_U     + β r_U^(k-1)
    r_I^(k) = γ Ã_kᵀ r_U^(k) + α q_I^(k) + β r_I^(k-1)            γ = 1 - α - β

with Ã_k = D_U^-½ A_k D_I^-½ (smoothing), the query q_U = 1 for u herself and q_I^(k) = 1/|N_u^(k)|
for her items in behavior k (query fitting), and the scores of the behavior before (cascading
alignment; for the first behavior the query in their place). A behavior's lists are ranked by its
own r_I^(k): the original stops at the target and shows that alone.

Deviations: T steps, the least with γ^T ≤ tolerance, which bring the error under the tolerance
whatever the graph, because Ã_k makes no vector longer; the authors stop by the mean residual of a
block of users, so that a list depends on who else is in the block. A user without items in behavior
k has q_I^(k) = 0. What is stored are the best items of every user, over a tail of popularity for
the rest, and for users from whom no walk leads anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from mbrec.columns import GLOBAL
from mbrec.memory import require_memory
from mbrec.models.base import Context, Entry, Method, MethodConfig
from mbrec.models.mostpop import popularity_tail
from mbrec.propagation import Nodes, Relation
from mbrec.scoring import Sparse, Sum

_CELLS = 1 << 23  # nodes × users of a block: 32 MiB per matrix, some six at a time
_MOST_USERS = 512
_LEAST = 1e-12  # scores below are not kept; the tail of popularity stays far below this


class CascadingRankConfig(MethodConfig):
    """Settings of CascadingRank."""

    alpha: float = Field(default=0.4, ge=0, le=1)
    """α: how strongly a walk returns to the user and her items in the behavior."""

    beta: float = Field(default=0.2, ge=0, le=1)
    """β: how strongly the scores of the behavior before count; α + β is above 0, at most 1."""

    tolerance: float = Field(default=1e-4, gt=0, lt=1)
    """How far scores may be from the fixed point, as a share of how far they were at the start."""

    keep: PositiveInt = 200
    """Items kept per user beside her own; lists up to this length are exact."""

    @model_validator(mode="after")
    def _fits(self) -> CascadingRankConfig:
        if not 0 < self.alpha + self.beta <= 1 + 1e-9:
            raise ValueError("model.alpha + model.beta has to be above 0 and at most 1")
        return self

    @property
    def gamma(self) -> float:
        """γ, the share that comes from neighbors."""
        return max(1 - self.alpha - self.beta, 0.0)

    @property
    def steps(self) -> int:
        """T, the least with γ^T ≤ tolerance."""
        return math.ceil(math.log(self.tolerance) / math.log(self.gamma)) if self.gamma else 1


class CascadingRank(Method):
    """CascadingRank.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.

    Cost: time O(U · T · E), all users walking over all edges; memory O((U + I) · block).
    """

    def __init__(self, config: CascadingRankConfig, context: Context) -> None:
        self.config = config
        self._context = context
        self._relations = {name: context.relation(name) for name in context.behaviors}
        self._queries = {
            name: Sparse.from_pairs(context.train[name], context.num_users, context.num_items)
            for name in context.behaviors
        }
        degrees, _ = context.relation(GLOBAL).engine.degrees(GLOBAL)
        self._own = degrees.long().cpu()  # how many items a user has, by any behavior

    def scorers(self) -> dict[str, Sum]:
        """The best items of every user, and popularity below them.

        Raises:
            TrainingError: They do not fit into memory.
        """
        context = self._context
        rows = self.config.keep * context.num_users + int(self._own.sum())
        require_memory(
            rows * len(context.behaviors) * 2 * 12 + 8 * 4 * _CELLS,  # kept, and kept in one piece
            f"CascadingRank with {self.config.keep} items for each of {context.num_users:,} users",
            "Lower model.keep.",
        )
        parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {b: [] for b in context.behaviors}
        size = max(min(_CELLS // max(context.num_users + context.num_items, 1), _MOST_USERS), 1)
        for users in torch.split(torch.arange(context.num_users), size):
            for behavior, scores in self.walk(users):
                parts[behavior].append(self._best(users, scores))
        result = {}
        for behavior, blocks in parts.items():
            counts, items, values = (torch.cat(column) for column in zip(*blocks, strict=True))
            indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
            kept = Sparse.of(indptr, items, values, context.num_items)
            tail = popularity_tail(context, behavior)
            result[behavior] = Sum((kept.to(context.device), tail), (1.0, 1.0))
        return result

    @torch.no_grad()
    def walk(self, users: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The behaviors in cascade order, each with r_I of these users, (I, B)."""
        config, context = self.config, self._context
        everybody = torch.zeros(context.num_users, len(users))
        everybody[users, torch.arange(len(users))] = 1
        query_user = everybody.to(context.device)
        before: Nodes | None = None
        for behavior, relation in self._relations.items():
            query = Nodes(query_user, self._query(behavior, users))
            before = before or query
            source = Nodes(
                *(config.alpha * q + config.beta * r for q, r in zip(query, before, strict=True))
            )
            found = query
            for _ in range(config.steps):
                found = _step(relation, found, source, config.gamma)
            before = found
            yield behavior, found.item

    def _query(self, behavior: str, users: Tensor) -> Tensor:
        """q_I of these users, (I, B)."""
        items = self._queries[behavior].scores(users, 0, self._context.num_items)
        items /= items.sum(dim=1, keepdim=True).clamp(min=1)
        return items.T.contiguous().to(self._context.device)

    def _best(self, users: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The items to keep: counts (B,), items and values by user, then item.

        The user's own items come on top, because lists may leave them out.
        """
        wanted = self.config.keep + self._own[users]
        most = min(int(wanted.max()), len(scores))
        values, items = (found.cpu() for found in scores.T.topk(most, dim=1))
        kept = (torch.arange(most) < wanted.unsqueeze(1)) & (values > _LEAST)
        items = items.masked_fill(~kept, len(scores))  # behind all others
        items, order = items.sort(dim=1)
        kept = kept.gather(1, order)
        return kept.sum(dim=1), items[kept], values.gather(1, order)[kept]


def _step(relation: Relation, nodes: Nodes, source: Nodes, gamma: float) -> Nodes:
    """γ (Ã r_I, Ãᵀ r_U) + source."""
    by_user, by_item = relation.engine.normalized(relation.name, gamma)
    return Nodes(by_user.sums(nodes.item, source.user), by_item.sums(nodes.user, source.item))


ENTRY = Entry(CascadingRankConfig, CascadingRank)
