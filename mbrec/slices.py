"""Slices: the same lists, measured on some of the held-out items or for some of the users.

An average hides whom a model serves. These slices split it by what makes recommending easy or
hard: whether the user has met the item, whether anyone has, and how much is known of the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mbrec import metrics
from mbrec.beyond import beyond_accuracy
from mbrec.dataset import PreparedDataset
from mbrec.graph import Pairs, merge
from mbrec.results import BehaviorResult, HeldOut, means

BoolArray = npt.NDArray[np.bool_]

QUARTILES = ("q1", "q2", "q3", "q4")


@dataclass(frozen=True)
class Lists:
    """The ranked lists of one behavior, and what was held out for them."""

    user_idx: npt.NDArray[np.int32]  # (N,) ascending
    items: npt.NDArray[np.int32]  # (N, k) best first; -1 where a list is shorter; k ≤ max(ks)
    relevant: Pairs  # row of `items` and item, (R,), sorted, every row at least once
    ks: tuple[int, ...]

    def measure(self, kept: BoolArray) -> dict[str, Any]:
        """Users, held-out items and averages when only some of the held-out items (R,) count.

        Users without any of them are left out. The lists stay as they are: a held-out item that
        does not count keeps its place in them, as an item like any other.
        """
        rows, compact = np.unique(self.relevant.user_idx[kept], return_inverse=True)
        relevant = Pairs(compact.astype(np.int32), self.relevant.item_idx[kept])
        lists = self.items[rows].astype(np.int64)
        values = metrics.per_user(lists, relevant, self.ks, whole=True)
        return {"users": len(rows), "held_out": int(kept.sum()), **means(values)}


def slice_results(
    results: dict[str, BehaviorResult],
    dataset: PreparedDataset,
    split: HeldOut,
    ks: Sequence[int],
) -> dict[str, Any]:
    """Measure every slice of every behavior, and the lists beyond accuracy.

    Args:
        results: Behavior → result with its lists.
        dataset: Where the rows are; it must be opened for "train" and `split`.
        split: "valid" or "test".
        ks: List lengths.

    Returns:
        {"split", "behaviors": {behavior: {"history": {"explored", "new"}, "item": {"warm",
        "cold"}, "item_in_behavior": {"warm", "cold"}, "activity": {"q1" … "q4"}, "beyond"}}}; each
        slice has "users", "held_out" and the metrics, null if it has no users; quartiles have
        "low" and "high" too. "beyond" is what `beyond_accuracy` gives.

    Memory beside the lists is O(number of training pairs + users × max K).
    """
    train = dataset.train_relations()
    counts = {name: _counts(pairs.item_idx, dataset.num_items) for name, pairs in train.items()}
    activity = np.zeros(dataset.num_users, dtype=np.int64)  # training pairs of all behaviors
    for pairs in train.values():
        activity += _counts(pairs.user_idx, dataset.num_users)
    anywhere = np.sum(list(counts.values()), axis=0) > 0
    behaviors: dict[str, Any] = {}
    for behavior, result in results.items():
        assert result.lists is not None
        held_out = dataset.pairs(behavior, split)
        rows = np.searchsorted(result.user_idx, held_out.user_idx).astype(np.int32)
        lists = Lists(result.user_idx, result.lists, Pairs(rows, held_out.item_idx), tuple(ks))
        before = dataset.behaviors[: dataset.behaviors.index(behavior)]
        explored = _among(held_out, {name: train[name] for name in before}, dataset.num_items)
        behaviors[behavior] = {
            "history": _two(lists, "explored", "new", explored),
            "item": _two(lists, "warm", "cold", anywhere[held_out.item_idx]),
            "item_in_behavior": _two(
                lists, "warm", "cold", counts[behavior][held_out.item_idx] > 0
            ),
            "activity": _quartiles(lists, activity[result.user_idx]),
            "beyond": beyond_accuracy(result.lists, counts[behavior], ks),
        }
    return {"split": split, "behaviors": behaviors}


def _two(lists: Lists, yes: str, no: str, holds: BoolArray) -> dict[str, Any]:
    """A slice of the held-out items for which something holds, and one of the others."""
    return {yes: lists.measure(holds), no: lists.measure(~holds)}


def _quartiles(lists: Lists, activity: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Slices of the users (N,) by activity; users of equal activity are in the same one.

    The upper edges of q1 … q3 are the smallest activities that 1/4, 1/2, 3/4 of the users do not
    exceed; where many are equal, quartiles differ in size, or are empty.
    """
    if len(activity):
        edges = np.quantile(activity, [0.25, 0.5, 0.75], method="inverted_cdf")
    else:
        edges = np.zeros(3)
    quartile = np.searchsorted(edges, activity)
    found = {}
    for number, name in enumerate(QUARTILES):
        mine = activity[quartile == number]
        low, high = (int(mine.min()), int(mine.max())) if len(mine) else (None, None)
        kept = quartile[lists.relevant.user_idx] == number
        found[name] = {"low": low, "high": high, **lists.measure(kept)}
    return found


def _among(pairs: Pairs, relations: dict[str, Pairs], num_items: int) -> BoolArray:
    """Whether each pair (E,) is in any of some relations."""
    merged = merge(relations, num_items)
    known, asked = merged.keys(num_items), pairs.keys(num_items)
    found: BoolArray = np.isin(asked, known, assume_unique=True)
    return found


def _counts(idx: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.int64]:
    counts: npt.NDArray[np.int64] = np.bincount(idx, minlength=size)
    return counts
