"""The figures of a run on one split, user by user: those it holds, or else measured now.

Nothing is written into the run, and of the held-out rows only those of the split are read.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbrec.columns import BEHAVIOR, USER_ID
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, UsageError
from mbrec.evaluation import DEFAULT_KS, PER_USER, SLICES, SOURCE, evaluate, no_rows
from mbrec.files import read_json
from mbrec.guard import inside, read_columns
from mbrec.metrics import METRICS, FloatArray
from mbrec.results import BehaviorResult, HeldOut, Progress, averages
from mbrec.run import Run
from mbrec.significance import bootstrap
from mbrec.slices import slice_results

RESAMPLES = 2_000


@dataclass(frozen=True)
class Measured:
    """Every metric of every user, per behavior."""

    split: HeldOut
    ks: tuple[int, ...]
    users: dict[str, pa.Array]  # behavior → raw ids (N,)
    values: dict[str, dict[str, FloatArray]]  # behavior → "<metric>@<K>" → (N,)
    slices: Mapping[str, Any] | None  # what `mbrec.slices.slice_results` gives
    stored: bool  # by `mbrec evaluate`, not now
    _intervals: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def interval(self, behavior: str, name: str) -> tuple[float, float]:
        """The 95 % bootstrap interval of a mean over users; the same at every call."""
        key = behavior, name
        if key not in self._intervals:
            found = bootstrap(self.values[behavior][name], resamples=RESAMPLES)
            self._intervals[key] = found
        return self._intervals[key]

    def summary(self) -> dict[str, Any]:
        """Averages over users per behavior, and their mean ("macro"), as `mbrec evaluate` has."""
        names = [f"{metric}@{k}" for k in self.ks for metric in METRICS]
        results = {
            behavior: BehaviorResult(np.arange(len(self.users[behavior]), dtype=np.int32), values)
            for behavior, values in self.values.items()
        }
        return {"split": self.split, **averages(results, names)}


def measure(
    run: Run, dataset: PreparedDataset | None, split: HeldOut, progress: Progress | None = None
) -> Measured | None:
    """The figures of a run.

    Args:
        run: The run.
        dataset: What it was trained on, opened for training rows and the split; None if it is gone.
        split: "valid" or "test".
        progress: See `mbrec.evaluation.evaluate`.

    Returns:
        What the run holds, if that is of the run as it is; what it lacks is measured. None if that
        takes the dataset.

    Raises:
        ArtefactError: The figures that the run holds are damaged.
        DataError: The dataset has no rows in this split.
    """
    held = _stored(run, split)
    slices = _stored_slices(run, split) if held else None
    if held and slices:
        return _measured(run, held, split, slices)
    if dataset is None:
        return _measured(run, held, split, None) if held else None
    if not any(len(dataset.pairs(behavior, split)) for behavior in run.behaviors):
        if run.refitted and split == "valid":
            raise UsageError(
                f"{run.path} was trained on the validation rows: they cannot measure it.",
                "Report on --split test, or on the run that it refits.",
            )
        raise no_rows(dataset, split)
    ks = _lengths(held) if held else DEFAULT_KS
    found = evaluate(run.scorers(split), dataset, split, ks=ks, keep_lists=True, progress=progress)
    slices = slice_results(found.results, dataset, split, ks)
    if held:
        return _measured(run, held, split, slices)
    return Measured(
        split,
        tuple(ks),
        {b: dataset.user_ids.take(pa.array(r.user_idx)) for b, r in found.results.items()},
        {behavior: result.values for behavior, result in found.results.items()},
        slices,
        stored=False,
    )


def _stored(run: Run, split: HeldOut) -> pa.Table | None:
    """What `mbrec evaluate` wrote, unless the run was trained since."""
    path = inside(run.path, PER_USER.format(split=split))
    if not path.is_file():
        return None
    again = f"Run `mbrec evaluate {shlex.quote(str(run.path))} --split {split}` again."
    try:
        schema = pq.read_schema(path)
        source = json.loads((schema.metadata or {}).get(SOURCE, b"null"))
        if source != run.source:
            return None
        names = [name for name in schema.names if _is_metric(name)]
        table = read_columns(path, [USER_ID, BEHAVIOR, *names])
        if any(column.null_count for column in table.columns):
            raise ValueError("it has empty cells")
        return table
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArtefactError(f"{path} is damaged: {error}.", again) from error


def _measured(
    run: Run, table: pa.Table, split: HeldOut, slices: Mapping[str, Any] | None
) -> Measured:
    users, values = {}, {}
    for behavior in run.behaviors:
        part = table.filter(pc.equal(table[BEHAVIOR], behavior))
        users[behavior] = part[USER_ID].combine_chunks()
        values[behavior] = {
            name: part[name].to_numpy() for name in table.column_names if _is_metric(name)
        }
    return Measured(split, _lengths(table), users, values, slices, stored=True)


def _stored_slices(run: Run, split: HeldOut) -> dict[str, Any] | None:
    """The slices of the run, unless it was trained since."""
    path = inside(run.path, SLICES.format(split=split))
    if not path.is_file():
        return None
    slices = read_json(path, "slices")
    return slices if slices.get("source") == run.source and "behaviors" in slices else None


def _is_metric(name: str) -> bool:
    metric, at, length = name.partition("@")
    return bool(at) and metric in METRICS and length.isascii() and length.isdigit()


def _lengths(table: pa.Table) -> tuple[int, ...]:
    names: Sequence[str] = [name for name in table.column_names if _is_metric(name)]
    return tuple(sorted({int(name.partition("@")[2]) for name in names}))
