"""The largest entries of every row of a sparse product, by blocks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

BLOCK = 1 << 23  # products at a time, each up to `BYTES` while they are sorted
BYTES = 60

Values = npt.NDArray[Any]
Compared = Callable[[Values, Values, Values], Values]
"""Rows, columns and products of some entries → what is compared and kept."""


def nearest(
    left: Any, right: Any, count: int, compared: Compared | None = None, *, itself: bool = False
) -> Any:
    """The product of two matrices, each row cut to its largest positive entries.

    Of equal entries those of the first columns are kept.

    Args:
        left: (N, M) `scipy.sparse.csr_matrix`.
        right: (M, I), likewise.
        count: How many entries of a row are kept.
        compared: What is compared and kept instead of the products.
        itself: Whether entries of the diagonal count; else they are left out.

    Returns:
        (N, I) CSR of float32, indices ascending.
    """
    blocks = [sparse.csr_matrix((0, right.shape[1]), dtype=np.float32)]
    for start, stop in _blocks(left, right):
        products = (left[start:stop] @ right).tocoo()
        row, column, value = products.row, products.col, products.data
        if compared is not None:
            value = compared(row + start, column, value)
        wanted = value > 0
        if not itself:
            wanted &= row + start != column
        row, column, value = row[wanted], column[wanted], value[wanted]
        order = np.lexsort((column, -value, row))
        counts = np.bincount(row, minlength=stop - start)
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = order[place < count]
        entries = value[kept].astype(np.float32), (row[kept], column[kept])
        block = sparse.csr_matrix(entries, products.shape)
        block.sort_indices()
        blocks.append(block)
    return sparse.vstack(blocks, format="csr")


def _blocks(left: Any, right: Any) -> Iterator[tuple[int, int]]:
    """Ranges of rows with at most `BLOCK` products each, or of one row."""
    pattern = sparse.csr_matrix(
        (np.ones(left.nnz, np.int64), left.indices, left.indptr), left.shape
    )
    done = np.cumsum(pattern @ np.diff(right.indptr).astype(np.int64))
    start = 0
    while start < len(done):
        before = done[start - 1] if start else 0
        stop = max(int(np.searchsorted(done, before + BLOCK, side="right")), start + 1)
        yield start, stop
        start = stop
