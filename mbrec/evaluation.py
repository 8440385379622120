"""Evaluation: rank all items per behavior, and measure the lists against the held-out rows.

Per behavior, every user with at least one held-out row of that behavior counts. All items are
ranked, those without any training row included; the user's *training* items of the same behavior
are left out, and nothing else is: this is the protocol of the published results.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mbrec import metrics
from mbrec.columns import BEHAVIOR, USER_ID
from mbrec.cross_fitting import NOTE, CrossFitted
from mbrec.dataset import PreparedDataset
from mbrec.device import pick_device
from mbrec.errors import DataError, UsageError
from mbrec.files import atomic_path, write_json
from mbrec.graph import Pairs
from mbrec.model_card import write_card
from mbrec.parallel.ranking import top_k_together
from mbrec.parallel.team import ALONE, Team
from mbrec.ranking import Exclusion
from mbrec.results import BehaviorResult, HeldOut, Progress, averages
from mbrec.run import Run, run_to_write
from mbrec.sampled import Sampled, evaluate_sampled
from mbrec.scoring import Scorer
from mbrec.slices import slice_results

EVALUATION = "evaluation.{split}.json"
PER_USER = "per_user.{split}.parquet"
SLICES = "slices.{split}.json"
SAMPLED = "evaluation.{split}.sampled{count}.json"
SOURCE = b"mbrec"  # key of what `per_user` says of its origin in its schema
DEFAULT_KS = (5, 10, 20)
_STEP = 1 << 14  # users between two reports of progress; whole tiles, see `mbrec.ranking`

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, per behavior, averaged and per user."""

    split: HeldOut
    ks: tuple[int, ...]
    results: dict[str, BehaviorResult]
    dataset: PreparedDataset
    slices: dict[str, Any] | None = None
    """What `mbrec.slices.slice_results` gives, if it was asked for."""
    cross_fitted: tuple[str, ...] = ()
    """The behaviors of which each user was ranked by what others taught: `mbrec.cross_fitting`."""
    sampled: Sampled | None = None
    """The same against sampled negatives, if that was asked for; not comparable."""

    def summary(self) -> dict[str, Any]:
        """Averages over users per behavior, and their plain mean over behaviors ("macro").

        A behavior without held-out rows has 0 users and null metrics, and is not in the macro.
        "cross_fitted" names the behaviors that are, if any, and "note" says what that means.
        """
        crossed = {"cross_fitted": list(self.cross_fitted), "note": NOTE}
        found = {"split": self.split, **averages(self.results, metrics.names(self.ks))}
        return {**found, **crossed} if self.cross_fitted else found

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
    keep_lists: bool = False,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Evaluation:
    """Measure scorers on the held-out rows of one split.

    Args:
        scorers: Behavior → what scores it; only these behaviors are evaluated.
        dataset: Where the rows are; it must be opened for `split`.
        split: "valid" or "test".
        ks: List lengths.
        user_batch: Users ranked at a time, see `mbrec.ranking.top_k`; does not change the result.
        keep_lists: Keep the ranked lists in the results, 4 bytes per user and place.
        progress: Called now and then with behavior, users done and users in all.
        team: Processes that split the users; all call it, and get the same result.

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
    results, crossed = {}, []
    for behavior in (name for name in dataset.behaviors if name in scorers):
        scorer, held_out = scorers[behavior], dataset.pairs(behavior, split)
        if isinstance(scorer, CrossFitted) and len(held_out):
            crossed.append(behavior)
        users, rows = np.unique(held_out.user_idx, return_inverse=True)
        ranked = _ranked(
            scorer,
            dataset,
            behavior,
            torch.from_numpy(users).long(),
            min(max(ks), dataset.num_items),  # there is nothing to put into more places
            user_batch,
            progress,
            team,
        )
        relevant = Pairs(rows.astype(np.int32), held_out.item_idx)
        values = metrics.per_user(ranked, relevant, ks, whole=True)
        lists = ranked.astype(np.int32) if keep_lists else None
        results[behavior] = BehaviorResult(users, values, lists)
    return Evaluation(split, ks, results, dataset, cross_fitted=tuple(crossed))


def evaluate_run(
    path: Path | str,
    *,
    split: HeldOut = "test",
    ks: Sequence[int] = DEFAULT_KS,
    data: Path | str | None = None,
    device: str = "auto",
    user_batch: int | None = None,
    slices: bool = False,
    sampled: int | None = None,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Evaluation:
    """Evaluate a run; write `evaluation.<split>.json` and `per_user.<split>.parquet` into it.

    Args:
        path: The run's folder.
        split: "valid" or "test".
        ks: List lengths.
        data: Where the dataset is; by default, where it was at training.
        device: "auto", "cpu" or "cuda".
        user_batch: See `evaluate`.
        slices: Measure slices and beyond accuracy too, into `slices.<split>.json`.
        sampled: N: rank against N sampled negatives too, into `evaluation.<split>.sampled<N>.json`.
            Such figures are not comparable with any other.
        progress: See `evaluate`.
        team: See `evaluate`; the first of them writes, and measures slices and samples alone.

    Raises:
        UsageError: A list length or `sampled` is below 1, or the run was trained on the split.
        ArtefactError: The run or the dataset is missing, damaged, or they do not belong together.
        DataError: The dataset has no rows in this split.
        DeviceError: CUDA was asked for and there is none.
        BusyError: Another process writes into the run.
        StorageError: The run cannot be written to.
    """
    ks = check_ks(ks)
    with run_to_write(path) if team.first else nullcontext(Run(path)) as run:
        if run.refitted and split == "valid":
            raise UsageError(
                f"{run.path} was trained on the validation rows: they cannot measure it.",
                "Evaluate with --split test, or the run that it refits.",
            )
        dataset, place = run.dataset(data, splits=("train", split)), pick_device(device)
        if not any(len(dataset.pairs(behavior, split)) for behavior in run.behaviors):
            raise no_rows(dataset, split)
        if split == "valid" and run.info.get("calibration") and not run.info.get("cross_fitted"):
            log.warning(
                "%s was trained by an earlier release and learned from these rows what its parts "
                "count: its figures on them are too good. Train it again.",
                run.path,
            )
        scorers = {name: scorer.to(place) for name, scorer in run.scorers(split).items()}
        evaluation = evaluate(
            scorers,
            dataset,
            split,
            ks=ks,
            user_batch=user_batch,
            keep_lists=slices,
            progress=progress,
            team=team,
        )
        if not team.first:
            return evaluation
        for behavior in evaluation.missing:
            log.warning("%r has no %s rows; it is not in the macro average.", behavior, split)
        if slices:
            found = slice_results(evaluation.results, dataset, split, ks)
            evaluation = replace(evaluation, slices=found)
        if sampled is not None:
            against = evaluate_sampled(
                scorers, dataset, split, count=sampled, ks=ks, progress=progress
            )
            evaluation = replace(evaluation, sampled=against)
        _write(run, evaluation)
        write_card(run.path, dataset.manifest)
        return evaluation


def _write(run: Run, evaluation: Evaluation) -> None:
    """Write everything that was measured into the run's folder."""
    split, table = evaluation.split, evaluation.per_user
    # A run that is trained on, or data that change, must not be compared by old figures.
    source = run.source
    table = table.replace_schema_metadata({SOURCE: json.dumps(source)})
    with atomic_path(run.path / PER_USER.format(split=split)) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
    write_json(run.path / EVALUATION.format(split=split), evaluation.summary())
    if evaluation.slices is not None:
        write_json(run.path / SLICES.format(split=split), {"source": source, **evaluation.slices})
    if evaluation.sampled is not None:
        against = evaluation.sampled
        name = SAMPLED.format(split=split, count=against.count)
        write_json(run.path / name, {"source": source, **against.summary()})


def _ranked(
    scorer: Scorer,
    dataset: PreparedDataset,
    behavior: str,
    users: Tensor,
    k: int,
    user_batch: int | None,
    progress: Progress | None,
    team: Team,
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
        best = top_k_together(team, scorer, batch, k, train, user_batch=user_batch)
        lists.append(best.items.cpu().numpy())
        if progress is not None:
            progress(behavior, start + len(batch), len(users))
    return np.concatenate(lists)


def no_rows(dataset: PreparedDataset, split: HeldOut) -> DataError:
    """What is said where a run cannot be measured on a split."""
    other = "valid" if split == "test" else "test"
    known = any(dataset.manifest["counts"]["splits"].get(other, {}).values())
    instead = f"Take --split {other}, or prepare" if known else "Prepare"
    return DataError(
        f"{dataset.path} has no {split} rows.", f"{instead} the data with other splits."
    )


def check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """Check list lengths; they come back ascending, each once.

    Raises:
        UsageError: None is given, or one is below 1.
    """
    if not ks or min(ks) < 1:
        raise UsageError(f"K is {', '.join(map(str, ks)) or 'empty'}.", "Give lengths from 1 on.")
    return tuple(sorted(set(ks)))
