"""LightGCN on one relation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mbrec.engines import Engine
from mbrec.engines import Nodes as Nodes
from mbrec.workspace import Workspace

Combination = Literal["mean", "sum", "last"]


@dataclass(frozen=True)
class Relation:
    """One relation with its degree scalings, ready to propagate."""

    name: str
    engine: Engine
    root: Nodes  # √|N|, (U, 1) and (I, 1)
    inverse_root: Nodes  # 1/√|N|, 0 for isolated nodes
    inverse: Nodes  # 1/|N|, 0 for isolated nodes
    workspace: Workspace

    @classmethod
    def of(cls, name: str, engine: Engine) -> Relation:
        """Prepare relation `name` of `engine`."""
        degrees = [degree.unsqueeze(1) for degree in engine.degrees(name)]

        def power(exponent: float) -> Nodes:
            user, item = (torch.where(d > 0, d.clamp(min=1) ** exponent, 0.0) for d in degrees)
            return Nodes(user, item)

        return cls(
            name,
            engine,
            root=power(0.5),
            inverse_root=power(-0.5),
            inverse=power(-1.0),
            workspace=Workspace.of(engine),
        )


def light_gcn(
    relation: Relation,
    nodes: Nodes,
    layers: int,
    combination: Combination = "mean",
    *,
    residual: bool = False,
) -> Nodes:
    """LightGCN on one relation (He et al., SIGIR 2020; equations 2-3 of BiGEL).

        e^(l+1)_u = Σ_{i ∈ N_u} e^(l)_i / (√|N_u| √|N_i|), likewise for items;
        the result is the mean or the sum over layers 0 … L, or the last layer.

    Layers are summed by Horner's rule, h ← Ã h + e^(0), so none of them is kept. Isolated nodes
    receive nothing: their layers 1 … L are zero.

    Args:
        relation: The relation to propagate over.
        nodes: e^(0).
        layers: L ≥ 0; 0 gives `nodes` for every combination.
        combination: How the layers become one embedding.
        residual: Add e^(0) once more (equation 4 of BiGEL), without a pass of its own.

    Returns:
        Embeddings of the same shapes.

    Cost: 2 L sparse products; O((U + I) d) memory, none of it saved for backward by the products.
    """
    if layers == 0:
        return Nodes(2 * nodes.user, 2 * nodes.item) if residual else nodes
    result = _LightGcn.apply(  # type: ignore[no-untyped-call]
        relation, layers, combination, residual, nodes.user, nodes.item
    )
    return Nodes(*result)


class _LightGcn(torch.autograd.Function):
    """LightGCN as one linear operator.

    Over users and items together the normalized adjacency is symmetric, and so is every mean or sum
    of its powers: the operator is its own transpose. Backward is forward applied to the gradients,
    nothing has to be saved, and the passes over (nodes × d) can work in place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        relation: Relation,
        layers: int,
        combination: Combination,
        residual: bool,
        *nodes: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The propagated users (U, d) and items (I, d)."""
        ctx.operator = relation, layers, combination, residual
        return _light_gcn(relation, layers, combination, residual, Nodes(*nodes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, None, Tensor, Tensor]:
        """The gradients of e^(0) of both sides, from those of the result."""
        relation, layers, combination, residual = ctx.operator
        user, item = _light_gcn(relation, layers, combination, residual, Nodes(*gradients))
        return None, None, None, None, user, item


def _light_gcn(
    relation: Relation, layers: int, combination: Combination, residual: bool, nodes: Nodes
) -> Nodes:
    share = 1 / (layers + 1) if combination == "mean" else 1.0
    # A factor of the whole sum would be a pass over all nodes. So each product has the L-th root of
    # it, and what is added after the n-th, as L - n products follow, that much more.
    factor = share ** (1 / layers)
    by_user, by_item = relation.engine.normalized(relation.name, factor)
    # Two layers are held at a time, in turn where the result will be and in memory that is kept.
    with relation.workspace.lent(nodes) as memory:
        rooms: list[tuple[Tensor | None, Tensor | None]] = [(None, None), (memory[0], memory[1])]
        if layers % 2 == 0:
            rooms.reverse()
        current = nodes
        for left in reversed(range(layers)):
            added = 0.0 if combination == "last" else share / factor**left
            if not left:
                added += residual
            own, room = nodes if added else (None, None), rooms.pop(0)
            sums = Nodes(
                by_user.sums(current.item, own[0], added, room[0]),
                by_item.sums(current.user, own[1], added, room[1]),
            )
            if current is not nodes:
                rooms.append(current)
            current = sums
    return current
