"""MBRCC ("Contrastive Clustering Learning for Multi-Behavior Recommendation", TOIS 2024).

    u_k, i_k = LightGCN (mean of layers 0 … L) on the graph of behavior k, from shared e⁰
    u        = Σ_k α_k(u) u_k,   α(u) = softmax_k(w_k n_k(u) / Σ_j n_j(u))     behavior level
    i        = i_1 ‖ … ‖ i_K
    ŷ_b(u,i) = (P_b u) · (Q_b i)
    L        = Σ_b BPR_b + λ₁ Σ_k instance(k) + λ₂ Σ_k cluster(k) + β ½ ‖e⁰‖²

Both contrasts are between the target and every auxiliary behavior k, for users and for items:

    instance:  InfoNCE, a node's two embeddings against those of other nodes, both ways
    cluster:   InfoNCE between the columns of two soft assignments to C clusters,
               S_k = softmax(e_k W + c), (B, C), plus ln C - H(mean over nodes of S_k)

Scores: the authors rank the target only, by P and Q. Here every behavior b has a P_b and a Q_b of
its own on the same fused embeddings, so that it, too, has embeddings of its own.

Where we deviate: counts n_k enter as shares, or the softmax saturates for active users. The code of
the authors takes the columns of the embeddings themselves for clusters; here a linear layer
assigns, as in the contrastive clustering (Li et al., AAAI 2021) that this loss is from. Embeddings
are compared by cosine, with negatives of the other view. P and Q are kept as d times their
difference from the identity and from the mean over behaviors, so that a step of Adam moves them by
1/d of the learning rate: at one rate, a plain d × d matrix would run far ahead of the embeddings
(the authors train with a rate of 1e-5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mbrec.losses import info_nce
from mbrec.models.base import (
    Context,
    EmbeddingConfig,
    Entry,
    TrainedMethod,
    base_l2,
    bpr_terms,
    node_embeddings,
)
from mbrec.propagation import Nodes, light_gcn
from mbrec.sampling import Batch, Triples
from mbrec.scoring import Factors


class MbrccConfig(EmbeddingConfig):
    """Settings of MBRCC."""

    layers: NonNegativeInt = 3
    """L."""

    instance_weight: NonNegativeFloat = 0.01
    """λ₁."""

    cluster_weight: NonNegativeFloat = 0.01
    """λ₂."""

    clusters: PositiveInt = 32
    """C."""

    temperature: PositiveFloat = 0.2
    """τ of both contrasts."""


@dataclass(frozen=True)
class MbrccState:
    """All nodes after propagation."""

    own: dict[str, Nodes]  # behavior → u_k, i_k
    scored: dict[str, Nodes]  # behavior → P_b u, Q_b i


class Mbrcc(TrainedMethod):
    """MBRCC.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.
    """

    def __init__(self, config: MbrccConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.behaviors, self.target = context.behaviors, context.target
        self._relations = {name: context.relation(name) for name in context.behaviors}
        counts = [relation.root.user.square() for relation in self._relations.values()]
        every = torch.stack(counts)  # (K, U, 1)
        self._shares = every / every.sum(0).clamp(min=1)
        size, behaviors, random = config.size, len(context.behaviors), context.generator
        self.user_emb, self.item_emb = node_embeddings(config, context)
        self.behavior_weight = nn.Parameter(torch.ones(behaviors))
        self.user_map = nn.Parameter(torch.zeros(behaviors, size, size))
        self.item_map = nn.Parameter(torch.zeros(behaviors, behaviors * size, size))
        self.user_assignment, self.item_assignment = (
            _assignment(size, config.clusters, random) for _ in range(2)
        )

    def propagate(self) -> MbrccState:
        """u_k and i_k, and their fusion for every behavior."""
        base = Nodes(self.user_emb, self.item_emb)
        own = {
            name: light_gcn(relation, base, self.config.layers)
            for name, relation in self._relations.items()
        }
        alpha = torch.softmax(self.behavior_weight.view(-1, 1, 1) * self._shares, dim=0)
        user = (alpha * torch.stack([nodes.user for nodes in own.values()])).sum(0)  # (U, d)
        items = [nodes.item for nodes in own.values()]
        mean, item = torch.stack(items).mean(0), torch.cat(items, dim=1)  # (I, d), (I, K d)
        pace = 1 / self.config.size
        scored = {
            name: Nodes(
                torch.addmm(user, user, self.user_map[place], alpha=pace),
                torch.addmm(mean, item, self.item_map[place], alpha=pace),
            )
            for place, name in enumerate(self.behaviors)
        }
        return MbrccState(own, scored)

    def losses(self, state: MbrccState, batch: Batch) -> dict[str, Tensor]:
        """BPR of every behavior, both contrasts, and L2."""
        terms = bpr_terms(state.scored, batch)
        if self.target in batch and len(self.behaviors) > 1:
            terms.update(self._contrasts(state.own, batch[self.target]))
        if self.config.l2:
            terms["l2"] = base_l2(self.user_emb, self.item_emb, batch, self.config.l2)
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """P_b u and Q_b i of all nodes."""
        return {name: Factors(*nodes) for name, nodes in self.propagate().scored.items()}

    def _contrasts(self, own: dict[str, Nodes], triples: Triples) -> dict[str, Tensor]:
        """Instance and cluster level, over the distinct nodes of the batch's target pairs."""
        instance, cluster = [], []
        for side, (rows, assign) in enumerate(
            (
                (triples.user_idx, self.user_assignment),
                (triples.positive, self.item_assignment),
            )
        ):
            nodes = torch.unique(rows)
            target = own[self.target][side].index_select(0, nodes)  # (B, d)
            for behavior in self.behaviors[:-1]:
                other = own[behavior][side].index_select(0, nodes)
                instance.append(self._both_ways(target, other))
                assigned = [torch.softmax(assign(view), dim=1) for view in (target, other)]
                cluster.append(self._both_ways(assigned[0].T, assigned[1].T))
                cluster += [0.5 * unbalance(part) for part in assigned]
        return {
            "instance": self.config.instance_weight * torch.stack(instance).sum(),
            "cluster": self.config.cluster_weight * torch.stack(cluster).sum(),
        }

    def _both_ways(self, first: Tensor, second: Tensor) -> Tensor:
        temperature = self.config.temperature
        there, back = info_nce(first, second, temperature), info_nce(second, first, temperature)
        return 0.5 * (there + back)


def unbalance(assigned: Tensor) -> Tensor:
    """How far the sizes of the clusters are from equal: ln C - H(mean assignment), a scalar.

    Args:
        assigned: Soft assignments, rows sum to 1. (B, C)
    """
    share = assigned.mean(0)
    # A cluster of nobody adds 0; without the clamp its gradient would be 0 times infinity.
    return math.log(len(share)) + (share * share.clamp(min=torch.finfo().tiny).log()).sum()


def _assignment(size: int, clusters: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(size, clusters)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


ENTRY = Entry(
    MbrccConfig,
    Mbrcc,
    train={"lr": 3e-2, "negatives": 4, "patience": 15, "average": 0.95},
)
