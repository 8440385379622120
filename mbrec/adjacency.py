"""Products of constant sparse matrices with tables of embeddings."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SUM = 0  # the mode of `torch.embedding_bag` that "sum" stands for
_LARGE = 32 << 20
"""Bytes of a result beyond which it is made in blocks: layers in between then need no memory that
is new each time, which would be cleared first, or kept beside all the rest."""

_BLOCK = 4 << 20  # bytes of a larger one that are made at a time


class Adjacency(ABC):
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
        table, own = table.detach(), None if own is None else own.detach()
        blocks = self._in_blocks(table)
        if blocks is None:
            whole = self._sums(table)
            return whole if own is None else whole.add_(own, alpha=share)
        height, pieces = blocks
        result = table.new_empty(height, table.shape[1]) if room is None else room
        for rows, sums in pieces:
            if own is None:
                result[rows] = sums
            else:
                torch.add(sums, own[rows], alpha=share, out=result[rows])
        return result

    @abstractmethod
    def _sums(self, table: Tensor) -> Tensor:
        """The weighted sums (N, d) in new memory, of a table (M, d)."""

    def _in_blocks(self, table: Tensor) -> tuple[int, Iterator[tuple[slice, Tensor]]] | None:
        """N, and which nodes' sums are which, where they are better made block by block."""
        return None


class Bags(Adjacency):
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

    def _sums(self, table: Tensor) -> Tensor:
        return _bags(table.contiguous(), self.offsets, self.neighbors, self._weights)

    def _in_blocks(self, table: Tensor) -> tuple[int, Iterator[tuple[slice, Tensor]]] | None:
        """See `Adjacency`: a large result, each block while the cache has it."""
        height, size = len(self.offsets) - 1, table.shape[1] * table.itemsize
        if height * size <= _LARGE:
            return None
        return height, self._blocks(table.contiguous(), max(1, _BLOCK // size))

    def _blocks(self, table: Tensor, count: int) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.offsets) - 1, count):
            offsets = self.offsets[start : start + count + 1]
            edges = slice(int(offsets[0]), int(offsets[-1]))
            weights = None if self._weights is None else self._weights[edges]
            sums = _bags(table, offsets - offsets[0], self.neighbors[edges], weights)
            yield slice(start, start + len(sums)), sums

    def scaled(self, rows: Tensor, columns: Tensor) -> Bags:
        """The same with a weight on every edge: that of its node (N,) times its neighbor's (M,)."""
        weights = _edge_weights(self.offsets, self.neighbors, rows, columns)
        return Bags(self.offsets, self.neighbors, weights)


class SparseCsr(Adjacency):
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

    def _sums(self, table: Tensor) -> Tensor:
        return self._matrix.to(table.dtype) @ table

    def scaled(self, rows: Tensor, columns: Tensor) -> SparseCsr:
        """The same with a weight on every edge: that of its node (N,) times its neighbor's (M,)."""
        offsets, neighbors = self._matrix.crow_indices(), self._matrix.col_indices()
        weights = _edge_weights(offsets, neighbors, rows, columns)
        return SparseCsr(offsets, neighbors, len(columns), weights)


class Scaled(Adjacency):
    """An adjacency of ones with a factor for every node and one for every neighbor.

    Args:
        sums: Gives the sums of ones, (N, d) of a table (M, d).
        rows: The nodes' factors. (N,)
        columns: The neighbors' factors. (M,)
    """

    def __init__(self, sums: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor) -> None:
        self._sums_of_ones = sums
        self._rows, self._columns = rows.unsqueeze(1), columns.unsqueeze(1)

    def _sums(self, table: Tensor) -> Tensor:
        return self._sums_of_ones(table * self._columns).mul_(self._rows)


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


def _bags(table: Tensor, offsets: Tensor, neighbors: Tensor, weights: Tensor | None) -> Tensor:
    """What `torch.nn.functional.embedding_bag` calls after its checks."""
    sums: Tensor
    sums, *_ = torch.embedding_bag(
        table,
        neighbors,
        offsets,
        mode=_SUM,
        per_sample_weights=None if weights is None else weights.to(table.dtype),
        include_last_offset=True,
    )
    return sums
