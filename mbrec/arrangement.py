"""A dataset as a training is to see it: some of its behaviors, in another cascade order.

Ranking and metrics know nothing of it: behaviors keep their names, and what is held out stays so
(but for `rows = "train+valid"`, see `mbrec.joined`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from mbrec.columns import Split
from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.errors import DataError, UsageError
from mbrec.graph import Pairs, build_graph
from mbrec.joined import joined
from mbrec.precedence import learned_order
from mbrec.randomness import generator


def arrange(dataset: PreparedDataset, settings: Settings) -> PreparedDataset:
    """The dataset with the behaviors and in the order that the settings ask for.

    Args:
        dataset: As it was prepared.
        settings: `behaviors`, `order`, `seed` and `rows` count.

    Returns:
        `dataset` itself where they ask for nothing.

    Raises:
        UsageError: An unknown behavior, or an order that does not fit.
    """
    if settings.rows == "train+valid":
        dataset = joined(dataset)
    if settings.order == "learned":
        behaviors = learned_order(_Arranged(dataset, _kept(dataset.behaviors, settings.behaviors)))
    else:
        behaviors = cascade(dataset.behaviors, settings)
    return dataset if behaviors == dataset.behaviors else _Arranged(dataset, behaviors)


def cascade(behaviors: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """The cascade that `settings` make of the prepared `behaviors`.

    The target, last of those that are kept, stays last: the order studied is that of the
    auxiliaries. `order = "random"` draws it from the run's seed; "learned" needs the log and is
    resolved by `arrange`.

    Raises:
        UsageError: An unknown behavior, or an order that does not fit.
    """
    kept = _kept(behaviors, settings.behaviors)
    *auxiliaries, target = kept
    if settings.order == "canonical":
        return kept
    if settings.order == "random":
        drawn = torch.randperm(len(auxiliaries), generator=generator(settings.seed, "order"))
        return (*(auxiliaries[place] for place in drawn.tolist()), target)
    if sorted(settings.order) != sorted(kept):
        raise UsageError(
            f"The order {', '.join(settings.order)} is no permutation of {', '.join(kept)}.",
            "Name every behavior once.",
        )
    if settings.order[-1] != target:
        raise UsageError(
            f"The order {', '.join(settings.order)} does not end with the target {target!r}.",
            "Only the behaviors before it change places.",
        )
    return tuple(settings.order)


class _Arranged(PreparedDataset):
    """A view of a dataset that is open already; nothing is read twice."""

    def __init__(self, base: PreparedDataset, behaviors: tuple[str, ...]) -> None:
        self.__dict__.update(base.__dict__)
        self._base = base
        self.behaviors = behaviors

    def graph(self) -> Any:
        if len(self.behaviors) == len(self._base.behaviors):
            return self._base.graph()  # relations have names: their order is not in it
        return build_graph(self.train_relations(), self.num_users, self.num_items)

    def _part(self, behavior: str, split: Split) -> tuple[Pairs, pa.Array]:
        if behavior not in self.behaviors:
            raise DataError(
                f"{behavior!r} is not among the behaviors of this training.",
                f"They are {', '.join(self.behaviors)}.",
            )
        return self._base._part(behavior, split)


def _kept(behaviors: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    if not wanted:
        return tuple(behaviors)
    unknown = [name for name in wanted if name not in behaviors]
    if unknown or len(set(wanted)) != len(wanted):
        raise UsageError(
            f"behaviors = {', '.join(wanted)} does not fit: the dataset has "
            f"{', '.join(behaviors)}.",
            "Name some of these, each once.",
        )
    return tuple(name for name in behaviors if name in wanted)
