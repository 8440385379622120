"""Metrics of ranked lists, per user. `docs/metrics.md` gives the formulas with an example."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mbrec.errors import DataError, UsageError
from mbrec.graph import Pairs

METRICS = ("hr", "ndcg", "recall", "precision", "mrr", "map")

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def names(ks: Sequence[int]) -> list[str]:
    """The names of all metrics at all list lengths, e.g. "ndcg@5", in the order of the tables."""
    return [f"{metric}@{k}" for k in ks for metric in METRICS]


def per_user(
    items: Tensor | npt.NDArray[np.int64],
    relevant: Pairs,
    ks: Sequence[int],
    *,
    whole: bool = False,
) -> dict[str, FloatArray]:
    """Every metric for every user.

    With h_r = 1 if rank r holds a relevant item, else 0, and n relevant items:

        hr@K        = 1 if any of h_1 … h_K
        ndcg@K      = Σ_{r≤K} h_r / log2(r + 1)  /  Σ_{r≤min(K, n)} 1 / log2(r + 1)
        recall@K    = Σ_{r≤K} h_r / n
        precision@K = Σ_{r≤K} h_r / K
        mrr@K       = 1 / (rank of the first hit), 0 if that is beyond K
        map@K       = Σ_{r≤K} h_r · precision@r  /  min(K, n)

    Args:
        items: (N, k) item indices, best first; -1 where a list is shorter.
        relevant: The held-out items: row of `items` and item index, sorted by row, then item,
            each pair once, every row at least once.
        ks: List lengths, none above k unless `whole`.
        whole: The lists hold all that could be ranked: a K above k means places that stay empty.

    Returns:
        "<metric>@<K>" → (N,) float64, in the order of `names`.

    Raises:
        UsageError: A list length is below 1, or above k and the lists are not `whole`.
        DataError: A row has no relevant item.

    Memory is O(N k + number of relevant items), however large K is; no users × items.
    """
    ranked = np.asarray(items)
    count, longest = ranked.shape
    for k in ks:
        if k < 1 or (k > longest and not whole):
            raise UsageError(f"Metrics at {k} cannot be taken of lists of length {longest}.")
    sizes = np.bincount(relevant.user_idx, minlength=count).astype(np.float64)
    if len(sizes) != count or not sizes.all():
        raise DataError(f"Every one of the {count} ranked users needs a held-out item.")
    return of_hits(_hits(ranked, relevant), sizes, ks)


def of_hits(hits: BoolArray, sizes: FloatArray, ks: Sequence[int]) -> dict[str, FloatArray]:
    """What `per_user` gives, from what the places of the lists hold.

    Args:
        hits: Whether it is relevant, best first. (N, k).
        sizes: The number of relevant items, listed or not. (N,).
        ks: List lengths.
    """
    found: dict[str, FloatArray] = {}
    for k in ks:
        found.update(_at(k, hits[:, :k], sizes))
    return found


def _hits(ranked: npt.NDArray[np.int64], relevant: Pairs) -> BoolArray:
    """Whether each ranked item is relevant, (N, k): a search among keys row · width + item."""
    width = 1 + max(ranked.max(initial=0), relevant.item_idx.max(initial=0))
    keys = relevant.user_idx.astype(np.int64) * width + relevant.item_idx
    wanted = np.arange(len(ranked))[:, None] * width + ranked
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    hits: BoolArray = (keys[places] == wanted) & (ranked >= 0)
    return hits


def _at(k: int, hits: BoolArray, sizes: FloatArray) -> dict[str, FloatArray]:
    """All metrics at one length, from hits (N, w ≤ k) and numbers of relevant items (N,)."""
    width = hits.shape[1]
    possible = np.minimum(k, sizes)
    # More items may be relevant than the lists have places.
    discount = 1 / np.log2(np.arange(1, max(width, int(possible.max(initial=0))) + 1) + 1)
    rank = np.arange(1, width + 1)
    found = hits.cumsum(axis=1)  # (N, w) hits up to each rank
    total = found[:, -1]
    ideal = discount.cumsum()[possible.astype(np.int64) - 1]
    return {
        f"hr@{k}": (total > 0).astype(np.float64),
        f"ndcg@{k}": hits @ discount[:width] / ideal,
        f"recall@{k}": total / sizes,
        f"precision@{k}": total / k,
        f"mrr@{k}": np.where(total > 0, 1 / (hits.argmax(axis=1) + 1), 0.0),
        f"map@{k}": (hits * found / rank).sum(axis=1) / possible,
    }
