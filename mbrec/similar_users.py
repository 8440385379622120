"""Which users are like a user, by what they have done.

    s_uv = ⟨w_u, w_v⟩ / (‖w_u‖ ‖w_v‖ + h),   w_ui = x_ui / √n_i

the cosine of the histories X, lower where the histories are short (h). An item counts less the more
users n_i have it: that two users have both what everybody has says little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from mbrec.memory import require_memory
from mbrec.nearest import BLOCK, BYTES, nearest

COMMON = 5_000
"""Items of more users say nothing of who is alike: each would add next to nothing, and cost as many
products as the square of its users."""

_KEPT = 36  # bytes per neighbor: as SciPy has it, and as a scorer does


def similar_users(known: Any, count: int, shrink: float, asking: Any = None) -> Any:
    """The most similar users, and how similar they are.

    Args:
        known: X, (V, I) CSR: the histories of the users who may be neighbors.
        count: Neighbors kept per user.
        shrink: h ≥ 0.
        asking: Histories (U, I) of users who are not among those; else each of `known` is asked
            about and is no neighbor of herself.

    Returns:
        (U, V) CSR of float32, columns ascending; similarities > 0 only.

    Cost: Σ_i n_i² products, by blocks.
    """
    others = weighted(known, known)
    mine = others if asking is None else weighted(asking, known)
    lengths, norms = norms_of(mine), norms_of(others)
    return nearest(
        mine,
        others.T.tocsr(),
        count,
        lambda row, column, product: product / (lengths[row] * norms[column] + shrink),
        itself=asking is not None,
    )


def require_similar_users(num_users: int, count: int, what: str, remedy: str) -> None:
    """Refuse neighbors that do not fit into memory before any is looked for.

    Args:
        num_users: U.
        count: Neighbors kept per user.
        what: Who asks for them.
        remedy: What to lower or switch off.

    Raises:
        TrainingError: They do not fit.
    """
    require_memory(
        min(count, num_users) * num_users * _KEPT + BLOCK * BYTES,
        f"{what} with {count} neighbors for each of {num_users:,} users",
        remedy,
    )


def weighted(histories: Any, known: Any) -> Any:
    """W of some histories (U, I), with n_i of the known ones. CSR."""
    users = known.getnnz(axis=0)
    counts = np.where((users > 0) & (users <= COMMON), np.maximum(users, 1) ** -0.5, 0.0)
    found = (histories @ sparse.diags(counts.astype(np.float32))).tocsr()
    found.eliminate_zeros()
    return found


def norms_of(rows: Any) -> Any:
    """‖w‖ of every row."""
    return np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1), dtype=np.float64)).ravel()
