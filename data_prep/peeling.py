"""The k-core on arrays: in which round every user and item falls."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mbrec.data_prep.ids import IntArray

_WORTH_A_COPY = 0.1  # share of pairs that are gone from which a smaller copy pays off

Numbers = npt.NDArray[Any]


def rounds_of_fall(
    pairs: tuple[IntArray, IntArray], sizes: tuple[int, int], minima: tuple[int, int]
) -> tuple[IntArray, IntArray, int]:
    """Peel a k-core, as `mbrec.data_prep.kcore.core_filter` does.

    Linear in the pairs per round: only the counts of those whose partner fell change.

    Args:
        pairs: Users (E,) and items (E,) of the distinct pairs that are counted.
        sizes: How many users and items there are.
        minima: Pairs that a user and an item must have; 0: any number will do.

    Returns:
        For every user and item the round in which it falls, and the number of rounds, which is
        also what those get that stay.
    """
    users, items = (_Side(codes, *side) for codes, *side in zip(pairs, sizes, minima, strict=True))
    rounds = 0
    while True:
        fallen = [_peel(items, users, rounds), _peel(users, items, rounds)]
        if not any(fallen):
            break
        rounds += 1
    for side in (users, items):
        side.fell[side.alive] = rounds
    return users.fell, items.fell, rounds


class _Side:
    """The users or the items: how many pairs each has left."""

    def __init__(self, codes: IntArray, size: int, minimum: int) -> None:
        self.codes = codes  # (E,)
        self.minimum = minimum
        self.count = np.bincount(codes, minlength=size)
        self.alive = np.ones(size, dtype=bool)
        self.fell = np.zeros(size, dtype=np.int32)


def _peel(mine: _Side, theirs: _Side, number: int) -> bool:
    """Drop who has too few pairs; whether there was anyone."""
    low = mine.alive & (mine.count < mine.minimum)
    if not low.any():
        return False
    mine.alive[low] = False
    mine.fell[low] = number
    gone = low[mine.codes]
    # Of a pair that is gone already the other side fell before: its count is not looked at again.
    theirs.count -= np.bincount(theirs.codes[gone], minlength=len(theirs.count))
    if gone.mean() > _WORTH_A_COPY if len(gone) else False:
        mine.codes, theirs.codes = mine.codes[~gone], theirs.codes[~gone]
    return True
