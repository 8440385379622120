"""MostPop: items by their number of training users, per behavior. The same list for everyone."""

from __future__ import annotations

import torch

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
        result = {}
        for behavior in context.behaviors:
            _, items = context.train[behavior].tensors()
            counts = torch.bincount(items, minlength=context.num_items).float()
            result[behavior] = Factors(everyone, counts.unsqueeze(1))
        return result


ENTRY = Entry(MostPopConfig, MostPop, needs_engine=False)
