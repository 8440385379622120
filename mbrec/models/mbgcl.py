"""MBGCL: multi-behavior graph contrastive learning, as a baseline of BiGEL (arXiv 2601.07294).

The paper that BiGEL cites under this name has no public code that we know of. This is its idea with
usual parts: LightGCN per behavior (He et al., SIGIR 2020), views by edge dropout (SGL; Wu et al.,
SIGIR 2021), and one score per behavior from a mix of all behaviors.

    e_k  = LightGCN (mean of layers 0 … L) on the graph of behavior k, from shared e⁰
    e^b  = Σ_k softmax(A_b)_k e_k,  for users and for items
    L    = Σ_b BPR_b(e^b) + λ Σ_k InfoNCE(e'_k, e''_k) + β ½ ‖e⁰‖²

where e'_k and e''_k are e_k propagated over two graphs of the behavior that lost a share ρ of their
edges at random. The views of one node are a positive pair, those of other nodes are its negatives,
for the distinct users and items of the batch's pairs of behavior k.

Scores: the inner product of e^b, for every behavior b.

Views are drawn once per epoch, as in SGL, and are relations of an engine of their own: the same
propagation serves the graph and its views. Where we deviate: at most `contrasted` nodes of a kind,
behavior and batch are compared, for InfoNCE takes memory by their square.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mbrec.graph import Pairs
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
from mbrec.propagation import Nodes, Relation, light_gcn
from mbrec.sampling import Batch
from mbrec.scoring import Factors


class MbgclConfig(EmbeddingConfig):
    """Settings of MBGCL."""

    layers: NonNegativeInt = 3
    """L."""

    edge_dropout: float = Field(default=0.2, ge=0, lt=1)
    """ρ, the share of edges that a view loses."""

    contrast_weight: NonNegativeFloat = 0.01
    """λ; at 0 there are no views."""

    temperature: PositiveFloat = 0.2
    """τ of InfoNCE, over cosines."""

    contrasted: PositiveInt = 2048
    """Users, and items, of a behavior's batch that are contrasted at most."""


class Mbgcl(TrainedMethod):
    """MBGCL.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.
    """

    def __init__(self, config: MbgclConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.behaviors = context.behaviors
        self._context = context
        self._relations = {name: context.relation(name) for name in context.behaviors}
        self._views: list[dict[str, Relation]] = []
        self._random: torch.Generator | None = None
        self.user_emb, self.item_emb = node_embeddings(config, context)
        self.mix = nn.Parameter(torch.zeros(len(self.behaviors), len(self.behaviors)))  # A

    def begin_epoch(self, epoch: int, random: torch.Generator) -> None:
        """Draw two views of every behavior's graph."""
        self._random = random
        if self.config.contrast_weight:
            self._views = [self._view(random) for _ in range(2)]

    def propagate(self) -> dict[str, Nodes]:
        """Behavior → e_k of all nodes."""
        return self._propagate(self._relations)

    def losses(self, state: dict[str, Nodes], batch: Batch) -> dict[str, Tensor]:
        """BPR of every behavior, the contrast of the views, and L2."""
        terms = bpr_terms(self.mixed(state), batch)
        if self._views:
            terms["contrast"] = self.config.contrast_weight * self._contrast(batch)
        if self.config.l2:
            terms["l2"] = base_l2(self.user_emb, self.item_emb, batch, self.config.l2)
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """e^b of all nodes."""
        return {name: Factors(*nodes) for name, nodes in self.mixed(self.propagate()).items()}

    def mixed(self, own: Mapping[str, Nodes]) -> dict[str, Nodes]:
        """Behavior → e^b, from behavior → e_k."""
        shares = torch.softmax(self.mix, dim=1)
        sides = []
        for side in zip(*own.values(), strict=True):
            every = torch.stack(side)  # (K, U or I, d)
            sides.append((shares @ every.flatten(1)).view_as(every))
        return dict(zip(self.behaviors, map(Nodes, *sides), strict=True))

    def _propagate(self, relations: Mapping[str, Relation]) -> dict[str, Nodes]:
        base = Nodes(self.user_emb, self.item_emb)
        return {
            name: light_gcn(relation, base, self.config.layers)
            for name, relation in relations.items()
        }

    def _view(self, random: torch.Generator) -> dict[str, Relation]:
        """Every behavior's relation without a random share ρ of its edges."""
        context, left = self._context, {}
        for name, pairs in context.train.items():
            drawn = torch.rand(len(pairs), generator=random, device=random.device)
            kept = (drawn >= self.config.edge_dropout).cpu().numpy()
            left[name] = Pairs(pairs.user_idx[kept], pairs.item_idx[kept])
        engine = self._relations[context.target].engine.over(left)
        return {name: Relation.of(name, engine) for name in self.behaviors}

    def _contrast(self, batch: Batch) -> Tensor:
        """InfoNCE between the views of the batch's users and items, summed over behaviors."""
        first, second = (self._propagate(view) for view in self._views)
        parts = []
        for behavior, triples in batch.items():
            for side, rows in enumerate((triples.user_idx, triples.positive)):
                nodes = self._some(torch.unique(rows))
                one, other = (
                    view[behavior][side].index_select(0, nodes) for view in (first, second)
                )
                parts.append(info_nce(one, other, self.config.temperature))
        return torch.stack(parts).sum()

    def _some(self, nodes: Tensor) -> Tensor:
        """At most `contrasted` of the nodes."""
        if len(nodes) <= self.config.contrasted:
            return nodes
        order = torch.randperm(len(nodes), generator=self._random, device=nodes.device)
        return nodes[order[: self.config.contrasted]]


ENTRY = Entry(
    MbgclConfig,
    Mbgcl,
    train={"lr": 3e-2, "negatives": 4, "patience": 15, "average": 0.95},
)
