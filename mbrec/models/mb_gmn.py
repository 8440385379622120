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

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from mbrec.errors import UsageError
from mbrec.models.base import (
    Context,
    Entry,
    Initializer,
    MethodConfig,
    PerBehavior,
    TrainedMethod,
    base_l2,
    embedding_table,
    gather,
    pair_scores,
)
from mbrec.propagation import Nodes, Relation, light_gcn
from mbrec.sampling import Batch
from mbrec.scoring import Factors


class MbGmnConfig(MethodConfig):
    """Settings of MB-GMN."""

    size: PositiveInt = Field(default=64, multiple_of=2)
    """d, the size of the propagated embeddings; the tables hold half of it."""

    initializer: Initializer = "xavier"
    """Initial embeddings: "normal" N(0, 0.1²) or "xavier"."""

    layers: NonNegativeInt = 2
    """L."""

    rank: PositiveInt = 4
    """r, of the transforms that the meta network makes."""

    heads: PositiveInt = 2
    """Heads of the attention between behaviors; a divisor of d."""

    l2: PerBehavior = 1e-4
    """β, on the base embeddings of the batch's rows; or a table behavior = weight."""


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
        union = Nodes(*(torch.stack(side).sum(0) for side in zip(*near, strict=True)))
        specialized = [
            self.meta(behavior, base, neighbors)
            for behavior, neighbors in zip(self.behavior_emb, [union, *near], strict=True)
        ]
        behaviors = [
            self._alone(relation, nodes)
            for relation, nodes in zip(self._relations, specialized[1:], strict=True)
        ]
        return [self._together(specialized[0]), *behaviors]

    def losses(self, state: list[Nodes], batch: Batch) -> dict[str, Tensor]:
        """The pairwise loss of every behavior, summed over sources, and L2."""
        terms = {}
        for behavior, triples in batch.items():
            own = state[1 + self.behaviors.index(behavior)]
            total = own.user.new_zeros(())
            for source in state:
                users = gather_pair(source.user, own.user, triples.user_idx)
                items = gather_pair(source.item, own.item, triples.items)
                user, (item, bias) = self.predictor.user(*users), self.predictor.item(*items)
                scores = pair_scores(user, item) + bias  # (B, 1+N)
                total = total + F.relu(1 - scores[:, :1] + scores[:, 1:]).mean()
            terms[f"pairwise/{behavior}"] = total
        if self.config.l2:
            terms["l2"] = base_l2(self.user_emb, self.item_emb, batch, self.config.l2)
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """The prediction of every behavior from the union, as factors."""
        union, *own = self.propagate()
        found = {}
        for behavior, nodes in zip(self.behaviors, own, strict=True):
            user = self.predictor.user(union.user, nodes.user)
            item, bias = self.predictor.item(union.item, nodes.item)
            found[behavior] = Factors(
                torch.cat([user, torch.ones_like(user[:, :1])], dim=1),
                torch.cat([item, bias.unsqueeze(1)], dim=1),
            )
        return found

    def _alone(self, relation: Relation, nodes: Nodes) -> Nodes:
        """e_k: the residual graph network of one behavior."""
        total = nodes
        for _ in range(self.config.layers):
            message = light_gcn(relation, nodes, 1, "last")
            nodes = Nodes(*(F.leaky_relu(m) + e for m, e in zip(message, nodes, strict=True)))
            total = Nodes(*(t + e for t, e in zip(total, nodes, strict=True)))
        return total

    def _together(self, nodes: Nodes) -> Nodes:
        """e_0: the graph network over all behaviors."""
        total = nodes
        for layer in range(self.config.layers):
            messages = [light_gcn(relation, nodes, 1, "last") for relation in self._relations]
            nodes = Nodes(
                *(
                    self.attention[2 * layer + side]([F.leaky_relu(m[side]) for m in messages])
                    for side in range(2)
                )
            )
            total = Nodes(*(t + e for t, e in zip(total, nodes, strict=True)))
        return total


class MetaTransform(nn.Module):
    """The meta network that makes a low-rank transform per node.

    Args:
        half: h, the size of the embeddings.
        rank: r.
        generator: For the initial weights.

    Cost: O(N h² r) time and O(N h r) memory for N nodes.
    """

    def __init__(self, half: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self._shape = half, rank
        self.hidden = linear(3 * half, half, generator)  # M, of users and items alike
        self.factors = nn.ModuleList(  # F₁ and F₂ of users, F₁ and F₂ of items
            linear(half, half * rank, generator) for _ in range(4)
        )

    def forward(self, behavior: Tensor, base: Nodes, neighbors: Nodes) -> Nodes:
        """ẽ of all nodes, (U, 2h) and (I, 2h).

        Args:
            behavior: s_k. (h,)
            base: e. (U, h) and (I, h)
            neighbors: n_k, likewise.
        """
        half, rank = self._shape
        sides = []
        for side, (own, near) in enumerate(zip(base, neighbors, strict=True)):
            meta = F.leaky_relu(self.hidden(torch.cat([behavior.expand_as(own), own, near], 1)))
            first, second = self.factors[2 * side : 2 * side + 2]
            low = torch.bmm(own.unsqueeze(1), first(meta).view(-1, half, rank))  # (N, 1, r)
            made = torch.bmm(low, second(meta).view(-1, rank, half)).squeeze(1)  # (N, h)
            sides.append(torch.cat([made, own], dim=1))
        return Nodes(*sides)


class BehaviorAttention(nn.Module):
    """Lets the messages of a node's behaviors attend to each other, and sums them.

    Args:
        size: d.
        heads: A divisor of d.
        generator: For the initial weights.
    """

    def __init__(self, size: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self._heads = heads
        self.project = linear(size, size, generator, bias=False)

    def forward(self, messages: Sequence[Tensor]) -> Tensor:
        """Σ_k (attended_k + message_k), (N, d), of K messages (N, d)."""
        values = torch.stack(list(messages), dim=1)  # (N, K, d)
        split = (*values.shape[:2], self._heads, -1)
        query = self.project(values).view(split).transpose(1, 2)  # (N, heads, K, d / heads)
        attended = F.scaled_dot_product_attention(query, query, values.view(split).transpose(1, 2))
        return attended.sum(2).flatten(1) + values.sum(1)


class MetaPredictor(nn.Module):
    """The meta network that weighs the dimensions of a node for a pair of behaviors.

    Args:
        size: d.
        generator: For the initial weights.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(3 * size, size, generator)  # of users and items alike
        self.weights = nn.ModuleDict(
            {side: linear(size, size, generator) for side in ("user", "item", "bias")}
        )

    def user(self, source: Tensor, own: Tensor) -> Tensor:
        """a_u ⊗ e_s,u of some users, (…, d), from e_s and e_b of them."""
        weight: Tensor = self.weights["user"](self._meta(source, own))
        return source + weight * source

    def item(self, source: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """a_i ⊗ e_s,i, (…, d), and v_i · e_s,i, (…), of some items."""
        meta = self._meta(source, own)
        scored = source + self.weights["item"](meta) * source
        return scored, (self.weights["bias"](meta) * source).sum(-1)

    def _meta(self, source: Tensor, own: Tensor) -> Tensor:
        return F.leaky_relu(self.hidden(torch.cat([source * own, source, own], dim=-1)))


def gather_pair(source: Tensor, own: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of two tables."""
    (first,), (second,) = gather(source, [rows]), gather(own, [rows])
    return first, second


def linear(
    inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True
) -> nn.Linear:
    """A linear map with Glorot weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


ENTRY = Entry(MbGmnConfig, MbGmn, train={"lr": 2e-3, "patience": 15})
