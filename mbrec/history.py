"""The users' histories over all behaviors as one sparse matrix, for methods of item similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse

from mbrec.graph import Pairs
from mbrec.models.base import Context, Times
from mbrec.scoring import Sparse


def weighted_history(
    context: Context, behaviors: Sequence[str], weights: Mapping[str, float]
) -> Any:
    """X (U, I): the sum of the weights of those behaviors that a user has done to an item.

    Args:
        context: The training part of a dataset.
        behaviors: Which behaviors count.
        weights: Behavior → its weight; 1 where none is given.

    Returns:
        A `scipy.sparse.csr_matrix` of float32, indices ascending within a row.
    """
    shape = context.num_users, context.num_items
    total = sparse.csr_matrix(shape, dtype=np.float32)
    for name in behaviors:
        pairs = context.train[name]
        values = np.full(len(pairs), weights.get(name, 1.0), np.float32)
        total = total + sparse.csr_matrix((values, (pairs.user_idx, pairs.item_idx)), shape)
    total.sort_indices()
    return total


def scorable(matrix: Any) -> Sparse:
    """A `scipy.sparse` matrix, indices ascending within a row, as what a scorer holds."""
    indptr, items, values = map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data))
    return Sparse.of(indptr, items, values, matrix.shape[1])


def latest_first(
    pairs: Pairs, times: Times, without: Pairs, num_users: int, num_items: int
) -> Sparse:
    """1 / n for the user's n-th latest item.

    Args:
        pairs: Users and items, sorted by user.
        times: Of them. (E,)
        without: Pairs that are not counted.
        num_users: U.
        num_items: I.
    """
    left = ~np.isin(pairs.keys(num_items), without.keys(num_items))
    users, items = pairs.user_idx[left], pairs.item_idx[left]
    order = np.lexsort((items, -times[left].astype(np.float64), users))
    counts = np.bincount(users, minlength=num_users)
    place = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.empty(len(users), np.float32)
    values[order] = 1 / (1 + place)
    return Sparse.from_pairs(Pairs(users, items), num_users, num_items, torch.from_numpy(values))
