"""Metrics against sampled negatives, for those who must have them. Not comparable with anything.

The user's held-out items are ranked among N items drawn at random, instead of among all. Such
figures are far higher than those of full ranking, grow as N falls, and can order two models the
other way (Krichene and Rendle, KDD 2020). They bear names of their own so that they are never taken
for the others: "sampled100_ndcg@5" in `evaluation.<split>.sampled100.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mbrec import metrics
from mbrec.dataset import PreparedDataset
from mbrec.errors import TrainingError, UsageError
from mbrec.graph import Pairs, merge
from mbrec.randomness import generator
from mbrec.results import BehaviorResult, HeldOut, Progress, averages
from mbrec.sampling import NegativeSampler
from mbrec.scoring import Scorer

IntLists = npt.NDArray[np.int64]

_MAX_USERS = 128  # scored at a time
_MAX_DRAWS = 1 << 20  # negatives drawn at a time
_ITEMS = 1 << 16  # scored at a time


@dataclass(frozen=True)
class Sampled:
    """Metrics of one split against `count` sampled negatives."""

    split: HeldOut
    ks: tuple[int, ...]
    count: int
    seed: int
    results: dict[str, BehaviorResult]  # the metrics' names begin with `prefix`

    @property
    def prefix(self) -> str:
        """What the names of the metrics begin with, e.g. "sampled100_"."""
        return f"sampled{self.count}_"

    @property
    def note(self) -> str:
        """What must stand wherever these figures are shown."""
        return (
            f"Not comparable with full ranking, nor with another number of negatives: held-out "
            f"items ranked among {self.count} sampled items only."
        )

    def summary(self) -> dict[str, Any]:
        """Averages as `Evaluation.summary` has them, with how they came about."""
        names = [f"{self.prefix}{name}" for name in metrics.names(self.ks)]
        return {
            "split": self.split,
            "comparable": False,
            "note": self.note,
            "sampled_negatives": self.count,
            "seed": self.seed,
            **averages(self.results, names),
        }


def evaluate_sampled(
    scorers: Mapping[str, Scorer],
    dataset: PreparedDataset,
    split: HeldOut,
    *,
    count: int,
    ks: Sequence[int],
    seed: int = 0,
    progress: Progress | None = None,
) -> Sampled:
    """Rank each user's held-out items among `count` negatives, per behavior.

    Negatives are drawn uniformly, independently (an item may come twice), from the items that the
    user has neither in the training part of the behavior nor in `split`. A user who has all items
    gets none. They follow from dataset, split, behavior, `count` and `seed` alone, so all models
    face the same. Ties rank as in `mbrec.ranking`: the lower index first.

    Args:
        scorers: Behavior → what scores it.
        dataset: Where the rows are; it must be opened for "train" and `split`.
        split: "valid" or "test".
        count: N, negatives per user.
        ks: List lengths.
        seed: Of the negatives.
        progress: Called now and then with behavior, users done and users in all.

    Raises:
        UsageError: `count` is below 1.
        TrainingError: A score is not a number.

    Time is that of scoring all items; memory is O(users × max K) beside blocks of fixed size.
    """
    if count < 1:
        raise UsageError(f"{count} negatives are none.", "Give 1 or more.")
    results = {}
    for behavior in (name for name in dataset.behaviors if name in scorers):
        held_out = dataset.pairs(behavior, split)
        users, rows = np.unique(held_out.user_idx, return_inverse=True)
        relevant = Pairs(rows.astype(np.int32), held_out.item_idx)
        task = _Task(
            users=torch.from_numpy(users).long(),
            relevant=relevant,
            sampler=_sampler(dataset, behavior, held_out),
            count=count,
            draws=generator(seed, f"sampled/{behavior}"),
        )
        ranked = count + int(np.bincount(rows).max(initial=0))  # at most, for any user
        lists = np.full((len(users), min(max(ks), ranked)), -1, dtype=np.int64)
        for done in task.fill(lists, scorers[behavior]):
            if progress is not None:
                progress(behavior, done, len(users))
        values = metrics.per_user(lists, relevant, ks, whole=True)
        named = {f"sampled{count}_{name}": value for name, value in values.items()}
        results[behavior] = BehaviorResult(users, named)
    return Sampled(split, tuple(ks), count, seed, results)


@dataclass(frozen=True)
class _Task:
    """What is ranked for one behavior."""

    users: Tensor  # (N,) int64
    relevant: Pairs  # row of `users` and held-out item, sorted
    sampler: NegativeSampler
    count: int
    draws: torch.Generator

    def fill(self, lists: IntLists, scorer: Scorer) -> Iterator[int]:
        """Write the lists (N, k), -1 where candidates run out; gives the number of users done."""
        step = min(_MAX_USERS, max(_MAX_DRAWS // self.count, 1))
        for start in range(0, len(self.users), step):
            batch = self.users[start : start + step]
            ranked = _rank(scorer, batch, self._candidates(batch, start), lists.shape[1])
            lists[start : start + step, : ranked.shape[1]] = ranked.numpy()
            yield start + len(batch)

    def _candidates(self, batch: Tensor, start: int) -> Tensor:
        """The held-out items of the batch and its negatives, ascending, (B, P + N); -1: none."""
        first, last = np.searchsorted(self.relevant.user_idx, [start, start + len(batch)])
        own = Pairs(self.relevant.user_idx[first:last], self.relevant.item_idx[first:last])
        rows, items = own.tensors()
        rows -= start
        sizes = torch.bincount(rows, minlength=len(batch))
        most = int(sizes.max())  # P
        candidates = torch.full((len(batch), most + self.count), -1)
        candidates[rows, torch.arange(len(rows)) - (sizes.cumsum(0) - sizes)[rows]] = items
        can = self.sampler.can_sample(batch)
        candidates[can, most:] = self.sampler.sample(batch[can], self.count, self.draws)
        return candidates.sort(dim=1).values


def _sampler(dataset: PreparedDataset, behavior: str, held_out: Pairs) -> NegativeSampler:
    """Draws from what a user has neither in the training part nor held out."""
    taken = {"train": dataset.pairs(behavior, "train"), "held out": held_out}
    merged = merge(taken, dataset.num_items)
    return NegativeSampler(merged, dataset.num_users, dataset.num_items)


@torch.no_grad()
def _rank(scorer: Scorer, batch: Tensor, candidates: Tensor, k: int) -> Tensor:
    """The best candidates of every user (B, at most k); -1 for none, and for those scored -inf.

    Of equal scores the first in `candidates` ranks first, which is the lower index.

    Raises:
        TrainingError: A score is not a number.
    """
    users, items = batch.to(scorer.device), candidates.to(scorer.device)
    scores = torch.full(items.shape, -torch.inf, device=scorer.device)
    for start in range(0, scorer.num_items, _ITEMS):
        stop = min(start + _ITEMS, scorer.num_items)
        block = scorer.scores(users, start, stop).float()
        inside = (items >= start) & (items < stop)
        place = (items - start).clamp_(0, stop - start - 1)
        scores = torch.where(inside, block.gather(1, place), scores)
    if bool(scores.isnan().any()):
        raise TrainingError(
            "The model gives scores that are not numbers (NaN).",
            "Its training has diverged; train again with a lower learning rate.",
        )
    best, order = scores.sort(dim=1, descending=True, stable=True)
    ranked = items.gather(1, order[:, :k]).masked_fill(best[:, :k] == -torch.inf, -1)
    return ranked.cpu()
