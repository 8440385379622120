"""MB-CGCN: multi-behavior cascading graph convolution (Cheng et al., WWW 2023).

One LightGCN per behavior; what it learns goes through a linear map, one for users and one for
items, into the LightGCN of the next behavior. The embeddings of all behaviors are added up:

    e_u^(b_1,0) = e_u⁰,   e_u^(b_k,0) = W_u^(k) e_u^(b_{k-1})         (items with W_i^(k))
    e^(b_k) = mean over layers 0 … L_k of LightGCN on the graph of b_k, from e^(b_k,0)
    e = Σ_k e^(b_k),   ŷ(u, i) = ⟨e_u, e_i⟩
    L = BPR on the target + β ½ ‖e⁰‖²

The paper ranks and trains the target alone. Here every behavior is ranked as the paper would rank
it as a target, the cascade ending there: by the sum of the embeddings up to its own, Σ_{j ≤ k}
e^(b_j); and every behavior adds the BPR loss of its score. In its own embeddings alone the nodes'
base embeddings are smoothed away: they ranked favorites and carts of UserBehavior three to six
times worse, and purchases by a quarter.

Deviations: the losses of the auxiliary behaviors, above. The authors' maps start as N(0, 0.01²),
which lets next to nothing through at first. Ours start as the identity, learned as d times the
difference from it: the base embeddings of a user and an item then mean the same in every behavior.
With two random maps every behavior began with a likeness of its own, and a training on UserBehavior
ended after 11 epochs at a fifth of what it reaches now.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn

from mbrec.models.base import (
    Context,
    EmbeddingConfig,
    Entry,
    TrainedMethod,
    base_l2,
    bpr_terms,
    layers_of,
    near_identity,
    node_embeddings,
)
from mbrec.propagation import Combination, Nodes, light_gcn
from mbrec.sampling import Batch
from mbrec.scoring import Factors


class MbCgcnConfig(EmbeddingConfig):
    """Settings of MB-CGCN."""

    layers: tuple[NonNegativeInt, ...] = ()
    """L_k per behavior; empty: 1, 2, … K; one number serves all."""

    combination: Combination = "mean"
    """How the layers of a LightGCN become its output: "mean" (the paper), "sum" or "last"."""


class MbCgcn(TrainedMethod):
    """MB-CGCN.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.
    """

    def __init__(self, config: MbCgcnConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.user_emb, self.item_emb = node_embeddings(config, context)
        self._relations = [context.relation(behavior) for behavior in context.behaviors]
        self._layers = layers_of(config.layers, context.behaviors)
        # d (W - I) for each step of the cascade, from a behavior into the next.
        self.user_maps, self.item_maps = (
            nn.ParameterList(torch.zeros(config.size, config.size) for _ in context.auxiliaries)
            for _ in range(2)
        )

    def propagate(self) -> dict[str, Nodes]:
        """Behavior → the embeddings that score it: the sum of the cascade's up to it."""
        result: dict[str, Nodes] = {}
        total: Nodes | None = None
        current = Nodes(self.user_emb, self.item_emb)
        for step, (relation, layers) in enumerate(zip(self._relations, self._layers, strict=True)):
            if step:
                maps = self.user_maps[step - 1], self.item_maps[step - 1]
                pairs = zip(current, maps, strict=True)
                current = Nodes(*(near_identity(nodes, learned) for nodes, learned in pairs))
            current = light_gcn(relation, current, layers, self.config.combination)
            if total is not None:
                total = Nodes(total.user + current.user, total.item + current.item)
            else:
                total = current
            result[relation.name] = total
        return result

    def losses(self, state: dict[str, Nodes], batch: Batch) -> dict[str, Tensor]:
        """BPR of every behavior, and L2."""
        terms = bpr_terms(state, batch)
        if self.config.l2:
            terms["l2"] = base_l2(self.user_emb, self.item_emb, batch, self.config.l2)
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """The embeddings of `propagate`, per behavior."""
        return {behavior: Factors(*nodes) for behavior, nodes in self.propagate().items()}


ENTRY = Entry(
    MbCgcnConfig,
    MbCgcn,
    train={"lr": 3e-2, "negatives": 4, "patience": 15, "average": 0.95},
)
