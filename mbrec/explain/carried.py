"""What propagation carries into one node's embedding: vectors that add up to it.

LightGCN on a relation b is linear. With α_0 … α_L from how layers are combined,

    GCN_b(x)_u = α_0 x_u + Σ_{j ∈ N_u} Σ_{l=1…L} α_l x^(l-1)_j / (√|N_u| √|N_j|),

so neighbor j carries, through layer l, the vector behind the inner sum; x^(l-1)_j holds what had
reached j in l - 1 steps. The same holds with users and items exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mbrec.columns import GLOBAL
from mbrec.explain.shares import Done, Indices
from mbrec.propagation import Combination, Nodes, Relation, light_gcn

OWN = "own embedding"


@dataclass(frozen=True)
class Carried:
    """Vectors that came the same way."""

    part: str
    relation: str  # a behavior, `GLOBAL`, or "" where nothing was propagated
    layer: int
    nodes: Indices  # (n,) neighbors; empty: the vector is the node's own, or of none
    vectors: Tensor  # (n, d), or (1, d)

    def through(self, function: Callable[[Tensor], Tensor], part: str) -> Carried:
        """After a linear map, as part of something else."""
        name = part if self.relation else f"{part}: {OWN}"
        return replace(self, part=name, vectors=function(self.vectors))


@dataclass(frozen=True)
class Center:
    """The node whose embedding is taken apart."""

    side: int  # 0: a user, 1: an item
    node: int
    neighbors: Mapping[str, Indices]  # relation → its neighbors, on the other side

    @classmethod
    def of(cls, side: int, node: int, done: Done) -> Center:
        """With the merged relation among the others."""
        return cls(side, node, {**done.nodes, GLOBAL: done.known()})

    def own(self, part: str, base: Nodes) -> Carried:
        """The node's row of `base`."""
        row = base[self.side][self.node : self.node + 1].double()
        return Carried(f"{part}: {OWN}" if part else OWN, "", 0, np.empty(0, np.int64), row)


def propagated(
    center: Center,
    part: str,
    relation: Relation,
    nodes: Nodes,
    layers: int,
    combination: Combination,
) -> tuple[float, list[Carried]]:
    """LightGCN on one relation, taken apart: α_0, and what the neighbors carry."""
    if not layers:
        return 1.0, []
    weights = _weights(layers, combination)
    neighbors = torch.from_numpy(center.neighbors[relation.name])
    scale = relation.inverse_root[center.side][center.node] * (
        relation.inverse_root[1 - center.side].index_select(0, neighbors)
    )  # (n, 1)
    found, current = [], nodes
    for layer in range(1, layers + 1):
        if weights[layer]:
            rows = current[1 - center.side].index_select(0, neighbors)
            vectors = weights[layer] * scale.double() * rows.double()
            index = center.neighbors[relation.name]
            found.append(Carried(part, relation.name, layer, index, vectors))
        if layer < layers:
            current = light_gcn(relation, current, 1, "last")
    return weights[0], found


def cascaded(
    center: Center,
    part: str,
    relations: Sequence[tuple[Relation, int]],
    base: Nodes,
    combination: Combination,
    normalize: bool,
    until: str,
) -> list[Carried]:
    """CGL (equations 2-4 of BiGEL) up to the behavior `until`, taken apart.

    A step makes (1 + c α_0) of what was carried before, and adds what the neighbors carry, times c:
    c = 1, or 1 / ‖GCN_k(…)_u‖ where the output of a GCN is normalized.
    """
    found, current = [center.own(part, base)], base
    for relation, layers in relations:
        share, added = propagated(center, part, relation, current, layers, combination)
        learned = light_gcn(relation, current, layers, combination)
        factor = 1.0
        if normalize:
            row = learned[center.side][center.node].double()
            factor = 1.0 / max(float(row.norm()), 1e-12)
            learned = Nodes(F.normalize(learned.user, dim=1), F.normalize(learned.item, dim=1))
        found = [scaled(carried, 1.0 + factor * share) for carried in found]
        found += [scaled(carried, factor) for carried in added]
        current = Nodes(learned.user + current.user, learned.item + current.item)
        if relation.name == until:
            break
    return found


def scaled(carried: Carried, factor: float) -> Carried:
    """The same vectors times `factor`."""
    return replace(carried, vectors=carried.vectors * factor)


def _weights(layers: int, combination: Combination) -> list[float]:
    """α_0 … α_L."""
    if combination == "last":
        return [0.0] * layers + [1.0]
    return [1.0 if combination == "sum" else 1.0 / (layers + 1)] * (layers + 1)
