"""Cross-fitting: what was learned from held-out rows, measured on these rows.

A method that learns from validation rows looks better on them than it is. So it learns once more
without each fifth of the users, and these are ranked by what the other four have taught. A user's
fold is her index modulo `FOLDS`: it is known without a table, whoever else has rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mbrec.scoring import Composed, Scorer, check

FOLDS = 5
NOTE = "These rows were learned from: each user was ranked by what the others have taught."
"""What is said beside such figures."""

Places = npt.NDArray[np.int64]


def folds(users: npt.NDArray[np.integer]) -> Iterator[tuple[Places, Places]]:
    """For every fold the places of those who teach, and of those who are asked.

    Args:
        users: Their indices. (N,).
    """
    fold = users % FOLDS
    for number in range(FOLDS):
        mine = fold == number
        yield np.flatnonzero(~mine), np.flatnonzero(mine)


@dataclass(frozen=True)
class CrossFitted(Composed):
    """Score = that of one of several scorers: user u's is number u mod F."""

    folds: tuple[Scorer, ...]

    def __post_init__(self) -> None:
        shapes = {(one.num_users, one.num_items) for one in self.folds}
        check(len(shapes) == 1, "the folds are for different numbers of users or items")

    def _ends(self) -> tuple[Scorer, Scorer]:
        return self.folds[0], self.folds[0]

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        found = torch.empty(len(user_idx), stop - start, device=self.device)
        fold = user_idx % len(self.folds)
        for number, scorer in enumerate(self.folds):
            mine = (fold == number).nonzero()[:, 0]
            if len(mine):
                found[mine] = scorer.scores(user_idx[mine], start, stop)
        return found
