"""BiGEL (arXiv 2601.07294): CGL, CGF, GCE and CPA under one multi-task head.

    e⁰ ── CGL ──► e^(b_1) ─► … ─► e^(b_K)          per behavior, in cascade order
     │               │  ◄── CGF ─────┘             auxiliaries learn from the target
     └─ LightGCN on the merged graph ─► e_global
                     │  ◄── GCE ─────┘             auxiliaries learn from the whole
                                e^(b_K) ◄─ CPA ─► e_global

Where the paper leaves a choice open, it is a field of `BigelConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from mbrec.columns import GLOBAL
from mbrec.engines import SIDES, Side
from mbrec.losses import bpr
from mbrec.models.base import (
    Context,
    EmbeddingConfig,
    PerBehavior,
    TrainedMethod,
    base_l2,
    gather,
    layers_of,
    node_embeddings,
    pair_scores,
    per_behavior,
)
from mbrec.models.bigel.cgf import CascadingGatedFeedback, Gate
from mbrec.models.bigel.cgl import CascadingGcn
from mbrec.models.bigel.cpa import ContrastivePreferenceAlignment
from mbrec.models.bigel.gce import GlobalContextEnhancement
from mbrec.models.terms import distinct
from mbrec.parallel.lookup import Lookup
from mbrec.propagation import Combination, Nodes, light_gcn
from mbrec.sampling import Batch, Triples
from mbrec.scoring import Factors

GATE_SAMPLE = 4096  # nodes of a side whose gates are looked at, or up to twice as many


class BigelConfig(EmbeddingConfig):
    """Settings of BiGEL."""

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

    cpa_weight: PerBehavior = 0.01
    """λ (eq. 14), of the target's embedding; or a table behavior = λ: the embedding e^(b_k) of each
    behavior that it names is aligned with the global one, on that behavior's rows of the batch."""

    temperature: PositiveFloat = 0.2
    """τ of CPA (eq. 10-11)."""

    similarity: Literal["cosine", "dot"] = "cosine"
    """How CPA compares embeddings (eq. 10-11)."""


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
        self.config, self.columns = config, context.columns(size)
        self.behaviors, self.target = context.behaviors, context.target
        self.user_emb, self.item_emb = node_embeddings(config, context, self.columns)
        self.cgl = CascadingGcn(
            [context.relation(behavior) for behavior in context.behaviors],
            layers_of(config.layers, context.behaviors),
            config.combination,
            config.normalize,
        )
        self.merged = context.relation(GLOBAL)
        self._cpa = ContrastivePreferenceAlignment(
            config.temperature, config.similarity == "cosine", self.columns
        )
        named = config.cpa_weight
        aligned = context.behaviors if isinstance(named, Mapping) else (context.target,)
        self._cpa_weights = per_behavior(named, aligned, "model.cpa_weight")
        self.cgf, self.gce = nn.ModuleDict(), nn.ModuleDict()
        for behavior in context.auxiliaries:
            for key in dict.fromkeys((self.key(behavior, "user"), self.key(behavior, "item"))):
                self._add_enhancements(key, generator)

    def propagate(self) -> BigelState:
        """Equations 2-4 and 7, over the whole graph."""
        base = Nodes(self.user_emb, self.item_emb)
        context = None
        if self.config.gce or self.config.cpa:
            context = light_gcn(
                self.merged, base, self.config.global_layers, self.config.combination
            )
        return BigelState(dict(self.cgl(base)), context)

    def losses(self, state: BigelState, batch: Batch) -> dict[str, Tensor]:
        """Equations 13-14: BPR of every behavior, CPA, and L2; a rank scores its share of pairs."""
        lookup = Lookup(self.columns)
        embedded = {b: self.embed(lookup, state, b, triples) for b, triples in batch.items()}
        alignment = self._alignment(lookup, state, batch)
        terms = {}
        for behavior, triples in batch.items():
            scores = pair_scores(*embedded[behavior]())  # (B, 1+N), eq. 12
            terms[f"bpr/{behavior}"] = bpr(scores[:, 0], scores[:, 1:], len(triples.user_idx))
        if alignment:
            terms["cpa"] = torch.stack([weight * cpa() for weight, cpa in alignment]).sum()
        if self.config.l2:
            terms["l2"] = base_l2(self.user_emb, self.item_emb, batch, self.config.l2)
        return dict(zip(terms, self.columns.total(list(terms.values())), strict=True))

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """Equation 12's embeddings of all nodes, per behavior."""
        state, each_row = self.propagate(), self.columns.each_row
        return {
            b: Factors(
                *(
                    each_row(partial(self.enhance, b, side), *self._inputs(state, b, side))
                    for side in SIDES
                )
            )
            for b in self.behaviors
        }

    @torch.no_grad()
    def gate_values(self) -> dict[str, dict[str, Tensor]]:
        """The gates of CGF and GCE (eq. 5, 8), of users and items spread over the catalog."""
        state = self.propagate()
        found: dict[str, dict[str, Tensor]] = {}
        for behavior in self.behaviors[:-1]:
            parts: dict[str, list[Tensor]] = {"cgf": [], "gce": []}
            for side in SIDES:
                key = self.key(behavior, side)
                own, target, *_ = self._inputs(state, behavior, side)
                every = max(1, len(own) // GATE_SAMPLE)
                own, target = (self.columns.whole(table[::every]) for table in (own, target))
                if self.config.cgf:
                    feedback = self.cgf[key]
                    assert isinstance(feedback, CascadingGatedFeedback)
                    parts["cgf"].append(feedback.gate(own))
                    own = feedback(own, target)
                if self.config.gce:
                    enhancement = self.gce[key]
                    assert isinstance(enhancement, GlobalContextEnhancement)
                    parts["gce"].append(enhancement.gate(own))
            found[behavior] = {name: torch.cat(part) for name, part in parts.items() if part}
        return found

    def enhance(
        self,
        behavior: str,
        side: Side,
        own: Tensor,
        target: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """The embeddings that score `behavior`: e^(b_K) for the target, else e'' (eq. 5-9).

        Args:
            behavior: b_k.
            side: "user" or "item".
            own: e^(b_k) of some rows. (…, d)
            target: e^(b_K) of the same rows, for an auxiliary.
            context: e_global of the same rows, where GCE asks for it.

        Returns:
            (…, d).
        """
        if behavior == self.target:
            return own
        key = self.key(behavior, side)
        if self.config.cgf:
            own = self.cgf[key](own, target)
        if self.config.gce:
            own = self.gce[key](own, context)
        return own

    def _alignment(
        self, lookup: Lookup, state: BigelState, batch: Batch
    ) -> list[tuple[float, Callable[[], Tensor]]]:
        """λ and CPA of every behavior of the batch that has a λ."""
        if not self.config.cpa or state.context is None:
            return []
        return [
            (weight, self._cpa(lookup, state.own[behavior], state.context, batch[behavior]))
            for behavior, weight in self._cpa_weights.items()
            if weight and behavior in batch
        ]

    def embed(
        self, lookup: Lookup, state: BigelState, behavior: str, triples: Triples
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        """The embeddings that score a behavior's triples, once the lookup is complete.

        Users (B, d) and items (B, 1 + N, d); of several ranks, this one's share of them.
        """
        rank, named, places, tables = self.columns.team.rank, [], [], []
        for side, index in zip(SIDES, (triples.user_idx, triples.items), strict=True):
            tables.append(self._inputs(state, behavior, side))
            # Gates and projections run once for every node that a share names.
            shares = self.columns.shares(index)
            found = [distinct(share, len(tables[-1][0])) for share in shares]
            named.append([nodes for nodes, _ in found])
            places.append(found[rank][1].view(shares[rank].shape))
        counts = [len(nodes[rank]) for nodes in named]
        places[1] += counts[0]  # users and items stand in one table from here on
        rows = [lookup.ask(*zip(both, named, strict=True)) for both in zip(*tables, strict=True)]

        def embedded() -> tuple[Tensor, Tensor]:
            """Users (B, d) and items (B, 1 + N, d), by equations 5-9."""
            given = [table() for table in rows]
            if self.config.gates_shared:
                whole = self.enhance(behavior, "user", *given)
            else:
                parts = zip(*(torch.split(table, counts) for table in given), strict=True)
                sides = zip(SIDES, parts, strict=True)
                whole = torch.cat([self.enhance(behavior, side, *part) for side, part in sides])
            user, items = gather(whole, places)
            return user, items

        return embedded

    def _inputs(self, state: BigelState, behavior: str, side: Side) -> list[Tensor]:
        """What `enhance` needs, of all nodes."""
        place = SIDES.index(side)
        own, target = state.own[behavior][place], state.own[self.target][place]
        if behavior == self.target:
            return [own]
        if not self.config.gce or state.context is None:
            return [own, target]
        return [own, target, state.context[place]]

    def key(self, behavior: str, side: Side) -> str:
        """The name under which `cgf` and `gce` hold a behavior's enhancement of a side."""
        # By position: a behavior's name may hold a dot, which torch refuses in a module's name.
        position = self.behaviors.index(behavior)
        return str(position) if self.config.gates_shared else f"{position}-{side}"

    def _add_enhancements(self, key: str, generator: torch.Generator) -> None:
        size, maps = self.config.size, self.config.gate_maps
        feedback = CascadingGatedFeedback(size, maps, generator)
        shared = self.config.gce_gate == "cgf"
        gate = feedback.gate if shared else Gate(size, maps, generator)
        if self.config.cgf or (shared and self.config.gce):
            self.cgf[key] = feedback
        if self.config.gce:
            self.gce[key] = GlobalContextEnhancement(size, gate, generator)
