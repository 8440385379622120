"""Products with constant sparse matrices, by torch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor


def csr(rows: Any, columns: Any, shape: tuple[int, int]) -> Tensor:
    """The matrix with ones at (rows, columns), which are distinct."""
    order = np.lexsort((columns, rows))
    counts = np.bincount(rows, minlength=shape[0])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(indptr),
            torch.from_numpy(np.ascontiguousarray(columns[order])),
            torch.ones(len(rows)),
            size=shape,
            check_invariants=True,
        )


def product(matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
    """`matrix` @ `dense`; differentiable in `dense`, without transposing anything."""
    result: Tensor = _Product.apply(matrix, transposed, dense)  # type: ignore[no-untyped-call]
    return result


class _Product(torch.autograd.Function):
    """matrix @ dense, for a constant matrix: linear, so backward needs no activations."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        """The product (rows, d) of a matrix and a dense table."""
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        """The gradient of the table, by the transposed matrix."""
        return None, None, ctx.transposed @ gradient
