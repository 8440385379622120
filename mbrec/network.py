"""A sum of scores, and what a network with one hidden layer makes of its parts together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mbrec.scoring import Composed, Scorer, Sum, Weighted, check

_UNITS = 2048  # items whose hidden units are computed at a time


@dataclass(frozen=True)
class Network(Composed):
    """Score = a sum, and what one hidden layer makes of its parts, the user and the item.

    base + aᵀ max(0, W x + V b(i) + Z z(u) + c), where x are the scores of the sum's first P parts
    (of a `Weighted` one what it weights), centered, scaled and clipped; see `mbrec.correction`.
    H hidden units, J and R numbers of items and users.
    """

    CLIP: ClassVar[float] = 6.0  # what is further away was hardly seen while it was learned

    base: Sum
    center: Tensor  # (P,) float32
    scale: Tensor  # (P,) float32
    weights: Tensor  # (P, H) float32, Wᵀ
    item_weights: Tensor  # (J, H) float32, Vᵀ
    user_weights: Tensor  # (R, H) float32, Zᵀ
    bias: Tensor  # (H,) float32, c
    last: Tensor  # (H,) float32, a
    item_features: Tensor  # (I, J) float32, b
    user_features: Tensor  # (U, R) float32, z

    def __post_init__(self) -> None:
        shape = len(self.user_features), len(self.item_features)
        check(shape == (self.num_users, self.num_items), "parts and features do not fit")
        count, hidden = len(self.center), len(self.last)
        check(count <= len(self.base.parts), "a network reads more parts than there are")
        wanted = {
            "scale": (count,),
            "weights": (count, hidden),
            "item_weights": (self.item_features.shape[1], hidden),
            "user_weights": (self.user_features.shape[1], hidden),
            "bias": (hidden,),
        }
        fits = all(getattr(self, name).shape == shape for name, shape in wanted.items())
        check(fits, "the weights of a network do not fit each other")

    def _ends(self) -> tuple[Scorer, Scorer]:
        return self.base, self.base

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        total, read = self._parts(user_idx, start, stop)
        return total.add_(self._correction(read, user_idx, start, stop))

    def correction(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """What is added to the sum. (B, stop - start)."""
        return self._correction(self._parts(user_idx, start, stop)[1], user_idx, start, stop)

    def _parts(self, user_idx: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The sum (B, n), and the scores that are read (B, P, n): each part is asked once."""
        total = self.center.new_zeros(len(user_idx), stop - start)
        read = total.new_empty(len(user_idx), len(self.center), stop - start)
        for place, (part, weight) in enumerate(
            zip(self.base.parts, self.base.weights, strict=True)
        ):
            inner = part.inner if isinstance(part, Weighted) else part
            scores = inner.scores(user_idx, start, stop)
            if place < read.shape[1]:
                read[:, place] = scores
            if isinstance(part, Weighted):
                part.weigh(scores, user_idx, start, stop)
            total.add_(scores, alpha=weight)
        return total, read

    def _correction(self, read: Tensor, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """What is added (B, n); changes what was read."""
        read.sub_(self.center[:, None]).mul_(self.scale[:, None]).clamp_(-self.CLIP, self.CLIP)
        of_users = self.user_features[user_idx] @ self.user_weights + self.bias  # (B, H)
        count, features = read.shape[1], self.item_features[start:stop].T
        # What a product takes of every item: scores, features of the item, and 1 for the user.
        ones = features.new_ones(1, stop - start)
        inputs = torch.cat([read.new_empty(count, stop - start), features, ones])
        maps = torch.cat([self.weights, self.item_weights, self.bias[None]]).T.contiguous()
        found, last = read.new_empty(len(user_idx), stop - start), self.last[None]
        # One user and some items at a time: the hidden units of a whole block are H times as large.
        for user, mine, result in zip(of_users, read, found, strict=True):
            inputs[:count], maps[:, -1] = mine, user
            for first in range(0, stop - start, _UNITS):
                some = slice(first, first + _UNITS)
                torch.mm(last, (maps @ inputs[:, some]).relu_(), out=result[None, some])
        return found
