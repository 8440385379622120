"""Which behavior comes before which, read from the training part of a log: `order = "learned"`.

The evidence that a precedes b is, where the log has times, the share of the pairs (user, item) with
both whose a is older than their b (half for ties), by the times that the dataset keeps: those of
the first a and b, or of the last with `mbrec prep --keep last`. Without times, or with fewer than
`LEAST` such pairs, it is n_a / (n_a + n_b): the steps of a shop become rarer toward the purchase.
The order chosen is the permutation of the auxiliaries with the most evidence over all its pairs.

Validation and test rows play no part, and neither does the order in which the behaviors were named:
who names them in a wrong one gets the same model.
"""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt

from mbrec.dataset import PreparedDataset

LEAST = 100  # common pairs with times below which counts speak
_EXHAUSTIVE = 7  # auxiliaries up to which all permutations are compared


def learned_order(dataset: PreparedDataset) -> tuple[str, ...]:
    """The dataset's behaviors in the order that its training part speaks for, target last."""
    names = sorted(dataset.behaviors[:-1])
    evidence = {pair: precedence(dataset, *pair) for pair in permutations(names, 2)}
    if len(names) > _EXHAUSTIVE:
        order = tuple(sorted(names, key=lambda a: -sum(evidence[a, b] for b in names if b != a)))
    else:
        order = max(
            permutations(names), key=lambda p: sum(evidence[pair] for pair in combinations(p, 2))
        )
    return (*order, dataset.target)


def precedence(dataset: PreparedDataset, first: str, second: str) -> float:
    """The evidence in 0 … 1 that behavior `first` comes before `second`."""
    (keys, times), (other_keys, other_times) = (_timed(dataset, name) for name in (first, second))
    _, here, there = np.intersect1d(keys, other_keys, assume_unique=True, return_indices=True)
    if len(here) >= LEAST:
        older, younger = times[here], other_times[there]
        return float((older < younger).mean() + 0.5 * (older == younger).mean())
    sizes = [len(dataset.pairs(name, "train")) for name in (first, second)]
    return sizes[0] / sum(sizes) if sum(sizes) else 0.5


def _timed(
    dataset: PreparedDataset, behavior: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Keys and times of the training pairs that have a time."""
    pairs = dataset.pairs(behavior, "train")
    keys = pairs.keys(dataset.num_items)
    times = dataset.timestamps(behavior, "train")
    known = times.is_valid().to_numpy(zero_copy_only=False)
    return keys[known], times.fill_null(0).to_numpy(zero_copy_only=False)[known]
