"""What a prepared dataset is made of, in figures: counts, long tail, activity, overlap, time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from mbrec.beyond import gini
from mbrec.columns import SPLITS
from mbrec.dataset import PreparedDataset
from mbrec.graph import Pairs, merge

IntArray = npt.NDArray[np.int64]

ALL = "all behaviors"  # the row of the training pairs of all behaviors, each pair once
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
TIME_BINS = 24
HELD_OUT = SPLITS[1:]


def dataset_statistics(dataset: PreparedDataset) -> dict[str, Any]:
    """Figures of a prepared dataset, as plain values.

    Args:
        dataset: Opened for all splits.

    Returns:
        * "users", "items", "interactions" and "density": interactions of all splits, a pair of
          several behaviors once, per user × item;
        * "behaviors": behavior → rows of every split; of its training part "users" and "items"
          with any, "density", and "pairs_per_user" of those users;
        * "long_tail": behavior → the shares of the training pairs that the top 1 % and 10 % of all
          items have, "gini", and "deciles", the shares of each tenth of the items, best first;
        * "activity": behavior → quantiles of training pairs per user, over all users;
        * "overlap": behavior b → a → the share of b's training pairs that are a's too;
        * "held_out": split → behavior → see `_held_out`;
        * "time": None, or the first and last Unix second, and rows in equal bins between them.

        "long_tail" and "activity" have a row "all behaviors", each pair once.

    Memory: some 50 bytes per interaction.
    """
    train = dataset.train_relations()
    merged = {**train, ALL: merge(train, dataset.num_items)}
    cells = max(dataset.num_users * dataset.num_items, 1)
    every = {f"{b} {s}": dataset.pairs(b, s) for b in dataset.behaviors for s in SPLITS}
    keys = {name: pairs.keys(dataset.num_items) for name, pairs in train.items()}
    return {
        "users": dataset.num_users,
        "items": dataset.num_items,
        "interactions": sum(map(len, every.values())),
        "density": len(merge(every, dataset.num_items)) / cells,
        "behaviors": {
            name: {
                **{split: len(every[f"{name} {split}"]) for split in SPLITS},
                **_counts(pairs, cells),
            }
            for name, pairs in train.items()
        },
        "long_tail": {
            name: _long_tail(np.bincount(pairs.item_idx, minlength=dataset.num_items))
            for name, pairs in merged.items()
        },
        "activity": {
            name: _quantiles(np.bincount(pairs.user_idx, minlength=dataset.num_users))
            for name, pairs in merged.items()
        },
        "overlap": {
            b: {a: _share(np.isin(keys[b], keys[a], assume_unique=True)) for a in keys}
            for b in keys
        },
        "held_out": {
            split: {name: _held_out(dataset, name, split, keys) for name in dataset.behaviors}
            for split in HELD_OUT
        },
        "time": _time(dataset),
    }


def _counts(pairs: Pairs, cells: int) -> dict[str, Any]:
    users, items = len(np.unique(pairs.user_idx)), len(np.unique(pairs.item_idx))
    return {
        "users": users,
        "items": items,
        "density": len(pairs) / cells,
        "pairs_per_user": len(pairs) / users if users else None,
    }


def _long_tail(counts: IntArray) -> dict[str, Any]:
    """How unevenly the pairs are spread over the items, from pairs per item (I,)."""
    total = int(counts.sum())
    if not total:
        return {"top_1_percent": None, "top_10_percent": None, "gini": None, "deciles": []}
    ordered = np.sort(counts)[::-1]
    # At least one item, however few there are.
    top = {p: int(ordered[: max(round(len(ordered) * p / 100), 1)].sum()) for p in (1, 10)}
    return {
        "top_1_percent": top[1] / total,
        "top_10_percent": top[10] / total,
        "gini": gini(counts),
        "deciles": [float(part.sum() / total) for part in np.array_split(ordered, 10)],
    }


def _quantiles(counts: IntArray) -> dict[str, int]:
    if not len(counts):
        return {}
    found = np.quantile(counts, QUANTILES, method="inverted_cdf")
    return {f"{q:.0%}": int(value) for q, value in zip(QUANTILES, found, strict=True)}


def _held_out(
    dataset: PreparedDataset, behavior: str, split: Any, keys: Mapping[str, IntArray]
) -> dict[str, Any]:
    """Rows and users of a held-out part, and how much of it training can know.

    "cold_users" and "cold_items": the shares of rows whose user or item has no training pair at
    all; "cold_items_in_behavior": none of this behavior; "explored": the user has done an earlier
    behavior of the cascade to the item in training. None where there are no rows.
    """
    pairs = dataset.pairs(behavior, split)
    train = dataset.train_relations()
    known_users = np.zeros(dataset.num_users, bool)
    known_items = np.zeros(dataset.num_items, bool)
    for relation in train.values():
        known_users[relation.user_idx] = True
        known_items[relation.item_idx] = True
    in_behavior = np.zeros(dataset.num_items, bool)
    in_behavior[train[behavior].item_idx] = True
    before = dataset.behaviors[: dataset.behaviors.index(behavior)]
    own = pairs.keys(dataset.num_items)
    explored = np.zeros(len(pairs), bool)
    for name in before:
        explored |= np.isin(own, keys[name], assume_unique=True)
    return {
        "rows": len(pairs),
        "users": len(np.unique(pairs.user_idx)),
        "cold_users": _share(~known_users[pairs.user_idx]),
        "cold_items": _share(~known_items[pairs.item_idx]),
        "cold_items_in_behavior": _share(~in_behavior[pairs.item_idx]),
        "explored": _share(explored) if before else None,
    }


def _time(dataset: PreparedDataset) -> dict[str, Any] | None:
    """First and last second, per split too, and the rows in equal bins; None without timestamps."""
    found = {
        split: np.concatenate(
            [dataset.timestamps(b, split).drop_null().to_numpy() for b in dataset.behaviors]
        )
        for split in SPLITS
    }
    times = np.concatenate(list(found.values()))
    if not len(times):
        return None
    missing = sum(
        pc.sum(dataset.timestamps(b, s).is_null()).as_py() or 0
        for b in dataset.behaviors
        for s in SPLITS
    )
    first, last = int(times.min()), int(times.max())
    bins, _ = np.histogram(times, TIME_BINS, (first, max(last, first + 1)))
    return {
        "first": first,
        "last": last,
        "without": int(missing),
        "bins": bins.tolist(),
        "splits": {
            split: {"first": int(part.min()), "last": int(part.max())}
            for split, part in found.items()
            if len(part)
        },
    }


def _share(holds: npt.NDArray[np.bool_]) -> float | None:
    return float(holds.mean()) if len(holds) else None
