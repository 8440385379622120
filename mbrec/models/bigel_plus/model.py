"""BiGEL+: BiGEL with a contextual branch, averaged weights and a blend per behavior.

    cascades   several BiGEL (CGL, CGF, CPA) from different initial weights, by BPR
    contexts   as many LightGCN on the merged graph, by a softmax over many items   `context.py`
    walk, linear, userknn, history, recency, popularity                         `counts.py`

The cascades and the contextual branches are trained side by side, without shared weights, and each
is kept at its own best epoch: they do not learn at the same pace. After training, what every part
counts is learned for every behavior from its validation rows (`mbrec.stacking`); behaviors without
such rows are ranked by the branches alone. Every ingredient has its switch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from mbrec.stacking import Known, Part, Stack, learn_stack

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
    """Cascades, and contextual branches, trained side by side from different initial weights; the
    scores of a kind are added up."""

    context: bool = True
    """The contextual branches."""

    context_size: PositiveInt = 128
    """d of a contextual branch."""

    context_layers: NonNegativeInt = 2
    """GCN layers of a contextual branch."""

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
    times."""

    popularity: bool = True
    """Blend in the item's popularity in every behavior."""

    by_popularity: bool = True
    """Let what the branches, walks, EASE and UserKNN count depend on the item's popularity in every
    behavior."""

    by_activity: bool = True
    """Let what they and popularity count depend on how much the user has done in every behavior,
    where that makes the lists of a behavior better to users it was not learned from."""

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
        self.cascades = nn.ModuleList(
            Bigel(config, context) for _ in range(config.members * config.cascade)
        )
        self.contexts = nn.ModuleList(
            ContextualBranch(
                context,
                config.context_size,
                config.context_layers,
                config.context_temperature,
                config.context_negatives,
            )
            for _ in range(config.members * config.context)
        )
        self._learning = frozenset(self.parts())

    def parts(self) -> Mapping[str, TrainedMethod]:
        """The cascades and the contextual branches."""
        kinds: dict[str, Sequence[TrainedMethod]] = {
            "cascade": self._cascades(),
            "context": self._contexts(),
        }
        return {
            f"{kind}-{number}": member
            for kind, members in kinds.items()
            for number, member in enumerate(members, start=1)
        }

    def learn(self, parts: Collection[str]) -> None:
        """See `TrainedMethod.learn`."""
        self._learning = frozenset(parts)

    def begin_epoch(self, epoch: int, random: torch.Generator) -> None:
        """Draw the softmax's items from `random`."""
        for branch in self._contexts():
            branch.begin_epoch(epoch, random)

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
        """The embedding tables of all branches."""
        members: list[Bigel | ContextualBranch] = [*self._cascades(), *self._contexts()]
        return [table for member in members for table in (member.user_emb, member.item_emb)]

    def gate_values(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The gates of the first cascade."""
        return next((cascade.gate_values() for cascade in self._cascades()), {})

    def calibrate(self, valid: Mapping[str, Pairs], metric: str, k: int) -> dict[str, Any]:
        """Learn the stacks; see `mbrec.models.base.TrainedMethod.calibrate`."""
        if not self.config.blend:
            return {}
        branches = self._branches()
        for behavior, pairs in valid.items():
            self._stacks[behavior] = learn_stack(
                {**branches[behavior], **self._counted(behavior)},
                self._known,
                pairs,
                Exclusion.from_pairs(self._context.train[behavior], self._context.num_users),
                metric=metric,
                k=k,
            )
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
            parts = {**branches[behavior], **self._counted(behavior)}
            found[behavior] = stack.scorer(parts, self._known)
        return found

    @torch.no_grad()
    def _branches(self) -> dict[str, dict[str, Part]]:
        """Behavior → the branches' embeddings, of unit spread."""
        names = self._context.behaviors
        found: dict[str, dict[str, Part]] = {name: {} for name in names}
        cascades = [cascade.scorers() for cascade in self._cascades()]
        for name in names if cascades else ():
            part = _together([unit_spread(scorers[name]) for scorers in cascades])
            found[name]["cascade"] = Part(unit_spread(part), _CASCADE, varies=True)
        # A contextual branch scores all behaviors alike.
        contexts = [branch.scorers()[names[0]] for branch in self._contexts()]
        if contexts:
            scorer = unit_spread(_together([unit_spread(factors) for factors in contexts]))
            for name in names:
                found[name]["context"] = Part(scorer, _CONTEXT, varies=True)
        return found

    def _cascades(self) -> list[Bigel]:
        return [cascade for cascade in self.cascades if isinstance(cascade, Bigel)]

    def _contexts(self) -> list[ContextualBranch]:
        return [branch for branch in self.contexts if isinstance(branch, ContextualBranch)]

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
