"""LightGCN on one relation.

The symmetric normalization 1/(√|N_u| √|N_i|) is applied as a scaling of the nodes, never as a
weight on the edges: a weighted message leaves DGL's fast kernel and costs ten times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mbrec.engines import SIDES, Engine
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
    keeping_root: Nodes  # √|N|, and 1 for isolated nodes, which keep what is their own
    keeping_inverse_root: Nodes  # 1 / keeping_root
    workspace: Workspace

    @classmethod
    def of(cls, name: str, engine: Engine) -> Relation:
        """Prepare relation `name` of `engine`."""
        degrees = [degree.unsqueeze(1) for degree in engine.degrees(name)]

        def power(exponent: float) -> Nodes:
            user, item = (torch.where(d > 0, d.clamp(min=1) ** exponent, 0.0) for d in degrees)
            return Nodes(user, item)

        keeping = [d.clamp(min=1) for d in degrees]
        return cls(
            name,
            engine,
            root=power(0.5),
            inverse_root=power(-0.5),
            inverse=power(-1.0),
            keeping_root=Nodes(*(d**0.5 for d in keeping)),
            keeping_inverse_root=Nodes(*(d**-0.5 for d in keeping)),
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

    With z = D^-½ e the two scalings between layers fold into one: z ← D⁻¹ (A z + D^½ e^(0)), layer
    by layer, gives D^-½ times the sum over layers. Isolated nodes receive nothing: their layers
    1 … L are zero.

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
    own = residual + (0.0 if combination == "last" else share)
    result = Nodes(*(e.new_empty(e.shape) for e in nodes))
    with relation.workspace.lent(nodes) as memory:
        # They change places after every layer, and the last one is to end in the result.
        z, sums = Nodes(*memory), result
        if layers % 2 == 0:
            z, sums = sums, z
        for left in reversed(range(layers)):
            # One side after the other: what is written is still in the cache when it is read.
            for side, other in ((0, 1), (1, 0)):
                if left == layers - 1:
                    _scale(nodes[other], relation.inverse_root[other], 1.0, z[other])
                # Horner's rule: e^(0) is added in every layer, by starting the sums from it. It
                # stands before the scalings that follow them, hence the root; isolated nodes are
                # not scaled.
                start = (own / share) if left == 0 else float(combination != "last")
                _scale(nodes[side], relation.keeping_root[side], start, sums[side])
                relation.engine.add_neighbors(relation.name, SIDES[side], z[other], sums[side])
                # The last layer takes both scalings that follow it, D⁻¹ and D^½, at once.
                if left:
                    _scale(sums[side], relation.inverse[side], 1.0, sums[side])
                else:
                    _scale(sums[side], relation.keeping_inverse_root[side], share, sums[side])
            z, sums = sums, z
    return result


def _scale(e: Tensor, by: Tensor, factor: float, into: Tensor) -> None:
    """Write factor · by · e."""
    if factor:
        torch.mul(e, by if factor == 1 else by * factor, out=into)
    else:
        into.zero_()
