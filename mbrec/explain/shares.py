"""Shares of one score: numbers that add up to it, each with where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

NO_NODES: Indices = np.empty(0, np.int64)


@dataclass(frozen=True)
class Shares:
    """Shares that came the same way."""

    part: str  # of the method, e.g. "cascade" or "similar items"
    behavior: str  # "click", or "click + purchase" for an edge that stands for both; "": none
    layer: int  # steps of propagation from the neighbor's side: 1, 2, …; 0: not propagated
    nodes: Indices  # (n,) the neighbors; empty where there is none
    values: Values  # (n,), or (1,) where there is no neighbor

    def scaled(self, factor: float, part: str = "") -> Shares:
        """The same with every value times `factor`; as those of another part, if one is named."""
        return replace(self, part=part or self.part, values=self.values * factor)

    @property
    def total(self) -> float:
        """Their sum."""
        return float(self.values.sum())


def single(part: str, value: float, behavior: str = "") -> Shares:
    """A share that no neighbor carries."""
    return Shares(part, behavior, 0, NO_NODES, np.array([value], np.float64))


@dataclass(frozen=True)
class Done:
    """What one user has done in training, behavior by behavior; or who has done it to one item."""

    behaviors: tuple[str, ...]
    nodes: Mapping[str, Indices]  # behavior → the other side's indices, ascending

    def known(self, behaviors: Sequence[str] = ()) -> Indices:
        """The nodes of some behaviors, or of all, each once, ascending."""
        names = behaviors or self.behaviors
        found: Indices = np.unique(np.concatenate([NO_NODES, *(self.nodes[n] for n in names)]))
        return found

    def combined(self, part: str, layer: int, nodes: Indices, values: Values) -> list[Shares]:
        """Shares by the combination of behaviors in which each node stands."""
        code = np.zeros(len(nodes), np.int64)
        for place, name in enumerate(self.behaviors):
            code += np.isin(nodes, self.nodes[name]).astype(np.int64) << place
        found = []
        for number in np.unique(code).tolist():
            names = [name for n, name in enumerate(self.behaviors) if number >> n & 1]
            mine = code == number
            found.append(Shares(part, " + ".join(names), layer, nodes[mine], values[mine]))
        return found

    def split(
        self, part: str, nodes: Indices, values: Values, weights: Mapping[str, float]
    ) -> list[Shares]:
        """Shares by behavior, where a node's value is the sum of its behaviors' weights times one
        factor, as in the histories of `mbrec.history.weighted_history`.

        Args:
            part: Whose.
            nodes: (n,).
            values: (n,).
            weights: Behavior → its weight, for the behaviors that count.
        """
        own = {name: np.isin(nodes, self.nodes[name]) * float(w) for name, w in weights.items()}
        total = np.sum([np.zeros(len(nodes)), *own.values()], axis=0)
        found = []
        for name, weight in own.items():
            mine = weight > 0
            shared = values[mine] * weight[mine] / total[mine]
            found.append(Shares(part, name, 0, nodes[mine], shared))
        lost = total == 0  # of a history that the dataset does not have
        found.append(Shares(part, "", 0, nodes[lost], values[lost]))
        return [shares for shares in found if len(shares.values)]
