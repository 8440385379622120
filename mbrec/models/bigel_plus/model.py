"""BiGEL+: BiGEL with a contextual branch, averaged weights and a blend per behavior.

    cascades   several BiGEL (CGL, CGF, CPA) from different initial weights, by BPR
    context    LightGCN on the merged graph, by a softmax over many items       `context.py`
    walk, linear, history, recency, popularity                                  `counts.py`

The cascades and the contextual branch are trained side by side, without shared weights, and each
is kept at its own best epoch: they do not learn at the same pace. After training a blend of all
parts is chosen for every behavior on its validation rows (`mbrec.blending`); behaviors without such
rows are ranked by the branches alone. Every ingredient has its switch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from mbrec.blending import Blend, Part, blended, choose, unit_spread
from mbrec.graph import Pairs
from mbrec.models.base import Context, PerBehavior, TrainedMethod
from mbrec.models.bigel.model import Bigel, BigelConfig
from mbrec.models.bigel_plus.context import ContextualBranch
from mbrec.models.bigel_plus.counts import (
    history,
    linear,
    log_popularity,
    recency,
    require_linear,
    walk,
)
from mbrec.ranking import Exclusion
from mbrec.sampling import Batch
from mbrec.scoring import Factors, Scorer

_SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.5)
_BOOSTS = (-2.0, -1.0, -0.5, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
_SIGNED = tuple(sorted({*_SHARES, *(-share for share in _SHARES)}))


class BigelPlusConfig(BigelConfig):
    """Settings of BiGEL+: those of BiGEL for the cascade, and its own."""

    size: PositiveInt = 128
    """d of the cascade."""

    cpa_weight: PerBehavior = 0.05
    """λ (eq. 14): a number, for the target; or a table, behavior → λ."""

    l2: PerBehavior = 0.03
    """β (eq. 14), on the base embeddings of the batch's rows; a number or a table."""

    gce: bool = False
    """Global context enhancement (eq. 7-9) in the cascade; the contextual branch does its work."""

    cascade: bool = True
    """The cascade: BiGEL."""

    members: PositiveInt = 2
    """Cascades trained side by side from different initial weights; their scores are added up. One
    more steadies sparse behaviors most."""

    context: bool = True
    """The contextual branch."""

    context_size: PositiveInt = 128
    """d of the contextual branch."""

    context_layers: NonNegativeInt = 2
    """GCN layers of the contextual branch."""

    context_temperature: PositiveFloat = 0.15
    """τ of its softmax."""

    context_negatives: PositiveInt = 1024
    """Items drawn per step for its softmax; all items where there are no more."""

    blend: bool = True
    """Choose the weights of all parts on validation rows; else only the branches count."""

    walk: bool = True
    """Blend in walks on the merged graph."""

    walk_neighbors: PositiveInt = 500
    """Ends of walks kept per item."""

    walk_discount: float = 0.2
    """β of the walks, 0 … 1."""

    linear: bool = True
    """Blend in EASE on the merged histories."""

    linear_items: PositiveInt = 20_000
    """Items that it knows, those of most users: it takes 8 bytes of memory per pair of them."""

    linear_l2: PositiveFloat = 300.0
    """λ of EASE."""

    linear_neighbors: PositiveInt = 500
    """Weights of EASE kept per item, those of largest size."""

    history: bool = True
    """Blend in what the user has done to the item in the other behaviors."""

    recency: bool = True
    """Blend in how lately the user has done the other behaviors to the item, where the log has
    times."""

    popularity: bool = True
    """Blend in the item's popularity in every behavior."""

    @model_validator(mode="after")
    def _one_branch(self) -> BigelPlusConfig:
        if not (self.cascade or self.context):
            raise ValueError("one of model.cascade and model.context has to be on")
        return self


class BigelPlus(TrainedMethod):
    """BiGEL+.

    Args:
        config: Settings.
        context: The training part of a dataset, with an engine.

    Raises:
        TrainingError: The linear part will not fit into memory.
    """

    def __init__(self, config: BigelPlusConfig, context: Context) -> None:
        super().__init__()
        if config.blend and config.linear:
            require_linear(context, config.linear_items)
        self.config = config
        self._context = context
        self._blends: dict[str, Blend] = {}
        self._shared: dict[str, Part] | None = None
        members = config.members if config.cascade else 0
        self.cascades = nn.ModuleList(Bigel(config, context) for _ in range(members))
        self.context = (
            ContextualBranch(
                context,
                config.context_size,
                config.context_layers,
                config.context_temperature,
                config.context_negatives,
            )
            if config.context
            else None
        )
        self._learning = frozenset(self.parts())

    def parts(self) -> Mapping[str, TrainedMethod]:
        """The cascades and the contextual branch."""
        members = {f"cascade-{n}": member for n, member in enumerate(self._members(), start=1)}
        return members if self.context is None else {**members, "context": self.context}

    def learn(self, parts: Collection[str]) -> None:
        """See `TrainedMethod.learn`."""
        self._learning = frozenset(parts)

    def begin_epoch(self, epoch: int, random: torch.Generator) -> None:
        """Draw the softmax's items from `random`."""
        if self.context is not None:
            self.context.begin_epoch(epoch, random)

    def propagate(self) -> dict[str, Any]:
        """Part → all its nodes, of the parts that learn."""
        return {n: part.propagate() for n, part in self.parts().items() if n in self._learning}

    def losses(self, state: dict[str, Any], batch: Batch) -> dict[str, Tensor]:
        """Per behavior the sum of the parts' losses; CPA and L2 of the cascades."""
        terms: dict[str, Tensor] = {}
        for name, nodes in state.items():
            for term, loss in self.parts()[name].losses(nodes, batch).items():
                kind, _, behavior = term.partition("/")
                # One task loss per behavior: BPR and softmax add up.
                term = f"task/{behavior}" if behavior else kind
                terms[term] = terms[term] + loss if term in terms else loss
        return terms

    def shared_parameters(self) -> list[nn.Parameter]:
        """The embedding tables of both branches."""
        tables = [t for member in self._members() for t in (member.user_emb, member.item_emb)]
        if self.context is not None:
            tables += [self.context.user_emb, self.context.item_emb]
        return tables

    def gate_values(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The gates of the first cascade."""
        return next((cascade.gate_values() for cascade in self._members()), {})

    def calibrate(self, valid: Mapping[str, Pairs], metric: str, k: int) -> dict[str, Any]:
        """Choose the blends; see `mbrec.models.base.TrainedMethod.calibrate`."""
        if not self.config.blend:
            return {}
        branches, shared = self._branches(), self._shared_parts()
        for behavior, pairs in valid.items():
            exclude = Exclusion.from_pairs(self._context.train[behavior], self._context.num_users)
            parts = {**branches[behavior], **self._parts(behavior, shared)}
            self._blends[behavior] = choose(parts, pairs, exclude, metric=metric, k=k)
        return {
            name: {
                "weights": {part: weight for part, weight in blend.weights.items() if weight},
                "value": blend.value,
                "branch_alone": blend.first,
                "cross_fitted": blend.cross_fitted,
            }
            for name, blend in self._blends.items()
        }

    @torch.no_grad()
    def scorers(self) -> dict[str, Scorer]:
        """The blends once they are chosen; the sum of the branches for the rest."""
        branches = self._branches()
        found: dict[str, Scorer] = {
            behavior: _together([part.scorer for part in parts.values()])
            for behavior, parts in branches.items()
        }
        if self._blends:
            shared = self._shared_parts()
            for behavior, blend in self._blends.items():
                parts = {**branches[behavior], **self._parts(behavior, shared)}
                found[behavior] = blended(parts, blend.weights)
        return found

    @torch.no_grad()
    def _branches(self) -> dict[str, dict[str, Part]]:
        """Behavior → the branches' embeddings, of unit spread."""
        found: dict[str, dict[str, Part]] = {name: {} for name in self._context.behaviors}
        members = [cascade.scorers() for cascade in self._members()]
        for name in self._context.behaviors if members else ():
            scorer = _together([unit_spread(scorers[name]) for scorers in members])
            found[name]["cascade"] = Part(unit_spread(scorer), _SHARES)
        if self.context is not None:
            for name, scorer in self.context.scorers().items():
                found[name]["context"] = Part(unit_spread(scorer), _SHARES)
        return found

    def _members(self) -> list[Bigel]:
        return [cascade for cascade in self.cascades if isinstance(cascade, Bigel)]

    def _shared_parts(self) -> dict[str, Part]:
        """The parts that are the same for all behaviors; made once, since training is no part."""
        if self._shared is None:
            self._shared = self._counted_parts()
        return self._shared

    def _counted_parts(self) -> dict[str, Part]:
        config, context = self.config, self._context
        found = {}
        if config.walk:
            scorer = walk(context, config.walk_neighbors, config.walk_discount)
            found["walk"] = Part(unit_spread(scorer), _SHARES)
        if config.linear:
            scorer = linear(context, config.linear_items, config.linear_l2, config.linear_neighbors)
            found["linear"] = Part(unit_spread(scorer), _SHARES)
        if config.popularity:
            for name in context.behaviors:
                scores = unit_spread(log_popularity(context, name))
                found[f"popularity/{name}"] = Part(scores, _SIGNED)
        if config.history:
            for name in context.behaviors:
                found[f"history/{name}"] = Part(history(context, name), _BOOSTS)
        return found

    def _parts(self, behavior: str, shared: Mapping[str, Part]) -> dict[str, Part]:
        # What the user has done in the behavior itself is not ranked again.
        found = {name: part for name, part in shared.items() if name != f"history/{behavior}"}
        if self.config.recency:
            for name in self._context.times:
                if name != behavior:
                    scorer = recency(self._context, name, behavior)
                    found[f"recency/{name}"] = Part(scorer, _BOOSTS)
        return found


def _together(scorers: list[Scorer]) -> Scorer:
    """The sum of the branches' scores, as one pair of embeddings."""
    tables = [scorer for scorer in scorers if isinstance(scorer, Factors)]
    return Factors(
        torch.cat([factors.user_emb for factors in tables], dim=1),
        torch.cat([factors.item_emb for factors in tables], dim=1),
    )
