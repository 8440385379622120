"""Evaluation: rank all items per behavior, and measure the lists against the held-out rows.

Per behavior, every user with at least one held-out row of that behavior counts. All items are
ranked, those without any training row included; the user's *training* items of the same behavior
are left out, and nothing else is: this is the protocol of the published results.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mbrec import metrics
from mbrec.columns import BEHAVIOR, USER_ID
from mbrec.dataset import PreparedDataset
from mbrec.device import pick_device
from mbrec.errors import DataError, UsageError
from mbrec.files import atomic_path, write_json
from mbrec.graph import Pairs
from mbrec.ranking import Exclusion, top_k
from mbrec.run import Run
from mbrec.scoring import Scorer

HeldOut = Literal["valid", "test"]
Progress = Callable[[str, int, int], None]  # behavior, users done, users in all

DEFAULT_KS = (5, 10, 20)
_STEP = 1 << 14  # users between two reports of progress; whole tiles, see `mbrec.ranking`

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BehaviorResult:
    """What was measured for one behavior."""

    user_idx: npt.NDArray[np.int32]  # (N,) users with a held-out row, ascending
    values: dict[str, metrics.FloatArray]  # "<metric>@<K>" → (N,)

    def means(self) -> dict[str, float | None]:
        """Averages over users; all null if there is none."""
        some = len(self.user_idx) > 0
        return {name: float(v.mean()) if some else None for name, v in self.values.items()}


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, per behavior, averaged and per user."""

    split: HeldOut
    ks: tuple[int, ...]
    results: dict[str, BehaviorResult]
    dataset: PreparedDataset

    def summary(self) -> dict[str, Any]:
        """Averages over users per behavior, and their plain mean over behaviors ("macro").

        A behavior without held-out rows has 0 users and null metrics, and is not in the macro.
        """
        behaviors: dict[str, dict[str, Any]] = {
            behavior: {"users": len(result.user_idx), **result.means()}
            for behavior, result in self.results.items()
        }
        counted = [row for row in behaviors.values() if row["users"]]
        macro = {
            name: sum(row[name] for row in counted) / len(counted) if counted else None
            for name in metrics.names(self.ks)
        }
        return {"split": self.split, "behaviors": behaviors, "macro": macro}

    @property
    def missing(self) -> list[str]:
        """The behaviors without held-out rows."""
        return [name for name, result in self.results.items() if not len(result.user_idx)]

    @property
    def per_user(self) -> pa.Table:
        """One row per user and behavior: user_id, behavior, each metric (float64)."""
        tables = [
            pa.table(
                {
                    USER_ID: self.dataset.user_ids.take(pa.array(result.user_idx)),
                    BEHAVIOR: pa.repeat(pa.scalar(behavior), len(result.user_idx)),
                    **result.values,
                }
            )
            for behavior, result in self.results.items()
        ]
        return pa.concat_tables(tables)


def evaluate(
    scorers: Mapping[str, Scorer],
    dataset: PreparedDataset,
    split: HeldOut,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    user_batch: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure scorers on the held-out rows of one split.

    Args:
        scorers: Behavior → what scores it; only these behaviors are evaluated.
        dataset: Where the rows are; it must be opened for `split`.
        split: "valid" or "test".
        ks: List lengths.
        user_batch: Users ranked at a time, see `mbrec.ranking.top_k`; does not change the result.
        progress: Called now and then with behavior, users done and users in all.

    Raises:
        LeakageError: The dataset was not opened for `split`.
        UsageError: A list length below 1, or no list length.
        DataError: A behavior that the dataset does not have, or another number of users or items.
        TrainingError: Scores that are not numbers.
    """
    ks = check_ks(ks)
    unknown = [name for name in scorers if name not in dataset.behaviors]
    if unknown:
        raise DataError(
            f"{dataset.path} has no behavior {unknown[0]!r}.",
            f"It has {', '.join(dataset.behaviors)}.",
        )
    results = {}
    for behavior in (name for name in dataset.behaviors if name in scorers):
        held_out = dataset.pairs(behavior, split)
        users, rows = np.unique(held_out.user_idx, return_inverse=True)
        ranked = _ranked(
            scorers[behavior],
            dataset,
            behavior,
            torch.from_numpy(users).long(),
            max(ks),
            user_batch,
            progress,
        )
        relevant = Pairs(rows.astype(np.int32), held_out.item_idx)
        results[behavior] = BehaviorResult(users, metrics.per_user(ranked, relevant, ks))
    return Evaluation(split, ks, results, dataset)


def evaluate_run(
    path: Path | str,
    *,
    split: HeldOut = "test",
    ks: Sequence[int] = DEFAULT_KS,
    data: Path | str | None = None,
    device: str = "auto",
    user_batch: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a run; write `evaluation.<split>.json` and `per_user.<split>.parquet` into it.

    Args:
        path: The run's folder.
        split: "valid" or "test".
        ks: List lengths.
        data: Where the dataset is; by default, where it was at training.
        device: "auto", "cpu" or "cuda".
        user_batch: See `evaluate`.
        progress: See `evaluate`.

    Raises:
        ArtefactError: The run or the dataset is missing, damaged, or they do not belong together.
        DataError: The dataset has no rows in this split.
        DeviceError: CUDA was asked for and there is none.
    """
    ks = check_ks(ks)
    run, place = Run(path), pick_device(device)
    dataset = run.dataset(data, splits=("train", split))
    if not any(len(dataset.pairs(behavior, split)) for behavior in run.behaviors):
        other = "valid" if split == "test" else "test"
        raise DataError(
            f"{dataset.path} has no {split} rows.",
            f"Evaluate with --split {other}, or prepare the data with another split.",
        )
    scorers = {behavior: run.scorer(behavior).to(place) for behavior in run.behaviors}
    evaluation = evaluate(scorers, dataset, split, ks=ks, user_batch=user_batch, progress=progress)
    for behavior in evaluation.missing:
        log.warning("%r has no %s rows; it is not in the macro average.", behavior, split)
    with atomic_path(run.path / f"per_user.{split}.parquet") as temporary:
        pq.write_table(evaluation.per_user, temporary)
    write_json(run.path / f"evaluation.{split}.json", evaluation.summary())
    return evaluation


def _ranked(
    scorer: Scorer,
    dataset: PreparedDataset,
    behavior: str,
    users: Tensor,
    k: int,
    user_batch: int | None,
    progress: Progress | None,
) -> npt.NDArray[np.int64]:
    """The lists (N, k) of users (N,) without their training items of the same behavior."""
    if (scorer.num_users, scorer.num_items) != (dataset.num_users, dataset.num_items):
        raise DataError(
            f"The scores of {behavior!r} are for {scorer.num_users} users × {scorer.num_items} "
            f"items; {dataset.path} has {dataset.num_users} × {dataset.num_items}."
        )
    train = Exclusion.from_pairs(dataset.pairs(behavior, "train"), dataset.num_users)
    lists = [np.empty((0, k), dtype=np.int64)]
    for start in range(0, len(users), _STEP):
        batch = users[start : start + _STEP]
        lists.append(top_k(scorer, batch, k, train, user_batch=user_batch).items.cpu().numpy())
        if progress is not None:
            progress(behavior, start + len(batch), len(users))
    return np.concatenate(lists)


def check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """Check list lengths; they come back ascending, each once.

    Raises:
        UsageError: None is given, or one is below 1.
    """
    if not ks or min(ks) < 1:
        raise UsageError(f"K is {', '.join(map(str, ks)) or 'empty'}.", "Give lengths from 1 on.")
    return tuple(sorted(set(ks)))
