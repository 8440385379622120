"""LightGCN (He et al., SIGIR 2020), trained for every behavior.

One LightGCN on the merged graph of all behaviors, or one per behavior on its own graph. On the
merged graph the embeddings are shared: the natural per-behavior score of a single-relation method
is one score for all behaviors, learned from the sum of the behaviors' BPR losses.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt
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
    pair_scores,
)
from mbrec.propagation import Combination, Nodes, light_gcn
from mbrec.sampling import Batch
from mbrec.scoring import Factors


class LightGcnConfig(EmbeddingConfig):
    """Settings of LightGCN."""

    layers: NonNegativeInt = 3
    """L."""

    combination: Combination = "mean"
    """How layers 0 … L become one embedding: "mean" (the paper), "sum" or "last"."""

    graph: Literal["merged", "behavior"] = "merged"
    """One LightGCN on the merged graph, or one per behavior on its own."""


class LightGcn(TrainedMethod):
    """LightGCN.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.
    """

    def __init__(self, config: LightGcnConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.behaviors, self.columns = context.behaviors, context.columns(config.size)
        merged = config.graph == "merged"
        self.relations = {
            name: context.relation(name) for name in ((GLOBAL,) if merged else context.behaviors)
        }
        tables = [node_embeddings(config, context, self.columns) for _ in self.relations]
        self.user_emb, self.item_emb = map(nn.ParameterList, zip(*tables, strict=True))

    def propagate(self) -> dict[str, Nodes]:
        """Relation → embeddings of all nodes."""
        return {
            name: light_gcn(relation, base, self.config.layers, self.config.combination)
            for (name, relation), base in zip(
                self.relations.items(), self._base_embeddings(), strict=True
            )
        }

    def losses(self, state: dict[str, Nodes], batch: Batch) -> dict[str, Tensor]:
        """BPR of every behavior, and L2."""
        terms, l2 = {}, []
        for name, base in zip(self.relations, self._base_embeddings(), strict=True):
            part = {b: t for b, t in batch.items() if self.relation_of(b) == name}
            if not part:
                continue
            users = gather(state[name].user, [triples.user_idx for triples in part.values()])
            items = gather(state[name].item, [triples.items for triples in part.values()])
            own = [pair_scores(*pair) for pair in zip(users, items, strict=True)]  # (B, 1+N)
            for behavior, scores in zip(part, self.columns.total(own), strict=True):
                terms[f"bpr/{behavior}"] = bpr(scores[:, 0], scores[:, 1:])
            l2.append(base_l2(base.user, base.item, part, self.config.l2, self.columns))
        if self.config.l2:
            terms["l2"] = torch.stack(l2).sum()
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """The propagated embeddings of all nodes."""
        state = self.propagate()
        return {
            behavior: Factors(*state[self.relation_of(behavior)]) for behavior in self.behaviors
        }

    def _base_embeddings(self) -> list[Nodes]:
        return [Nodes(*tables) for tables in zip(self.user_emb, self.item_emb, strict=True)]

    def relation_of(self, behavior: str) -> str:
        """The relation that ranks `behavior`."""
        return GLOBAL if self.config.graph == "merged" else behavior


ENTRY = Entry(
    LightGcnConfig,
    LightGcn,
    train={"lr": 3e-2, "negatives": 4, "patience": 15, "average": 0.95},
    undividable=lambda config: "",
)
