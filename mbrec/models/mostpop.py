"""MostPop: items by their number of training users, per behavior. The same list for everyone."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrec.models.base import Context, Entry, Method, MethodConfig
from mbrec.scoring import Factors


class MostPopConfig(MethodConfig):
    """MostPop has no settings."""


class MostPop(Method):
    """MostPop.

    Args:
        config: Settings.
        context: The training part of a dataset.
    """

    def __init__(self, config: MostPopConfig, context: Context) -> None:
        self.config = config
        self._context = context

    def scorers(self) -> dict[str, Factors]:
        """Score = number of training users of the item in the behavior, as factors of size 1."""
        context = self._context
        everyone = torch.ones(context.num_users, 1)
        counts = {name: popularity(context, name).float() for name in context.behaviors}
        return {name: Factors(everyone, count.unsqueeze(1)) for name, count in counts.items()}


def popularity(context: Context, behavior: str) -> Tensor:
    """The number of training users of every item in a behavior, (I,) int64."""
    _, items = context.train[behavior].tensors()
    return torch.bincount(items, minlength=context.num_items)


def popularity_tail(context: Context, behavior: str, below: float = 1e-20) -> Factors:
    """Popularity on a scale from 0 to `below`, for the items that a method knows nothing of.

    Added to scores that are 0 or far larger than `below`, it orders the former and changes none of
    the latter.
    """
    counts = popularity(context, behavior).float()
    share = below * counts / (1 + counts.max()) if len(counts) else counts
    return Factors(torch.ones(context.num_users, 1), share.unsqueeze(1)).to(context.device)


ENTRY = Entry(MostPopConfig, MostPop, needs_engine=False)
