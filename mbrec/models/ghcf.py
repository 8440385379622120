"""GHCF: graph heterogeneous collaborative filtering (Chen et al., AAAI 2021).

Nodes and behaviors ("relations") are embedded together. A message along behavior k is composed with
the behavior's vector r_k before the map of the layer:

    e^(l+1) = mean over k of LeakyReLU( (D_k^-½ A_k D_k^-½ e^(l) ⊙ r_k^(l)) W^(l) )
    r_k^(l+1) = r_k^(l) W_r^(l)
    e, r_k: means over layers 0 … L
    ŷ_k(u, i) = Σ_d e_u,d e_i,d r_k,d

Every behavior has a score of its own, through r_k. The loss needs no sampling: with weight 1 for a
pair of behavior k and c for every other pair of the whole users × items,

    L_k = Σ_{(u,i) ∈ E_k} [(1 - ŷ)² - c ŷ²] + c Σ_u Σ_i ŷ²
    Σ_u Σ_i ŷ² = Σ_{d,d'} (Σ_u e_u e_uᵀ)(Σ_i e_i e_iᵀ)(r_k r_kᵀ)      (d × d each)

so that the sum over everything costs O((U + I) d²). A step takes the first sum over the pairs of
its batch and the second over all users and items, both per pair of the behavior: its expectation is
L_k / |E_k|. The negatives of the batch are not used.

Deviations:
* The paper adds the behaviors' losses up, and the authors' code weighs both losses and messages by
  constants per behavior tuned to each dataset; here messages are averaged, and every loss is per
  pair of its behavior, so that none is drowned by a larger one.
* The authors take batches of users, with the second sum over the users of the batch; here all nodes
  are propagated at every step anyway, so all count.
* r_k starts around 1 instead of 0: the product of three small factors has next to no gradient.
* The maps start near the identity (the authors': Glorot's), learned as d times the difference from
  it. Behind random maps a node's layers have nothing in common at first.
* The authors regularize the propagated embeddings; here the base embeddings of the batch's rows.
"""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from mbrec.models.base import (
    Context,
    EmbeddingConfig,
    Entry,
    TrainedMethod,
    base_l2,
    embedding_table,
    near_identity,
    node_embeddings,
)
from mbrec.propagation import Nodes, Relation, light_gcn
from mbrec.sampling import Batch
from mbrec.scoring import Factors

SLOPE = 0.2  # of LeakyReLU for negative values, as in the authors' code


class GhcfConfig(EmbeddingConfig):
    """Settings of GHCF."""

    layers: NonNegativeInt = 2
    """L."""

    negative_weight: PositiveFloat = 0.001
    """c, weight of a pair that is not in the behavior; one that is weighs 1. What it comes to is a
    matter of size: all others together weigh c U I / |E_k| times what the behavior's pairs do."""

    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of the values of every layer that is set to 0 in training."""


class Ghcf(TrainedMethod):
    """GHCF.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.
    """

    def __init__(self, config: GhcfConfig, context: Context) -> None:
        super().__init__()
        size, generator = config.size, context.generator
        self.config, self.behaviors = config, context.behaviors
        self._relations = [context.relation(behavior) for behavior in context.behaviors]
        self._pairs = {behavior: len(pairs) for behavior, pairs in context.train.items()}
        self._random: torch.Generator | None = None
        self.user_emb, self.item_emb = node_embeddings(config, context)
        self.relation_emb = embedding_table(len(self.behaviors), size, "xavier", generator)
        self.relation_emb.data.add_(1)
        # d (W - I) of every layer; not 0, for a value that is dropped would be at the kink.
        self.maps, self.relation_maps = (
            nn.ParameterList(
                embedding_table(size, size, "xavier", generator) for _ in range(config.layers)
            )
            for _ in range(2)
        )

    def begin_epoch(self, epoch: int, random: torch.Generator) -> None:
        """Keep the source of randomness of dropout."""
        self._random = random

    def propagate(self) -> tuple[Nodes, Tensor]:
        """Embeddings of all nodes, and of all behaviors (K, d)."""
        nodes = Nodes(self.user_emb, self.item_emb)
        relations: Tensor = self.relation_emb
        kept, kept_relations = [nodes], [relations]
        for weight, relation_weight in zip(self.maps, self.relation_maps, strict=True):
            messages = [
                self._message(relation, nodes, vector, weight)
                for relation, vector in zip(self._relations, relations, strict=True)
            ]
            nodes = self._drop(_mean(messages))
            relations = near_identity(relations, relation_weight)
            kept.append(nodes)
            kept_relations.append(relations)
        return _mean(kept), torch.stack(kept_relations).mean(0)

    def _message(self, relation: Relation, nodes: Nodes, vector: Tensor, weight: Tensor) -> Nodes:
        """What all nodes receive along one behavior."""
        received = light_gcn(relation, nodes, 1, "last")
        mapped = (near_identity(part * vector, weight) for part in received)
        return Nodes(*(F.leaky_relu(part, SLOPE) for part in mapped))

    def losses(self, state: tuple[Nodes, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The whole-data loss of every behavior per pair of it, and L2."""
        nodes, relations = state
        gram = (nodes.user.T @ nodes.user) * (nodes.item.T @ nodes.item)  # (d, d)
        weight, terms = self.config.negative_weight, {}
        for behavior, triples in batch.items():
            vector = relations[self.behaviors.index(behavior)]
            user = nodes.user.index_select(0, triples.user_idx) * vector
            scores = (user * nodes.item.index_select(0, triples.positive)).sum(1)
            everything = vector @ gram @ vector  # Σ_u Σ_i ŷ²
            observed = ((1 - scores).square() - weight * scores.square()).mean()
            terms[f"squared/{behavior}"] = observed + weight / self._pairs[behavior] * everything
        if self.config.l2:
            terms["l2"] = base_l2(self.user_emb, self.item_emb, batch, self.config.l2)
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """The embeddings e_u ⊙ r_k and e_i, per behavior."""
        nodes, relations = self.propagate()
        return {
            behavior: Factors(nodes.user * vector, nodes.item)
            for behavior, vector in zip(self.behaviors, relations, strict=True)
        }

    def _drop(self, nodes: Nodes) -> Nodes:
        share = self.config.dropout
        if not (self.training and share and self._random is not None):
            return nodes
        random, parts = self._random, []
        for part in nodes:
            mask = torch.rand(part.shape, generator=random, device=part.device) >= share
            parts.append(part * mask / (1 - share))
        return Nodes(*parts)


def _mean(parts: list[Nodes]) -> Nodes:
    return Nodes(*(torch.stack(tables).mean(0) for tables in zip(*parts, strict=True)))


ENTRY = Entry(GhcfConfig, Ghcf, train={"lr": 3e-2, "patience": 15, "average": 0.95})
