"""OwnHistory: the items that the user has touched before by other behaviors, then popularity.

No paper; the obvious rule of a shop ("you had these in the cart"), and on some public splits
stronger than most trained models. For the lists of behavior k the other behaviors are asked one
after the other: k-1, k-2, … 1, then the later ones, k+1, … K; the first behavior has only later
ones to ask. Items of the behavior asked first stand above all others, then come those of the
second, and so on; an item that several have counts for the first of them. Within one behavior the
latest item is first where the log has times, else the one with the most training users in behavior
k. Latest is by the time that the dataset keeps of each user, item and behavior: that of the first
touch, or of the last with `mbrec prep --keep last`. Below all these stand the other items, by
popularity in behavior k.

Scores: 1 … n for the user's n items, counted from the last, and a share of popularity below 1 for
the others. What the user has done in behavior k alone gets nothing: that is no reason to do it
again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from mbrec.errors import UsageError
from mbrec.graph import Pairs
from mbrec.models.base import Context, Entry, Method, MethodConfig
from mbrec.models.mostpop import popularity, popularity_tail
from mbrec.scoring import Sparse, Sum

IntArray = npt.NDArray[np.int64]


class OwnHistoryConfig(MethodConfig):
    """Settings of OwnHistory."""

    order: tuple[str, ...] = ()
    """Behaviors in the order in which they are asked, for all lists; () is nearest first."""

    later: bool = True
    """Without `order`: whether behaviors later in the cascade are asked, too, after the others."""

    recency: bool = True
    """Within a behavior: the latest first, where the log has times (`mbrec prep --keep last`: by
    the last touch, else by the first); false: by popularity."""


class OwnHistory(Method):
    """OwnHistory.

    Args:
        config: Settings.
        context: The training part of a dataset.

    Raises:
        UsageError: `order` names a behavior that is not there, or one twice.
    """

    def __init__(self, config: OwnHistoryConfig, context: Context) -> None:
        unknown = set(config.order) - set(context.behaviors)
        if unknown or len(set(config.order)) < len(config.order):
            raise UsageError(
                f"model.order = {list(config.order)} is no order of behaviors.",
                f"Name each at most once; there are: {', '.join(context.behaviors)}.",
            )
        self.config = config
        self._context = context

    def scorers(self) -> dict[str, Sum]:
        """A few items per user, and popularity as factors of size 1."""
        result = {}
        for behavior in self._context.behaviors:
            tail = popularity_tail(self._context, behavior, below=1.0)
            result[behavior] = Sum((self._touched(behavior), tail), (1.0, 1.0))
        return result

    def asked(self, behavior: str) -> list[str]:
        """The behaviors asked for the lists of `behavior`, in order."""
        if self.config.order:
            return [name for name in self.config.order if name != behavior]
        names = self._context.behaviors
        place = names.index(behavior)
        return [*reversed(names[:place]), *(names[place + 1 :] if self.config.later else ())]

    def _touched(self, behavior: str) -> Sparse:
        """The user's own items, scored 1 … n from the last to the first."""
        popular = popularity(self._context, behavior).numpy()
        keys, level, time = self._histories(self.asked(behavior))
        pairs, place = np.unique(keys, return_inverse=True)
        nearest = np.zeros(len(pairs), np.int64)
        latest = np.full(len(pairs), np.iinfo(np.int64).min)
        np.maximum.at(nearest, place, level)
        np.maximum.at(latest, place, time)
        users, items = np.divmod(pairs, max(self._context.num_items, 1))
        order = np.lexsort((-items, popular[items], latest, nearest, users))
        counts = np.bincount(users, minlength=self._context.num_users)
        first = np.cumsum(counts) - counts
        scores = np.empty(len(pairs), np.float32)
        scores[order] = np.arange(1, len(pairs) + 1) - first[users]  # users ascend in both orders
        found = Pairs(users.astype(np.int32), items.astype(np.int32))
        shape = self._context.num_users, self._context.num_items
        return Sparse.from_pairs(found, *shape, torch.from_numpy(scores)).to(self._context.device)

    def _histories(self, asked: list[str]) -> tuple[IntArray, IntArray, IntArray]:
        """All pairs of these behaviors: key user · I + item, level (the first highest), time."""
        context = self._context
        columns = [np.empty((3, 0), np.int64)]
        for number, name in enumerate(asked):
            pairs = context.train[name]
            key = pairs.keys(context.num_items)
            level = np.full(len(pairs), len(asked) - number)
            time = context.times.get(name) if self.config.recency else None
            columns.append(np.stack([key, level, np.zeros_like(key) if time is None else time]))
        keys, levels, times = np.concatenate(columns, axis=1)
        return keys, levels, times


ENTRY = Entry(OwnHistoryConfig, OwnHistory, needs_engine=False)
