"""MF-BPR: matrix factorization learned by Bayesian personalized ranking (Rendle et al., UAI 2009).

    x̂_ui = ⟨w_u, h_i⟩
    L = Σ_(u,i,j) -ln σ(x̂_ui - x̂_uj) + λ ‖θ‖²                      (BPR-Opt)

The original knows one kind of feedback. Here the users and items have either one embedding each for
all behaviors, learned from the sum of the behaviors' losses, so that a sparse behavior profits from
the others and all are scored alike; or one per behavior, learned from that behavior alone.

Deviations: Adam on shuffled pairs instead of stochastic steps on triples drawn with replacement; λ
acts on the embeddings of the batch's rows, the same for users, positive and negative items.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mbrec.models.base import (
    Context,
    EmbeddingConfig,
    Entry,
    PerBehavior,
    TrainedMethod,
    base_l2,
    bpr_terms,
    node_embeddings,
)
from mbrec.propagation import Nodes
from mbrec.sampling import Batch
from mbrec.scoring import Factors


class MfBprConfig(EmbeddingConfig):
    """Settings of MF-BPR."""

    embeddings: Literal["shared", "behavior"] = "shared"
    """One embedding per user and item for all behaviors, or one for each behavior."""

    l2: PerBehavior = 1e-2
    """λ: weight of ½ ‖e‖² of the batch's rows; or a table behavior = weight."""


class MfBpr(TrainedMethod):
    """MF-BPR.

    Args:
        config: Settings.
        context: The training part of a dataset.
    """

    def __init__(self, config: MfBprConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.behaviors, self.columns = context.behaviors, context.columns(config.size)
        count = 1 if config.embeddings == "shared" else len(context.behaviors)
        tables = [node_embeddings(config, context, self.columns) for _ in range(count)]
        self.user_emb, self.item_emb = map(nn.ParameterList, zip(*tables, strict=True))

    def propagate(self) -> dict[str, Nodes]:
        """Behavior → its embeddings; nothing is propagated."""
        tables = [Nodes(*pair) for pair in zip(self.user_emb, self.item_emb, strict=True)]
        if self.config.embeddings == "shared":
            tables *= len(self.behaviors)
        return dict(zip(self.behaviors, tables, strict=True))

    def losses(self, state: dict[str, Nodes], batch: Batch) -> dict[str, Tensor]:
        """BPR of every behavior, and L2."""
        terms = bpr_terms(state, batch, self.columns)
        if self.config.l2:
            parts = [
                base_l2(*state[name], {name: triples}, self.config.l2, self.columns)
                for name, triples in batch.items()
            ]
            terms["l2"] = torch.stack(parts).sum()
        return terms

    def scorers(self) -> dict[str, Factors]:
        """The embeddings as they are."""
        return {
            name: Factors(nodes.user.detach(), nodes.item.detach())
            for name, nodes in self.propagate().items()
        }


ENTRY = Entry(
    MfBprConfig,
    MfBpr,
    needs_engine=False,
    train={"lr": 3e-2, "negatives": 4, "epochs": 150, "patience": 15, "average": 0.95},
    undividable=lambda config: "",
)
