"""Products of constant sparse matrices with tables of embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SUM = 0  # the mode of `torch.embedding_bag` that "sum" stands for
_LARGE = 32 << 20
"""Bytes of a result beyond which it is made in blocks: layers in between then need no memory that
is new each time, which would be cleared first, or kept beside all the rest."""

_BLOCK = 4 << 20  # bytes of a larger one that are made at a time


class Adjacency(Protocol):
    """Which rows of a table each node sums up, and with which weights: a matrix (N, M)."""

    def sums(
        self,
        table: Tensor,
        own: Tensor | None = None,
        share: float = 1.0,
        room: Tensor | None = None,
    ) -> Tensor:
        """The weighted sums of rows of a table, plus a share of the nodes' own; not differentiable.

        Args:
            table: (M, d).
            own: (N, d); None: nothing is added.
            share: Of `own`.
            room: Memory (N, d) for the result, which need not be used.

        Returns:
            (N, d).
        """


class Bags:
    """An adjacency on the CPU, as bags of rows of the table.

    torch generates the code for it at run time (FBGEMM): one node after the other, all d columns in
    registers, the next rows prefetched. It takes less time than DGL's kernel, and with weights
    hardly more than without (`benchmarks/propagation.py`).

    Args:
        offsets: Where each node's neighbors begin among `neighbors`, and where the last's end.
            (N + 1,)
        neighbors: Rows of the table, node after node. (E,), of the same integer type
        weights: Of the neighbors; 1 by default. (E,)

    None of them is copied. Every node's neighbors are added in their order, whatever the number of
    threads is.
    """

    def __init__(self, offsets: Tensor, neighbors: Tensor, weights: Tensor | None = None) -> None:
        self.offsets, self.neighbors, self._weights = offsets, neighbors, weights

    def sums(
        self,
        table: Tensor,
        own: Tensor | None = None,
        share: float = 1.0,
        room: Tensor | None = None,
    ) -> Tensor:
        """See `Adjacency`.

        A large result goes block by block into the room for it, each block while the cache has it.
        The kernel itself gives new memory every time.
        """
        # Of a table that is a parameter it would prepare for backward.
        table = table.detach().contiguous()
        size = table.shape[1] * table.itemsize
        if (len(self.offsets) - 1) * size <= _LARGE:
            return _plus(self._bags(table, self.offsets, slice(None)), own, share)
        result = table.new_empty(len(self.offsets) - 1, table.shape[1]) if room is None else room
        for rows, edges, offsets in self._blocks(max(1, _BLOCK // size)):
            found = self._bags(table, offsets, edges)
            if own is None:
                result[rows] = found
            else:
                torch.add(found, own.detach()[rows], alpha=share, out=result[rows])
        return result

    def _bags(self, table: Tensor, offsets: Tensor, edges: slice) -> Tensor:
        # The function that `torch.nn.functional.embedding_bag` calls after its checks.
        weights = self._weights
        sums: Tensor
        sums, *_ = torch.embedding_bag(
            table,
            self.neighbors[edges],
            offsets,
            mode=_SUM,
            per_sample_weights=None if weights is None else weights[edges].to(table.dtype),
            include_last_offset=True,
        )
        return sums

    def _blocks(self, count: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """So many nodes at a time: which, which edges are theirs, and where these begin."""
        for start in range(0, len(self.offsets) - 1, count):
            offsets = self.offsets[start : start + count + 1]
            first, last = int(offsets[0]), int(offsets[-1])
            yield slice(start, start + len(offsets) - 1), slice(first, last), offsets - first

    def scaled(self, rows: Tensor, columns: Tensor) -> Bags:
        """The same with a weight on every edge: that of its node (N,) times its neighbor's (M,)."""
        weights = _edge_weights(self.offsets, self.neighbors, rows, columns)
        return Bags(self.offsets, self.neighbors, weights)


class SparseCsr:
    """An adjacency as torch's sparse CSR matrix, for devices other than the CPU.

    Args:
        offsets: Where each node's neighbors begin among `neighbors`, and where the last's end.
            (N + 1,)
        neighbors: Rows of the table, node after node. (E,), of the same integer type
        columns: M.
        weights: Of the neighbors; 1 by default. (E,)
    """

    def __init__(
        self, offsets: Tensor, neighbors: Tensor, columns: int, weights: Tensor | None = None
    ) -> None:
        if weights is None:
            weights = torch.ones(len(neighbors), device=neighbors.device)
        shape = len(offsets) - 1, columns
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            self._matrix = torch.sparse_csr_tensor(
                offsets, neighbors, weights, size=shape, check_invariants=True
            )

    def sums(
        self,
        table: Tensor,
        own: Tensor | None = None,
        share: float = 1.0,
        room: Tensor | None = None,
    ) -> Tensor:
        """See `Adjacency`."""
        return _plus(self._matrix.to(table.dtype) @ table.detach(), own, share)

    def scaled(self, rows: Tensor, columns: Tensor) -> SparseCsr:
        """The same with a weight on every edge: that of its node (N,) times its neighbor's (M,)."""
        offsets, neighbors = self._matrix.crow_indices(), self._matrix.col_indices()
        weights = _edge_weights(offsets, neighbors, rows, columns)
        return SparseCsr(offsets, neighbors, len(columns), weights)


class Scaled:
    """An adjacency of ones with a factor for every node and one for every neighbor.

    Args:
        sums: Gives the sums of ones, (N, d) of a table (M, d).
        rows: The nodes' factors. (N,)
        columns: The neighbors' factors. (M,)
    """

    def __init__(self, sums: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor) -> None:
        self._sums, self._rows, self._columns = sums, rows.unsqueeze(1), columns.unsqueeze(1)

    def sums(
        self,
        table: Tensor,
        own: Tensor | None = None,
        share: float = 1.0,
        room: Tensor | None = None,
    ) -> Tensor:
        """See `Adjacency`."""
        return _plus(self._sums(table.detach() * self._columns).mul_(self._rows), own, share)


def of_pairs(
    rows: npt.NDArray[np.int32],
    columns: npt.NDArray[np.int32],
    shape: tuple[int, int],
    device: torch.device | str = "cpu",
) -> Bags | SparseCsr:
    """The adjacency (N, M) with ones at (rows, columns), which are distinct and (E,) each."""
    order = np.lexsort((columns, rows))
    counts = np.bincount(rows, minlength=shape[0])
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    neighbors = torch.from_numpy(np.ascontiguousarray(columns[order]))
    if torch.device(device).type == "cpu":
        return Bags(offsets, neighbors)
    return SparseCsr(offsets.to(device), neighbors.to(device), shape[1])


def product(matrix: Adjacency, transposed: Adjacency, table: Tensor) -> Tensor:
    """`matrix.sums(table)`, differentiable in `table`, without transposing anything."""
    result: Tensor = _Product.apply(matrix, transposed, table)  # type: ignore[no-untyped-call]
    return result


class _Product(torch.autograd.Function):
    """Linear: backward needs no activations, and is the product with the transposed matrix."""

    @staticmethod
    def forward(ctx: Any, matrix: Adjacency, transposed: Adjacency, table: Tensor) -> Tensor:
        """The sums (N, d) of a table (M, d)."""
        ctx.matrices = matrix, transposed
        return matrix.sums(table)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        """The gradient of the table (M, d), from that of the sums (N, d)."""
        matrix, transposed = ctx.matrices
        # Again by this function, which makes gradients of gradients right.
        return None, None, product(transposed, matrix, gradient)


def _edge_weights(offsets: Tensor, neighbors: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    weights = rows.repeat_interleave(offsets.diff())
    return weights.mul_(columns.index_select(0, neighbors))


def _plus(sums: Tensor, own: Tensor | None, share: float) -> Tensor:
    return sums if own is None else sums.add_(own.detach(), alpha=share)
