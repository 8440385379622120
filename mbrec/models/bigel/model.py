"""BiGEL (arXiv 2601.07294): CGL, CGF, GCE and CPA under one multi-task head.

    e⁰ ── CGL ──► e^(b_1) ─► … ─► e^(b_K)          per behavior, in cascade order
     │               │  ◄── CGF ─────┘             auxiliaries learn from the target
     └─ LightGCN on the merged graph ─► e_global
                     │  ◄── GCE ─────┘             auxiliaries learn from the whole
                                e^(b_K) ◄─ CPA ─► e_global

Where the paper leaves a choice open, it is a field of `BigelConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mbrec.columns import GLOBAL
from mbrec.losses import bpr, squared_norm
from mbrec.models.base import (
    Context,
    Initializer,
    MethodConfig,
    TrainedMethod,
    embedding_table,
    layers_of,
)
from mbrec.models.bigel.cgf import CascadingGatedFeedback, Gate
from mbrec.models.bigel.cgl import CascadingGcn
from mbrec.models.bigel.cpa import ContrastivePreferenceAlignment
from mbrec.models.bigel.gce import GlobalContextEnhancement
from mbrec.propagation import Combination, Nodes, light_gcn
from mbrec.sampling import Batch, Triples
from mbrec.scoring import Factors

Side = Literal["user", "item"]


class BigelConfig(MethodConfig):
    """Settings of BiGEL."""

    size: PositiveInt = 64
    """d, the embedding size."""

    initializer: Initializer = "normal"
    """Initial embeddings (eq. 1): "normal" N(0, 0.1²) or "xavier"."""

    layers: tuple[NonNegativeInt, ...] = ()
    """GCN layers per behavior (eq. 2-3); empty: 1, 2, … K, as the paper on UB."""

    combination: Combination = "mean"
    """How the layers of a GCN become its output (eq. 3): "mean", "sum" or "last"."""

    normalize: bool = False
    """L2-normalize a GCN's output before the residual (eq. 4), as CRGCN does."""

    cgf: bool = True
    """Cascading gated feedback (eq. 5-6)."""

    gce: bool = True
    """Global context enhancement (eq. 7-9)."""

    cpa: bool = True
    """Contrastive preference alignment (eq. 10-11)."""

    gate_maps: Literal[1, 2] = 1
    """Linear maps in a gate (eq. 5, 8)."""

    gates_shared: bool = True
    """Users and items share the gates and projections of a behavior."""

    gce_gate: Literal["own", "cgf"] = "own"
    """The second gate (eq. 8) has weights of its own, or CGF's."""

    global_layers: NonNegativeInt = 2
    """GCN layers on the merged graph (eq. 7)."""

    cpa_weight: NonNegativeFloat = 0.01
    """λ (eq. 14)."""

    temperature: PositiveFloat = 0.2
    """τ of CPA (eq. 10-11)."""

    similarity: Literal["cosine", "dot"] = "cosine"
    """How CPA compares embeddings (eq. 10-11)."""

    l2: NonNegativeFloat = Field(default=1e-4)
    """β (eq. 14), on the base embeddings of the batch's rows."""


@dataclass(frozen=True)
class BigelState:
    """All nodes after propagation."""

    own: dict[str, Nodes]  # behavior → e^(b_k)
    context: Nodes | None  # e_global, where GCE or CPA asks for it


class Bigel(TrainedMethod):
    """BiGEL.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.
    """

    def __init__(self, config: BigelConfig, context: Context) -> None:
        super().__init__()
        size, generator = config.size, context.generator
        self.config = config
        self.behaviors, self.target = context.behaviors, context.target
        self.user_emb = embedding_table(context.num_users, size, config.initializer, generator)
        self.item_emb = embedding_table(context.num_items, size, config.initializer, generator)
        self._cgl = CascadingGcn(
            [context.relation(behavior) for behavior in context.behaviors],
            layers_of(config.layers, context.behaviors),
            config.combination,
            config.normalize,
        )
        self._global = context.relation(GLOBAL)
        self._cpa = ContrastivePreferenceAlignment(
            config.temperature, config.similarity == "cosine"
        )
        self.cgf, self.gce = nn.ModuleDict(), nn.ModuleDict()
        for behavior in context.auxiliaries:
            for side in ("both",) if config.gates_shared else ("user", "item"):
                self._add_enhancements(f"{behavior}/{side}", generator)

    def propagate(self) -> BigelState:
        """Equations 2-4 and 7, over the whole graph."""
        base = Nodes(self.user_emb, self.item_emb)
        context = None
        if self.config.gce or self.config.cpa:
            context = light_gcn(
                self._global, base, self.config.global_layers, self.config.combination
            )
        return BigelState(dict(self._cgl(base)), context)

    def losses(self, state: BigelState, batch: Batch) -> dict[str, Tensor]:
        """Equations 13-14: BPR of every behavior, CPA, and L2."""
        terms = {}
        for behavior, triples in batch.items():
            terms[f"bpr/{behavior}"] = bpr(*self._scores(state, behavior, triples))
        if self.config.cpa and state.context is not None and self.target in batch:
            cpa = self._cpa(state.own[self.target], state.context, batch[self.target])
            terms["cpa"] = self.config.cpa_weight * cpa
        if self.config.l2:
            terms["l2"] = self.config.l2 * self._l2(batch)
        return terms

    @torch.no_grad()
    def factors(self) -> dict[str, Factors]:
        """Equation 12's embeddings of all nodes, per behavior."""
        state = self.propagate()
        return {
            behavior: Factors(
                self.enhance(state, behavior, "user", None),
                self.enhance(state, behavior, "item", None),
            )
            for behavior in self.behaviors
        }

    def enhance(self, state: BigelState, behavior: str, side: Side, rows: Tensor | None) -> Tensor:
        """The embeddings that score `behavior`: e^(b_K) for the target, else e'' (eq. 5-9).

        Gates and projections are computed for the rows asked for, not for the whole graph.

        Args:
            state: What `propagate` returned.
            behavior: Which one.
            side: "user" or "item".
            rows: Node indices (B,), or None for all nodes.

        Returns:
            (B, d), or (U, d) or (I, d).
        """

        def pick(nodes: Nodes) -> Tensor:
            table: Tensor = getattr(nodes, side)
            return table if rows is None else table.index_select(0, rows)

        embedding = pick(state.own[behavior])
        if behavior == self.target:
            return embedding
        key = f"{behavior}/{'both' if self.config.gates_shared else side}"
        if self.config.cgf:
            embedding = self.cgf[key](embedding, pick(state.own[self.target]))
        if self.config.gce and state.context is not None:
            embedding = self.gce[key](embedding, pick(state.context))
        return embedding

    def _scores(self, state: BigelState, behavior: str, triples: Triples) -> tuple[Tensor, Tensor]:
        """ŷ of the positive (B,) and of the negative (B, N) pairs (eq. 12)."""
        user = self.enhance(state, behavior, "user", triples.user_idx)
        positive = self.enhance(state, behavior, "item", triples.positive)
        negative = self.enhance(state, behavior, "item", triples.negative.flatten())
        negative = negative.view(*triples.negative.shape, -1)
        return (user * positive).sum(1), (user.unsqueeze(1) * negative).sum(2)

    def _l2(self, batch: Batch) -> Tensor:
        total = self.user_emb.new_zeros(())
        for triples in batch.values():
            total = total + squared_norm(
                self.user_emb.index_select(0, triples.user_idx),
                self.item_emb.index_select(0, triples.positive),
                self.item_emb.index_select(0, triples.negative.flatten()),
            )
        return total

    def _add_enhancements(self, key: str, generator: torch.Generator) -> None:
        size, maps = self.config.size, self.config.gate_maps
        feedback = CascadingGatedFeedback(size, maps, generator)
        shared = self.config.gce_gate == "cgf"
        gate = feedback.gate if shared else Gate(size, maps, generator)
        if self.config.cgf or (shared and self.config.gce):
            self.cgf[key] = feedback
        if self.config.gce:
            self.gce[key] = GlobalContextEnhancement(size, gate, generator)
