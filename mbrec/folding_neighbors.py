"""How the similar users of a run were found: UserKNN's share of `mbrec.folding`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mbrec.similar_users import norms_of, weighted

_ROWS = 256  # users by whom the shrinkage is known
_CLOSE = 1e-3
_DIGITS = 4

Vector = npt.NDArray[np.float64]


def shrinkage(similar: Any, known: Any) -> float | None:
    """The h by which users were found to be similar, or None if they were found in another way.

    With s_uv = k_u ⟨w_u, w_v⟩ / (‖w_u‖ ‖w_v‖ + h), as `mbrec.similar_users` has it, and k_u = 1
    where users were not scaled, k_u ⟨w_u, w_v⟩ / s_uv - h = ‖w_u‖ ‖w_v‖ is linear in k_u and h.

    Args:
        similar: Similarities of the known users, (V, V) CSR.
        known: Their histories X, all behaviors added up, (V, I) CSR.
    """
    sample = _spread(similar)
    rows = similar[sample]
    users = np.repeat(sample, np.diff(rows.indptr))
    weights = weighted(known, known)
    norms = norms_of(weights)
    products = weights[users].multiply(weights[rows.indices]).sum(axis=1)
    ratio = np.asarray(products, dtype=np.float64).ravel() / rows.data
    lengths = norms[users] * norms[rows.indices]
    found = [
        _scale_and_shrink(ratio[start:stop], lengths[start:stop])
        for start, stop in pairwise(rows.indptr)
        if stop - start > 2
    ]
    if not found:
        return None
    shrink = round(float(np.median([h for _, h in found])), _DIGITS)
    if shrink < 0 or not _follows(ratio, lengths + shrink, rows.indptr):
        return None
    return shrink


def _spread(similar: Any) -> Any:
    """Users spread over all, who have neighbors."""
    some = np.flatnonzero(np.diff(similar.indptr))
    return some[np.linspace(0, max(len(some) - 1, 0), min(_ROWS, len(some))).astype(int)]


def _scale_and_shrink(ratio: Vector, lengths: Vector) -> tuple[float, float]:
    """The k and h with k · ratio - h nearest to `lengths`."""
    system = np.stack([ratio, -np.ones(len(ratio))], axis=1)
    scale, shrink = np.linalg.lstsq(system, lengths, rcond=None)[0]
    return float(scale), float(shrink)


def _follows(ratio: Vector, expected: Vector, indptr: Any) -> bool:
    """Whether `expected` is `ratio` but for a factor of each row."""
    scales = expected / ratio
    for start, stop in pairwise(indptr):
        mine = scales[start:stop]
        if np.ptp(mine) > _CLOSE * abs(mine).max():
            return False
    return True
