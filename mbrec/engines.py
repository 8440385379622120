"""Sums over neighbors, per relation, by one of two engines that give the same numbers.

One holds DGL's heterograph, the other torch's index arrays: that serves where DGL has no build, and
is the oracle that the first is tested against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mbrec.adjacency import Adjacency, Bags, Scaled, SparseCsr, of_pairs, product
from mbrec.backend import dgl
from mbrec.columns import GLOBAL, ITEM, USER
from mbrec.errors import DataError
from mbrec.graph import Pairs, build_graph, edge_type, merge, reverse_edge_type

EdgeType = tuple[str, str, str]
Side = Literal["user", "item"]
SIDES: tuple[Side, Side] = ("user", "item")


class Nodes(NamedTuple):
    """Embeddings of all nodes."""

    user: Tensor  # (U, d)
    item: Tensor  # (I, d)


class Ways(NamedTuple):
    """A relation in both directions, by what the sums are of."""

    user: Adjacency  # (U, I)
    item: Adjacency  # (I, U)


class Engine(ABC):
    """Sums over neighbors, per relation."""

    def __init__(self) -> None:
        self._normalized: dict[tuple[str, float], Ways] = {}

    def normalized(self, relation: str, factor: float = 1.0) -> Ways:
        """Ã = factor · D_U^-½ A D_I^-½ and its transpose, made once; an isolated node sums to 0."""
        key = relation, factor
        if key not in self._normalized:
            user, item = (
                torch.where(d > 0, d.clamp(min=1) ** -0.5, 0.0) for d in self.degrees(relation)
            )
            self._normalized[key] = Ways(
                self._scaled(relation, "user", user * factor, item),
                self._scaled(relation, "item", item * factor, user),
            )
        return self._normalized[key]

    @abstractmethod
    def aggregate(self, relation: str, nodes: Nodes) -> Nodes:
        """Sum over neighbors, both directions: (A e_I, Aᵀ e_U), differentiable."""

    @abstractmethod
    def degrees(self, relation: str) -> tuple[Tensor, Tensor]:
        """|N_u| (U,) and |N_i| (I,), float32."""

    @abstractmethod
    def over(self, relations: Mapping[str, Pairs]) -> Engine:
        """An engine of the same kind and nodes for other distinct pairs, by relation."""

    @abstractmethod
    def _scaled(self, relation: str, side: Side, nodes: Tensor, neighbors: Tensor) -> Adjacency:
        """Whom the nodes of a side sum up, an edge weighing its node's factor times the other's."""


class DglEngine(Engine):
    """`update_all(copy_u, sum)` per canonical edge type of a heterograph.

    On the CPU, what is normalized goes by `Bags` over the graph's own arrays instead: the same
    sums, in less time than DGL's kernel takes for them, without the scalings before and after it.

    Args:
        graph: As `mbrec.graph.build_graph` makes it.
        device: Where to propagate.
    """

    def __init__(self, graph: Any, device: torch.device | str = "cpu") -> None:
        super().__init__()
        # Sums over the neighbors of a node need its edges side by side, CSC, and so do gradients,
        # by the reverse edge type. COO and CSR would take half the memory again.
        self._graph = graph.formats(["csc"]).to(device)
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

    def _scaled(self, relation: str, side: Side, nodes: Tensor, neighbors: Tensor) -> Adjacency:
        etype = reverse_edge_type(relation) if side == "user" else edge_type(relation)
        if self._graph.device.type == "cpu":
            offsets, rows, _ = self._graph.adj_tensors("csc", etype=etype)
            return Bags(offsets, rows).scaled(nodes, neighbors)
        # A weight on the edges leaves DGL's fast kernel; factors of the nodes do not.
        return Scaled(partial(self.pull, etype), nodes, neighbors)

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


class TorchEngine(Engine):
    """Products of torch alone; backward is the product with the transposed matrix.

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
        super().__init__()
        self._shape, self._device = (num_users, num_items), device
        self._ways: dict[str, tuple[Bags | SparseCsr, Bags | SparseCsr]] = {}
        self._degrees: dict[str, tuple[Tensor, Tensor]] = {}
        for relation, pairs in {**relations, GLOBAL: merge(relations, num_items)}.items():
            users, items = pairs.user_idx, pairs.item_idx
            self._ways[relation] = (
                of_pairs(users, items, (num_users, num_items), device),
                of_pairs(items, users, (num_items, num_users), device),
            )
            user, item = (
                torch.bincount(torch.from_numpy(index.astype("int64")), minlength=count)
                for index, count in zip((users, items), self._shape, strict=True)
            )
            self._degrees[relation] = user.float().to(device), item.float().to(device)

    def aggregate(self, relation: str, nodes: Nodes) -> Nodes:
        """Sum over neighbors, both directions."""
        self._check(relation)
        by_user, by_item = self._ways[relation]
        return Nodes(product(by_user, by_item, nodes.item), product(by_item, by_user, nodes.user))

    def degrees(self, relation: str) -> tuple[Tensor, Tensor]:
        """|N_u| (U,) and |N_i| (I,), float32."""
        self._check(relation)
        return self._degrees[relation]

    def over(self, relations: Mapping[str, Pairs]) -> TorchEngine:
        """An engine of the same kind and nodes for other distinct pairs, by relation."""
        return TorchEngine(relations, *self._shape, self._device)

    def _scaled(self, relation: str, side: Side, nodes: Tensor, neighbors: Tensor) -> Adjacency:
        return self._ways[relation][SIDES.index(side)].scaled(nodes, neighbors)

    def _check(self, relation: str) -> None:
        if relation not in self._ways:
            raise DataError(f"The graph has no relation {relation!r}.")
