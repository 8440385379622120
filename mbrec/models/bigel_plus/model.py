"""BiGEL+: BiGEL with a contextual branch, averaged weights and a blend per behavior.

    cascades   several BiGEL (CGL, CGF, CPA) from different initial weights, by BPR
    context    LightGCN on the merged graph, by a softmax over many items       `context.py`
    walk, linear, userknn, history, recency, popularity                         `counts.py`

The cascades and the contextual branch are trained side by side, without shared weights, and each
is kept at its own best epoch: they do not learn at the same pace. After training, what every part
counts is learned for every behavior from its validation rows (`mbrec.stacking`); behaviors without
such rows are ranked by the branches alone. Where a network that reads all parts together makes
lists better, it adds to the stack (`mbrec.correction`). Every ingredient has its switch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from mbrec.graph import Pairs
from mbrec.models.base import Context, PerBehavior, TrainedMethod
from mbrec.models.bigel.model import Bigel, BigelConfig
from mbrec.models.bigel_plus.context import ContextualBranch
from mbrec.models.bigel_plus.counts import (
    activities,
    history,
    linear,
    popularities,
    recency,
    require_linear,
    unseen,
    userknn,
    walk,
)
from mbrec.ranking import Exclusion
from mbrec.sampling import Batch
from mbrec.scoring import Factors, Scorer
from mbrec.similar_users import require_similar_users
from mbrec.spread import unit_spread
from mbrec.stacking import Known, Learned, Part, Stack, learn_stack

_CASCADE, _CONTEXT, _LINEAR = 0.15, 0.3, 0.03  # prior weights, near those learned on JD


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
    """Learn the weights of all parts from validation rows; else only the branches count."""

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

    userknn: bool = True
    """Blend in what the users most like a user have done, behavior by behavior."""

    userknn_neighbors: PositiveInt = 100
    """Users kept per user."""

    userknn_shrink: NonNegativeFloat = 1.0
    """The higher, the less similar are users with short histories."""

    history: bool = True
    """Blend in what the user has done to the item in the other behaviors."""

    recency: bool = True
    """Blend in how lately the user has done the other behaviors to the item, where the log has
    times: for the first time, or with `mbrec prep --keep last` for the last."""

    popularity: bool = True
    """Blend in the item's popularity in every behavior."""

    by_popularity: bool = True
    """Let what the branches, walks, EASE and UserKNN count depend on the item's popularity in every
    behavior."""

    by_activity: bool = True
    """Let what they and popularity count depend on how much the user has done in every behavior,
    where that makes the lists of a behavior better to users it was not learned from."""

    network: NonNegativeInt = 64
    """Hidden units of a network that reads all of this together, in the lists that it makes better
    for users it was not learned from; 0: none."""

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
        TrainingError: The linear part or the similar users will not fit into memory.
    """

    def __init__(self, config: BigelPlusConfig, context: Context) -> None:
        super().__init__()
        if config.blend and config.linear:
            require_linear(context, config.linear_items)
        if config.blend and config.userknn:
            require_similar_users(
                context.num_users,
                config.userknn_neighbors,
                "The similar users of BiGEL+",
                "Lower model.userknn_neighbors, or set model.userknn=false.",
            )
        self.config = config
        self._context = context
        self._stacks: dict[str, Stack] = {}
        # What calibration learned, and the parts that it learned them with: made once, they are
        # the same tensors wherever a run holds them.
        self._learned: dict[str, tuple[Learned, dict[str, Part]]] = {}
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
        """Learn the stacks; see `mbrec.models.base.TrainedMethod.calibrate`."""
        if not self.config.blend:
            return {}
        branches = self._branches()
        for behavior, pairs in valid.items():
            parts = {**branches[behavior], **self._counted(behavior)}
            learned = learn_stack(
                parts,
                self._known,
                pairs,
                Exclusion.from_pairs(self._context.train[behavior], self._context.num_users),
                metric=metric,
                k=k,
                hidden=self.config.network,
            )
            self._learned[behavior] = learned, parts
            self._stacks[behavior] = learned.stack
        return {name: stack.plain() for name, stack in self._stacks.items()}

    def adopt(self, calibration: Mapping[str, Any]) -> None:
        """Take over stacks; see `mbrec.models.base.TrainedMethod.adopt`."""
        self._stacks = {name: Stack.of(plain) for name, plain in calibration.items()}

    @torch.no_grad()
    def scorers(self) -> dict[str, Scorer]:
        """The stacks once they are learned; the sum of the branches for the rest."""
        branches = self._branches()
        found: dict[str, Scorer] = {
            behavior: _together([part.scorer for part in parts.values()])
            for behavior, parts in branches.items()
        }
        for behavior, stack in self._stacks.items():
            if behavior in self._learned:
                parts = self._learned[behavior][1]
            else:
                parts = {**branches[behavior], **self._counted(behavior)}
            found[behavior] = stack.scorer(parts, self._known)
        return found

    def cross_fitted(self) -> dict[str, Scorer]:
        """Behavior → the stacks that were learned without each fold of the users."""
        return {
            behavior: learned.cross_fitted(parts, self._known)
            for behavior, (learned, parts) in self._learned.items()
        }

    @torch.no_grad()
    def _branches(self) -> dict[str, dict[str, Part]]:
        """Behavior → the branches' embeddings, of unit spread."""
        found: dict[str, dict[str, Part]] = {name: {} for name in self._context.behaviors}
        members = [cascade.scorers() for cascade in self._members()]
        for name in self._context.behaviors if members else ():
            scorer = _together([unit_spread(scorers[name]) for scorers in members])
            found[name]["cascade"] = Part(unit_spread(scorer), _CASCADE, varies=True)
        if self.context is not None:
            for name, scorer in self.context.scorers().items():
                found[name]["context"] = Part(unit_spread(scorer), _CONTEXT, varies=True)
        return found

    def _members(self) -> list[Bigel]:
        return [cascade for cascade in self.cascades if isinstance(cascade, Bigel)]

    @cached_property
    def similarities(self) -> dict[str, Part]:
        """Walks, EASE, UserKNN: the same for all behaviors; made once, since they do not train."""
        config, context = self.config, self._context
        found = {}
        if config.walk:
            walks = walk(context, config.walk_neighbors, config.walk_discount)
            found["walk"] = Part(unit_spread(walks), varies=True)
        if config.linear:
            known = linear(context, config.linear_items, config.linear_l2, config.linear_neighbors)
            found["linear"] = Part(unit_spread(known), _LINEAR, varies=True)
        if config.userknn:
            by = userknn(context, config.userknn_neighbors, config.userknn_shrink)
            for name, scorer in by.items():
                found[f"userknn/{name}"] = Part(unit_spread(scorer), varies=True)
        return found

    @cached_property
    def _known(self) -> Known:
        config, context = self.config, self._context
        popular = popularities(context)
        return Known(
            items=popular if config.by_popularity else {},
            users=activities(context) if config.by_activity else {},
            biases={**popular, **unseen(context)} if config.popularity else {},
            leading=tuple(popular) if config.popularity else (),
        )

    def _counted(self, behavior: str) -> dict[str, Part]:
        """The parts that need no training."""
        found, context = dict(self.similarities), self._context
        for name in context.behaviors:
            # What the user has done in the behavior itself is not ranked again.
            if name != behavior and self.config.history:
                found[f"history/{name}"] = Part(history(context, name))
            if name != behavior and self.config.recency and name in context.times:
                found[f"recency/{name}"] = Part(recency(context, name, behavior))
        return found


def _together(scorers: list[Scorer]) -> Scorer:
    """The sum of the branches' scores, as one pair of embeddings."""
    tables = [scorer for scorer in scorers if isinstance(scorer, Factors)]
    return Factors(
        torch.cat([factors.user_emb for factors in tables], dim=1),
        torch.cat([factors.item_emb for factors in tables], dim=1),
    )
