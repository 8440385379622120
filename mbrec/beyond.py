"""Beyond accuracy: how much of the catalog the lists show, how well known it is, how evenly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mbrec.metrics import FloatArray

BEYOND = ("coverage", "novelty", "gini")

IntLists = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def beyond_accuracy(
    lists: IntLists, train_counts: npt.NDArray[np.int64], ks: Sequence[int]
) -> dict[str, float | None]:
    """Coverage, novelty and Gini of the lists of one behavior, at every length.

    With e_i the number of lists that hold item i among the first K, c_i the number of training
    pairs of the item in the behavior, C their sum, and I items:

        coverage@K = #{i : e_i > 0} / I
        novelty@K  = Σ_i e_i · -log2 p_i / Σ_i e_i,   p_i = (c_i + 1) / (C + I)
        gini@K     = Σ_{j=1…I} (2j - I - 1) e_(j) / (I Σ_i e_i),   e_(1) ≤ … ≤ e_(I)

    Novelty is the mean self-information of a place in a list, in bits: 1 more means half as
    popular (Zhou et al., PNAS 2010; Castells et al., 2011, with one pair added to every item, so
    that an item without training pairs has a finite value). Gini is 0 if all items are shown
    equally often, and (I - 1) / I if all places go to one.

    Args:
        lists: (N, k) item indices, best first; -1 where a list is shorter.
        train_counts: (I,) training pairs of the behavior per item.
        ks: List lengths; one above k means all places.

    Returns:
        "<name>@<K>" → figure; all null if no list holds an item.
    """
    information = self_information(train_counts)
    found: dict[str, float | None] = {}
    for k in ks:
        shown = lists[:, :k]
        exposure = np.bincount(shown[shown >= 0], minlength=len(train_counts))
        found.update(_at(k, exposure, information))
    return found


def self_information(train_counts: npt.NDArray[np.int64]) -> FloatArray:
    """-log2 p_i of every item (I,), in bits, with p_i = (c_i + 1) / (C + I)."""
    total = train_counts.sum() + len(train_counts)
    information: FloatArray = np.log2(total) - np.log2(train_counts + 1)
    return information


def gini(counts: npt.NDArray[np.int64]) -> float:
    """Gini of counts (I,) that are not all 0: 0 if all are equal, (I - 1) / I if one has all."""
    size = len(counts)
    weights = 2 * np.arange(1, size + 1) - size - 1
    return float(weights @ np.sort(counts) / (size * counts.sum()))


def _at(
    k: int, exposure: npt.NDArray[np.int64], information: FloatArray
) -> dict[str, float | None]:
    """All three at one length, from exposures (I,)."""
    items, places = len(exposure), int(exposure.sum())
    if not places:
        return {f"{name}@{k}": None for name in BEYOND}
    return {
        f"coverage@{k}": float((exposure > 0).sum() / items),
        f"novelty@{k}": float(exposure @ information / places),
        f"gini@{k}": gini(exposure),
    }
