"""MBGCN: multi-behavior graph convolution (Jin et al., SIGIR 2020).

Users and items exchange messages over all behaviors, weighted per user; besides, items of one
behavior make a user's list of what goes with what she had in it.

User-item propagation, from p⁰, q⁰, with N_k(u) the items of u in behavior k, n_k(u) = |N_k(u)|:

    α_k(u) = w_k n_k(u) / Σ_j w_j n_j(u)
    p_u^(l+1) = W^(l) Σ_k α_k(u) mean_{i ∈ N_k(u)} q_i^(l)
    q_i^(l+1) = W^(l) mean over the users of i, in any behavior, of p_u^(l)

Item-item propagation per behavior, from s_k⁰ = q⁰, over pairs of items with common users:

    s_{k,i}^(l+1) = W_k^(l) mean_{u ∈ N_k(i)} mean_{j ∈ N_k(u)} s_{k,j}^(l)

Prediction, with the layers of p, q and s concatenated:

    ŷ₁(u, i)  = ⟨p_u, q_i⟩
    ŷ₂ₖ(u, i) = mean_{j ∈ N_k(u)} s_{k,j}ᵀ M_k s_{k,i}
    ŷ(u, i)   = ŷ₁ + λ mean_k ŷ₂ₖ

ŷ₂ₖ is the inner product of a vector of the user, M_kᵀ mean_j s_{k,j}, with s_{k,i}: so the whole
score is one inner product of concatenated columns, and lists are exact over all items.

One score serves all behaviors, as in the paper for the target; with relevance = "own" a behavior
is ranked by ŷ₁ + λ ŷ₂ₖ of its own.

Deviations:
* w_k > 0 is kept by learning ln w_k: a sum of weights near zero would break α.
* The mean over items with common users is that of a random walk of two steps (item, user, item),
  which needs no item × item graph in memory; the walk may come back to the item itself.
* λ is as in the authors' code, which adds λ ŷ₂ to ŷ₁.
* The maps W, W_k and M_k start as the identity, so that ŷ₂ starts as the similarity of items.
* In training, ŷ₂ₖ of a pair of behavior k leaves the pair's own item out of the mean: that an item
  goes with itself says nothing of items to come. `leave_one_out` = false keeps it in.
* The paper trains for the target alone; here every behavior adds its BPR loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn

from mbrec.columns import GLOBAL
from mbrec.losses import bpr
from mbrec.models.base import (
    Context,
    EmbeddingConfig,
    Entry,
    TrainedMethod,
    base_l2,
    gather,
    node_embeddings,
)
from mbrec.models.terms import distinct, looked_up_scores
from mbrec.propagation import Nodes, Relation
from mbrec.sampling import Batch, Triples
from mbrec.scoring import Factors


class MbgcnConfig(EmbeddingConfig):
    """Settings of MBGCN."""

    layers: NonNegativeInt = 1
    """L, of both propagations."""

    relevance_weight: NonNegativeFloat = 0.5
    """λ, weight of the item-item score; 0 leaves item-item propagation out."""

    relevance: Literal["all", "own"] = "all"
    """Item-item scores of a behavior: the mean over all behaviors, or that of its own."""

    leave_one_out: bool = True
    """In training, the item-item score of an item that the user has leaves that item itself out."""


@dataclass(frozen=True)
class MbgcnState:
    """All nodes after propagation, layer by layer: (U or I, d) each."""

    preference: list[Nodes]  # p and q
    relevance: list[list[Nodes]]  # per behavior mean_j s_{k,j} and s_{k,i}


class Mbgcn(TrainedMethod):
    """MBGCN.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.
    """

    def __init__(self, config: MbgcnConfig, context: Context) -> None:
        super().__init__()
        size, wide = config.size, config.size * (config.layers + 1)
        self.config = config
        self._merged = context.relation(GLOBAL)
        self._relations = [context.relation(behavior) for behavior in context.behaviors]
        self.user_emb, self.item_emb = node_embeddings(config, context)
        self.log_weights = nn.Parameter(torch.zeros(len(self._relations)))  # ln w_k
        self.maps = nn.ParameterList(_identity(size) for _ in range(config.layers))
        kinds = len(self._relations) if config.relevance_weight else 0
        self.item_maps = nn.ParameterList(  # W_k^(l), by behavior, then layer
            _identity(size) for _ in range(kinds * config.layers)
        )
        self.relevance_maps = nn.ParameterList(_identity(wide) for _ in range(kinds))

    def propagate(self) -> MbgcnState:
        """All columns of the scores, but those that the relevance maps make."""
        first = [_mean_of_items(relation, self.item_emb) for relation in self._relations]
        relevance = self._relations if self.config.relevance_weight else []
        return MbgcnState(
            self._user_item(first),
            [self._item_item(number, first[number]) for number in range(len(relevance))],
        )

    def losses(self, state: MbgcnState, batch: Batch) -> dict[str, Tensor]:
        """BPR of every behavior, and L2."""
        parts = {n: batch[r.name] for n, r in enumerate(self._relations) if r.name in batch}
        terms = {}
        for kinds in dict.fromkeys(map(self._kinds, parts)):
            alike = {n: triples for n, triples in parts.items() if self._kinds(n) == kinds}
            sizes = [len(triples.user_idx) for triples in alike.values()]
            scores = torch.split(self._scores(state, alike, kinds), sizes)
            for number, found in zip(alike, scores, strict=True):  # (B, 1+N)
                terms[f"bpr/{self._relations[number].name}"] = bpr(found[:, 0], found[:, 1:])
        if self.config.l2:
            terms["l2"] = base_l2(self.user_emb, self.item_emb, batch, self.config.l2)
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """Behavior → the columns whose inner product is its score."""
        state = self.propagate()
        preference = _side_by_side(state.preference)
        mapped = [
            Nodes(nodes.user @ weight, nodes.item)
            for nodes, weight in zip(
                map(_side_by_side, state.relevance), self.relevance_maps, strict=True
            )
        ]
        joined = {
            kinds: _joined(preference, [mapped[k] for k in kinds], self.config)
            for kinds in {self._kinds(number) for number in range(len(self._relations))}
        }
        return {
            relation.name: Factors(*joined[self._kinds(number)])
            for number, relation in enumerate(self._relations)
        }

    def _kinds(self, number: int) -> tuple[int, ...]:
        """The behaviors whose item-item scores are in the score of behavior `number`."""
        if self.config.relevance == "own" and self.config.relevance_weight:
            return (number,)
        return tuple(range(len(self.relevance_maps)))

    def _scores(
        self, state: MbgcnState, batch: dict[int, Triples], kinds: tuple[int, ...]
    ) -> Tensor:
        """The scores of all triples of some behaviors, (B, 1 + N), by kinds of item-item scores."""
        users = torch.cat([triples.user_idx for triples in batch.values()])
        items = torch.cat([triples.items for triples in batch.values()])
        user, item = state.preference[0]
        (head,) = gather(user, [users])  # all that is to be multiplied with q⁰
        parts = [looked_up_scores(*nodes, users, items) for nodes in state.preference[1:]]
        for kind in kinds:
            listed, rows = self._listed(kind, state.relevance[kind], batch, users)
            first, *higher = torch.split(listed / len(kinds), self.config.size, dim=1)
            head = head + gather(first, [rows])[0]
            for of_user, nodes in zip(higher, state.relevance[kind][1:], strict=True):
                parts.append(looked_up_scores(of_user, nodes.item, rows, items))
        every = torch.arange(len(users), device=users.device)
        return torch.stack([looked_up_scores(head, item, every, items), *parts]).sum(0)

    def _listed(
        self, kind: int, layers: list[Nodes], batch: dict[int, Triples], users: Tensor
    ) -> tuple[Tensor, Tensor]:
        """λ M_kᵀ mean_j s_{k,j} for the users of triples, (n, (L + 1) d), and whose is which, (B,).

        Triples of behavior k leave their own item out, if that is set.

        Args:
            kind: k.
            layers: mean_j s_{k,j} and s_{k,i}.
            batch: Behavior → its triples.
            users: Theirs, one behavior after the other. (B,)
        """
        before = sum(len(triples.user_idx) for number, triples in batch.items() if number < kind)
        leaving = batch[kind].positive if self.config.leave_one_out and kind in batch else users[:0]
        after = before + len(leaving)
        # Without its own item, a mean is that of one triple; else that of all of the user's.
        nodes, place = distinct(torch.cat([users[:before], users[after:]]), len(self.user_emb))
        found = [gather(layer.user, [nodes, users[before:after]]) for layer in layers]
        shared, mean = (torch.cat(rows, 1) for rows in zip(*found, strict=True))
        own = torch.cat([gather(layer.item, [leaving])[0] for layer in layers], 1)
        count = self._relations[kind].root.user[users[before:after]].square()
        others = torch.where(count > 1, (count * mean - own) / (count - 1).clamp(min=1), 0.0)
        alone = torch.arange(len(nodes), len(nodes) + len(leaving), device=users.device)
        weight = self.config.relevance_weight * self.relevance_maps[kind]
        rows = torch.cat([place[:before], alone, place[before:]])
        return torch.cat([shared, others]) @ weight, rows

    def _user_item(self, means: list[Tensor]) -> list[Nodes]:
        """The p and q, layer by layer.

        Args:
            means: mean_{i ∈ N_k(u)} q_i⁰, (U, d), per behavior.
        """
        shares = self._shares()
        user: Tensor = self.user_emb
        item: Tensor = self.item_emb
        found = [Nodes(user, item)]
        for layer, weight in enumerate(self.maps):
            if layer:
                means = [_mean_of_items(relation, item) for relation in self._relations]
            mixed = torch.stack(
                [share * mean for share, mean in zip(shares, means, strict=True)]
            ).sum(0)
            user, item = mixed @ weight.T, _mean_of_users(self._merged, user) @ weight.T
            found.append(Nodes(user, item))
        return found

    def _shares(self) -> list[Tensor]:
        """α_k(u) per behavior, (U, 1) each; 0 for users without any item."""
        degrees = torch.cat([relation.root.user.square() for relation in self._relations], 1)
        weighted = degrees * torch.softmax(self.log_weights, 0)  # (U, K)
        total = weighted.sum(1, keepdim=True)
        return list(torch.split(weighted / torch.where(total > 0, total, 1.0), 1, dim=1))

    def _item_item(self, number: int, mean: Tensor) -> list[Nodes]:
        """mean_j s_{k,j} of the users and s_{k,i} of the items, layer by layer.

        Args:
            number: The behavior's.
            mean: mean_j s_{k,j}⁰. (U, d)
        """
        relation, layers = self._relations[number], self.config.layers
        found = [Nodes(mean, self.item_emb)]
        for weight in self.item_maps[number * layers : (number + 1) * layers]:
            item = _mean_of_users(relation, found[-1].user) @ weight.T
            found.append(Nodes(_mean_of_items(relation, item), item))
        return found


def _side_by_side(layers: list[Nodes]) -> Nodes:
    """(U or I, (L + 1) d)."""
    return Nodes(*(torch.cat(side, 1) for side in zip(*layers, strict=True)))


def _joined(preference: Nodes, relevance: list[Nodes], config: MbgcnConfig) -> Nodes:
    """The columns of ŷ₁ + λ mean_k ŷ₂ₖ."""
    share = config.relevance_weight / max(1, len(relevance))
    return Nodes(
        torch.cat([preference.user, *(share * part.user for part in relevance)], 1),
        torch.cat([preference.item, *(part.item for part in relevance)], 1),
    )


def _mean_of_items(relation: Relation, item: Tensor) -> Tensor:
    """The mean over the items of every user, (U, d); 0 for users without any."""
    # One direction is asked for; the other one gets a single column, which costs next to nothing.
    blank = item.new_zeros(len(relation.inverse.user), 1)
    nodes = relation.engine.aggregate(relation.name, Nodes(blank, item))
    return relation.inverse.user * nodes.user


def _mean_of_users(relation: Relation, user: Tensor) -> Tensor:
    """The mean over the users of every item, (I, d); 0 for items without any."""
    blank = user.new_zeros(len(relation.inverse.item), 1)
    nodes = relation.engine.aggregate(relation.name, Nodes(user, blank))
    return relation.inverse.item * nodes.item


def _identity(size: int) -> nn.Parameter:
    return nn.Parameter(torch.eye(size))


ENTRY = Entry(
    MbgcnConfig,
    Mbgcn,
    train={"lr": 1e-2, "negatives": 4, "patience": 15, "average": 0.95},
)
