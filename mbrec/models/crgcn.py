"""CRGCN: cascading residual graph convolutional network (Yan et al., TOIS 2023).

One LightGCN without weights per behavior, each starting from the embeddings of the behavior before
it, and added to them; the chain follows the cascade:

    e^(b_0) = e⁰
    e^(b_k) = e^(b_{k-1}) + GCN_k(e^(b_{k-1})) / ‖GCN_k(e^(b_{k-1}))‖₂
    GCN_k: L_k layers of e_u ← Σ_{i ∈ N_u} e_i / (√|N_u| √|N_i|), the last layer alone
    ŷ_k(u, i) = ⟨e_u^(b_k), e_i^(b_k)⟩
    L = Σ_k BPR_k + β ½ ‖e⁰‖²

The method is multi-task: every behavior is scored, and trained, by its own embeddings.

Deviations: the authors' code adds a bias vector to every layer, which the paper does not have; we
have none. Its β acts on the whole tables, ours on the batch's rows, as everywhere in mbrec. The
paper draws a triple of every behavior for every user of a batch; here every pair of every behavior
stands once in an epoch.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from mbrec.models.base import (
    Context,
    EmbeddingConfig,
    Entry,
    TrainedMethod,
    base_l2,
    bpr_terms,
    layers_of,
    node_embeddings,
)
from mbrec.models.bigel.cgl import CascadingGcn, norms_of_all
from mbrec.propagation import Combination, Nodes
from mbrec.sampling import Batch
from mbrec.scoring import Factors


class CrgcnConfig(EmbeddingConfig):
    """Settings of CRGCN."""

    layers: tuple[NonNegativeInt, ...] = ()
    """L_k per behavior; empty: 1, 2, … K; one number serves all."""

    combination: Combination = "last"
    """How the layers of a GCN become its output: "last" (the paper), "mean" or "sum"."""

    normalize: bool = True
    """L2-normalize a GCN's output before it is added (the paper)."""


class Crgcn(TrainedMethod):
    """CRGCN.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.
    """

    def __init__(self, config: CrgcnConfig, context: Context) -> None:
        super().__init__()
        self.config, self.columns = config, context.columns(config.size)
        self.user_emb, self.item_emb = node_embeddings(config, context, self.columns)
        self.cascade = CascadingGcn(
            [context.relation(behavior) for behavior in context.behaviors],
            layers_of(config.layers, context.behaviors),
            config.combination,
            config.normalize,
        )

    def propagate(self) -> dict[str, Nodes]:
        """Behavior → e^(b_k) of all nodes."""
        return dict(self.cascade(Nodes(self.user_emb, self.item_emb)))

    def losses(self, state: dict[str, Nodes], batch: Batch) -> dict[str, Tensor]:
        """BPR of every behavior, and L2."""
        terms = bpr_terms(state, batch, self.columns)
        if self.config.l2:
            terms["l2"] = base_l2(self.user_emb, self.item_emb, batch, self.config.l2, self.columns)
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """e^(b_k) of all nodes, per behavior."""
        return {behavior: Factors(*nodes) for behavior, nodes in self.propagate().items()}


ENTRY = Entry(
    CrgcnConfig,
    Crgcn,
    train={"lr": 3e-2, "negatives": 4, "patience": 15, "average": 0.95},
    undividable=norms_of_all,
)
