"""Products of constant sparse matrices with tables of embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SUM = 0  # the mode of `torch.embedding_bag` that "sum" stands for


class Adjacency(Protocol):
    """Which rows of a table each node sums up, and with which weights: a matrix (N, M)."""

    def sums(self, table: Tensor) -> Tensor:
        """The weighted sums (N, d) of rows of a table (M, d); not differentiable."""


class Bags:
    """An adjacency on the CPU, as bags of rows of the table.

    torch generates the code for it at run time (FBGEMM): one node after the other, all d columns in
    registers, the next rows prefetched. It takes two thirds of the time of DGL's kernel, and with
    weights hardly more (`benchmarks/propagation.py`).

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

    def sums(self, table: Tensor) -> Tensor:
        """The weighted sums (N, d) of rows of a table (M, d)."""
        weights = self._weights
        # The function that `torch.nn.functional.embedding_bag` calls after its checks. Of a table
        # that is a parameter it would prepare for backward.
        sums: Tensor
        sums, *_ = torch.embedding_bag(
            table.detach().contiguous(),
            self.neighbors,
            self.offsets,
            mode=_SUM,
            per_sample_weights=weights if weights is None else weights.to(table.dtype),
            include_last_offset=True,
        )
        return sums

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

    def sums(self, table: Tensor) -> Tensor:
        """The weighted sums (N, d) of rows of a table (M, d)."""
        return self._matrix.to(table.dtype) @ table.detach()

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

    def sums(self, table: Tensor) -> Tensor:
        """The weighted sums (N, d) of rows of a table (M, d)."""
        return self._sums(table.detach() * self._columns).mul_(self._rows)


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
