"""Sums over neighbors, per relation, by one of two engines that give the same numbers.

DGL's `update_all` on the heterograph, and torch's sparse CSR product, which serves where DGL has no
build and is the oracle that the first is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from mbrec.backend import add_sums, dgl
from mbrec.columns import GLOBAL, ITEM, USER
from mbrec.csr import csr, product
from mbrec.errors import DataError
from mbrec.graph import Pairs, build_graph, edge_type, merge, reverse_edge_type

EdgeType = tuple[str, str, str]
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
        # Sums over the neighbors of a node need its edges side by side, CSC, and so do gradients,
        # by the reverse edge type. COO and CSR would take half the memory again.
        self._graph = graph.formats(["csc"]).to(device)
        # One relation each: slicing shares the formats, but costs more than a small product.
        self._slices = {etype: self._graph[etype] for etype in self._graph.canonical_etypes}
        function = dgl().function
        self._message, self._reduce = function.copy_u("h", "m"), function.sum("m", "h")

    def aggregate(self, relation: str, nodes: Nodes) -> Nodes:
        """Sum over neighbors, both directions."""
        self._check(relation)
        ways = reverse_edge_type(relation), edge_type(relation)
        user, item = (
            _Pull.apply(self, way, back, neighbors)  # type: ignore[no-untyped-call]
            for way, back, neighbors in zip(ways, ways[::-1], nodes[::-1], strict=True)
        )
        return Nodes(user, item)

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

    def pull(self, etype: EdgeType, source: Tensor) -> Tensor:
        """The sums over the neighbors of one edge type, by `update_all`; not differentiable."""
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


class _Pull(torch.autograd.Function):
    """`DglEngine.pull`, of which the gradient is that of the opposite edge type."""

    @staticmethod
    def forward(
        ctx: Any, engine: DglEngine, way: EdgeType, back: EdgeType, source: Tensor
    ) -> Tensor:
        """The sums over neighbors, (nodes of one side, d), of the other side's (nodes, d)."""
        ctx.sums = engine, way, back
        return engine.pull(way, source)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, Tensor]:
        """The gradient of the source, from that of the sums."""
        engine, way, back = ctx.sums
        # Again by this function, which makes gradients of gradients right.
        return None, None, None, _Pull.apply(engine, back, way, gradient)  # type: ignore[no-untyped-call]


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
