"""Message passing over one relation, and LightGCN on top of it.

Two engines give the same numbers: DGL's `update_all` on the heterograph, and torch's sparse CSR
product, which serves where DGL has no build and is the oracle that the first is tested against.

The symmetric normalization 1/(√|N_u| √|N_i|) is applied as a scaling of the nodes, never as a
weight on the edges: a weighted message leaves DGL's fast kernel and costs ten times as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mbrec.backend import add_sums, dgl
from mbrec.columns import GLOBAL, ITEM, USER
from mbrec.csr import csr, product
from mbrec.errors import DataError
from mbrec.graph import Pairs, build_graph, edge_type, merge, reverse_edge_type
from mbrec.workspace import Workspace

Combination = Literal["mean", "sum", "last"]
Side = Literal["user", "item"]
SIDES: tuple[Side, Side] = ("user", "item")


class Nodes(NamedTuple):
    """Embeddings of all nodes."""

    user: Tensor  # (U, d)
    item: Tensor  # (I, d)


class Engine(Protocol):
    """Sums over neighbors, per relation."""

    def aggregate(self, relation: str, nodes: Nodes) -> Nodes:
        """Sum over neighbors, both directions: (A e_I, Aᵀ e_U), differentiable."""

    def add_neighbors(self, relation: str, side: Side, neighbors: Tensor, sums: Tensor) -> None:
        """Add what `aggregate` gives the nodes of a side to `sums` (contiguous), in place.

        Not differentiable. `neighbors` are the embeddings of the other side.
        """

    def degrees(self, relation: str) -> tuple[Tensor, Tensor]:
        """|N_u| (U,) and |N_i| (I,), float32."""

    def over(self, relations: Mapping[str, Pairs]) -> Engine:
        """An engine of the same kind and nodes for other distinct pairs, by relation."""


class DglEngine:
    """`update_all(copy_u, sum)` per canonical edge type of a heterograph.

    Args:
        graph: As `mbrec.graph.build_graph` makes it.
        device: Where to propagate.
    """

    def __init__(self, graph: Any, device: torch.device | str = "cpu") -> None:
        self._graph = graph.to(device)
        self._graph.create_formats_()  # CSR and CSC now, not inside the first step
        # One relation each: slicing shares the formats, but costs more than a small product.
        self._slices = {etype: self._graph[etype] for etype in self._graph.canonical_etypes}
        function = dgl().function
        self._message, self._reduce = function.copy_u("h", "m"), function.sum("m", "h")

    def aggregate(self, relation: str, nodes: Nodes) -> Nodes:
        """Sum over neighbors, both directions."""
        self._check(relation)
        return Nodes(
            user=self._pull(reverse_edge_type(relation), nodes.item),
            item=self._pull(edge_type(relation), nodes.user),
        )

    def add_neighbors(self, relation: str, side: Side, neighbors: Tensor, sums: Tensor) -> None:
        """Add the sums over neighbors to `sums`, in place; not differentiable."""
        self._check(relation)
        etype = reverse_edge_type(relation) if side == "user" else edge_type(relation)
        add_sums(self._slices[etype], neighbors, sums)

    def degrees(self, relation: str) -> tuple[Tensor, Tensor]:
        """|N_u| (U,) and |N_i| (I,), float32."""
        self._check(relation)
        user = self._graph.in_degrees(etype=reverse_edge_type(relation))
        item = self._graph.in_degrees(etype=edge_type(relation))
        return user.float(), item.float()

    def over(self, relations: Mapping[str, Pairs]) -> DglEngine:
        """An engine of the same kind and nodes for other distinct pairs, by relation."""
        counts = (self._graph.num_nodes(kind) for kind in (USER, ITEM))
        return DglEngine(build_graph(relations, *counts), self._graph.device)

    def _pull(self, etype: tuple[str, str, str], source: Tensor) -> Tensor:
        graph = self._graph
        # Without the local scope the node data would keep the autograd graph of a step alive.
        with graph.local_scope():
            graph.nodes[etype[0]].data["h"] = source
            graph.update_all(self._message, self._reduce, etype=etype)
            result: Tensor = graph.nodes[etype[2]].data["h"]
        return result

    def _check(self, relation: str) -> None:
        # Some releases of DGL answer an unknown relation between known node types with zeros.
        if edge_type(relation) not in self._graph.canonical_etypes:
            raise DataError(f"The graph has no relation {relation!r}.")


class TorchEngine:
    """Sparse CSR products of torch; backward is the product with the transposed matrix.

    Args:
        relations: Behavior → distinct training pairs.
        num_users: U.
        num_items: I.
        device: Where to propagate.
    """

    def __init__(
        self,
        relations: Mapping[str, Pairs],
        num_users: int,
        num_items: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._forward: dict[str, Tensor] = {}
        self._transposed: dict[str, Tensor] = {}
        for relation, pairs in {**relations, GLOBAL: merge(relations, num_items)}.items():
            by_user = csr(pairs.user_idx, pairs.item_idx, (num_users, num_items))
            by_item = csr(pairs.item_idx, pairs.user_idx, (num_items, num_users))
            self._forward[relation] = by_user.to(device)
            self._transposed[relation] = by_item.to(device)

    def aggregate(self, relation: str, nodes: Nodes) -> Nodes:
        """Sum over neighbors, both directions."""
        matrix, transposed = self._known(relation)
        return Nodes(
            user=product(matrix, transposed, nodes.item),
            item=product(transposed, matrix, nodes.user),
        )

    def add_neighbors(self, relation: str, side: Side, neighbors: Tensor, sums: Tensor) -> None:
        """Add the sums over neighbors to `sums`, in place; not differentiable."""
        matrix, transposed = self._known(relation)
        sums.addmm_(matrix if side == "user" else transposed, neighbors)

    def degrees(self, relation: str) -> tuple[Tensor, Tensor]:
        """|N_u| (U,) and |N_i| (I,), float32."""
        matrix, transposed = self._known(relation)
        return matrix.crow_indices().diff().float(), transposed.crow_indices().diff().float()

    def over(self, relations: Mapping[str, Pairs]) -> TorchEngine:
        """An engine of the same kind and nodes for other distinct pairs, by relation."""
        users, items = self._forward[GLOBAL].shape
        return TorchEngine(relations, users, items, self._forward[GLOBAL].device)

    def _known(self, relation: str) -> tuple[Tensor, Tensor]:
        if relation not in self._forward:
            raise DataError(f"The graph has no relation {relation!r}.")
        return self._forward[relation], self._transposed[relation]


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
        ctx.operator = relation, layers, combination, residual
        return _light_gcn(relation, layers, combination, residual, Nodes(*nodes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, None, Tensor, Tensor]:
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
