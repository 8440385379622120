"""A dataset whose validation rows are training rows: for the last training, with all that is known.

Validation has chosen by then, and the rows nearest to what is to be predicted would lie idle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from mbrec.columns import VISIBLE, Split
from mbrec.dataset import PreparedDataset
from mbrec.graph import Pairs, build_graph


def joined(dataset: PreparedDataset) -> PreparedDataset:
    """The dataset with its validation rows among those of training.

    Args:
        dataset: Opened for both parts, at least; one that is joined already comes back as it is.
    """
    return dataset if isinstance(dataset, _Joined) else _Joined(dataset)


class _Joined(PreparedDataset):
    """A view of a dataset whose validation rows are training rows, and which has none to hold out.

    Its splits stay those that may be read: who may not see the test part cannot do so here either.
    """

    def __init__(self, base: PreparedDataset) -> None:
        self.__dict__.update(base.__dict__)
        self._base = base
        self._parts: dict[str, tuple[Pairs, pa.Array]] = {}

    def graph(self) -> Any:
        return build_graph(self.train_relations(), self.num_users, self.num_items)

    def _part(self, behavior: str, split: Split) -> tuple[Pairs, pa.Array]:
        if split == "test":
            return self._base._part(behavior, split)
        if split == "valid":
            pairs, times = self._base._part(behavior, split)
            return Pairs(pairs.user_idx[:0], pairs.item_idx[:0]), times[:0]
        if behavior not in self._parts:
            self._parts[behavior] = self._both(behavior)
        return self._parts[behavior]

    def _both(self, behavior: str) -> tuple[Pairs, pa.Array]:
        found = [self._base._part(behavior, split) for split in VISIBLE]
        users = np.concatenate([pairs.user_idx for pairs, _ in found])
        items = np.concatenate([pairs.item_idx for pairs, _ in found])
        order = np.lexsort((items, users))
        times = pa.concat_arrays([part for _, part in found]).take(pa.array(order))
        return Pairs(users[order], items[order]), times
