"""MB-GMN (Xia et al., "Graph Meta Network for Multi-Behavior Recommendation", SIGIR 2021).

A meta network writes, for every node and behavior, a low-rank transform of the node's embedding:

    m   = φ(M [s_k ‖ e ‖ n_k] + c),   n_k = Σ_{j ∈ N_k} e_j / √(|N_k(u)| |N_k(j)|),  φ = LeakyReLU
    ẽ_k = (F₁ m) (F₂ m) e  ‖  e,      F₁ m reshaped to (h, r), F₂ m to (r, h), h = d / 2

with a learned vector s_k of the behavior. The graph network of behavior k is residual,

    e^(0) = ẽ_k,  e^(l+1) = φ(A_k e^(l)) + e^(l),    e_k = Σ_l e^(l)

and one more goes over all behaviors: it starts from a transform made with n = Σ_k n_k and s_0, the
messages φ(A_k e^(l)) of all behaviors attend to each other (one matrix for queries and keys, the
messages as values, a residual), and are summed. A second meta network makes the predictor of
behavior b from the embeddings of a source s, one of the behaviors or their union (s = 0):

    ŷ_{s→b}(u, i) = (a_u ⊗ e_s,u) · (a_i ⊗ e_s,i) + v_i · e_s,i
    a_n = 1 + f([e_s ⊗ e_b ‖ e_s ‖ e_b]),   v_i = g([…])
    L   = Σ_b Σ_s mean max(0, 1 - ŷ_{s→b}(u, i) + ŷ_{s→b}(u, j)) + β ½ ‖e⁰‖²

Scores: ŷ_{0→b} for behavior b, as the paper for its target.

Where we deviate: the paper's predictor is a network of two layers whose weights depend on the pair
(u, i); nothing but a pass per pair could rank all items by it. Here its weights depend on the user
and on the item separately and it is linear in u ⊗ i and in i (u alone does not rank), so that the
ranking is exact and scores are `Factors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mbrec.errors import UsageError
from mbrec.models.base import (
    Context,
    EmbeddingConfig,
    TrainedMethod,
    base_l2,
    embedding_table,
    gather,
)
from mbrec.models.mb_gmn.attention import BehaviorAttention
from mbrec.models.mb_gmn.blocks import SLOPE, leaky_backward
from mbrec.models.mb_gmn.meta_networks import MetaPredictor, MetaTransform
from mbrec.models.terms import distinct, looked_up_scores
from mbrec.propagation import Nodes, Relation, light_gcn
from mbrec.sampling import Batch
from mbrec.scoring import Factors


class MbGmnConfig(EmbeddingConfig):
    """Settings of MB-GMN."""

    size: PositiveInt = Field(default=64, multiple_of=2)
    """d, the size of the propagated embeddings; the tables hold half of it."""

    layers: NonNegativeInt = 2
    """L."""

    rank: PositiveInt = 4
    """r, of the transforms that the meta network makes."""

    heads: PositiveInt = 2
    """Heads of the attention between behaviors; a divisor of d."""


class MbGmn(TrainedMethod):
    """MB-GMN.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.
    """

    def __init__(self, config: MbGmnConfig, context: Context) -> None:
        super().__init__()
        if config.size % config.heads:
            raise UsageError(
                f"model.heads = {config.heads} does not divide {config.size}, the size."
            )
        half, random = config.size // 2, context.generator
        self.config = config
        self.behaviors = context.behaviors
        self._relations = [context.relation(name) for name in context.behaviors]
        self.user_emb = embedding_table(context.num_users, half, config.initializer, random)
        self.item_emb = embedding_table(context.num_items, half, config.initializer, random)
        self.behavior_emb = embedding_table(len(self.behaviors) + 1, half, "xavier", random)
        self.meta = MetaTransform(half, config.rank, random)
        self.attention = nn.ModuleList(
            BehaviorAttention(config.size, config.heads, random) for _ in range(2 * config.layers)
        )
        self.predictor = MetaPredictor(config.size, random)

    def propagate(self) -> list[Nodes]:
        """e_0 of the union, then e_1 … e_K: what the sources give to the predictor."""
        base = Nodes(self.user_emb, self.item_emb)
        near = [light_gcn(relation, base, 1, "last") for relation in self._relations]  # n_k
        specialized = self.meta(self.behavior_emb, base, near)
        behaviors = [
            residual_gcn(relation, nodes, self.config.layers)
            for relation, nodes in zip(self._relations, specialized[1:], strict=True)
        ]
        return [self._together(specialized[0]), *behaviors]

    def losses(self, state: list[Nodes], batch: Batch) -> dict[str, Tensor]:
        """The pairwise loss of every behavior, summed over sources, and L2."""
        users = distinct_rows([s.user for s in state], [t.user_idx for t in batch.values()])
        items = distinct_rows([s.item for s in state], [t.items for t in batch.values()])
        terms = {}
        for behavior, (user, user_place), (item, item_place) in zip(
            batch, users, items, strict=True
        ):
            own = 1 + self.behaviors.index(behavior)
            parts = []
            for factor, (other, bias) in zip(
                self.predictor.users(user, user[own]),
                self.predictor.items(item, item[own]),
                strict=True,
            ):
                scores = looked_up_scores(factor, other, user_place, item_place)  # (B, 1+N)
                scores = scores + gather(bias, [item_place])[0].squeeze(2)
                parts.append(F.relu(1 - scores[:, :1] + scores[:, 1:]).mean())
            terms[f"pairwise/{behavior}"] = torch.stack(parts).sum()
        if self.config.l2:
            terms["l2"] = base_l2(self.user_emb, self.item_emb, batch, self.config.l2)
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """The prediction of every behavior from the union, as factors."""
        union, *own = self.propagate()
        found = {}
        for behavior, nodes in zip(self.behaviors, own, strict=True):
            (user,) = self.predictor.users([union.user], nodes.user)
            ((item, bias),) = self.predictor.items([union.item], nodes.item)
            found[behavior] = Factors(
                torch.cat([user, torch.ones_like(user[:, :1])], dim=1),
                torch.cat([item, bias], dim=1),
            )
        return found

    def _together(self, nodes: Nodes) -> Nodes:
        """e_0: the graph network over all behaviors."""
        total = nodes
        for layer in range(self.config.layers):
            messages = [light_gcn(relation, nodes, 1, "last") for relation in self._relations]
            nodes = Nodes(
                *(
                    self.attention[2 * layer + side]([message[side] for message in messages])
                    for side in range(2)
                )
            )
            total = Nodes(*(t + e for t, e in zip(total, nodes, strict=True)))
        return total


def residual_gcn(relation: Relation, nodes: Nodes, layers: int) -> Nodes:
    """Σ_l e^(l) with e^(l+1) = φ(A e^(l)) + e^(l): the graph network of one behavior.

    Args:
        relation: The behavior's.
        nodes: e^(0).
        layers: L.
    """
    result = _ResidualGcn.apply(relation, layers, *nodes)  # type: ignore[no-untyped-call]
    return Nodes(*result)


class _ResidualGcn(torch.autograd.Function):
    """Keeps the messages alone, whose signs the gradient needs, and adds up in place."""

    @staticmethod
    def forward(ctx: Any, relation: Relation, layers: int, *nodes: Tensor) -> tuple[Tensor, ...]:
        """The sums over layers, (U, d) and (I, d), of the base embeddings."""
        ctx.relation, messages = relation, []
        total = [e.clone() for e in nodes]
        for _ in range(layers):
            heard = [F.leaky_relu_(m, SLOPE) for m in light_gcn(relation, Nodes(*nodes), 1, "last")]
            nodes = tuple(m + e for m, e in zip(heard, nodes, strict=True))
            for t, e in zip(total, nodes, strict=True):
                t += e
            messages += heard
        ctx.save_for_backward(*messages)
        return tuple(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """The gradients of the base embeddings, from those of the sums."""
        later = gradients  # of e^(l), by way of all layers from l on
        messages = ctx.saved_tensors
        for first in range(len(messages) - 2, -1, -2):
            stepped = [leaky_backward(*pair) for pair in zip(later, messages[first:], strict=False)]
            through = light_gcn(ctx.relation, Nodes(*stepped), 1, "last")
            for e, *others in zip(through, later, gradients, strict=True):
                for other in others:
                    e += other
            later = through
        return None, None, *later


def distinct_rows(
    tables: Sequence[Tensor], index: Sequence[Tensor]
) -> list[tuple[list[Tensor], Tensor]]:
    """The rows that an index names, once each: most stand in several pairs of a batch.

    Args:
        tables: (N, d) each.
        index: Index tensors of any shapes.

    Returns:
        Per index: these rows of all tables, (n, d) each, and where the index finds its own.
    """
    named = [distinct(rows, len(tables[0])) for rows in index]
    found = [gather(table, [nodes for nodes, _ in named]) for table in tables]
    return [
        (list(rows), place.view_as(given))
        for *rows, (_, place), given in zip(*found, named, index, strict=True)
    ]
