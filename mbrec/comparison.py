"""Two runs side by side: who is better on which behavior, and whether that can be chance.

What is compared are the figures of every user that `mbrec evaluate` keeps, paired on users. The
tests generalize over *users*: they say whether these two runs would differ for other users like
these. Whether the methods differ, or only the seeds did, takes several seeds of each.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbrec.columns import BEHAVIOR, USER_ID
from mbrec.errors import ArtefactError, DataError, UsageError
from mbrec.evaluation import PER_USER, SOURCE
from mbrec.guard import inside, read_columns
from mbrec.metrics import METRICS, FloatArray
from mbrec.results import HeldOut
from mbrec.run import Run
from mbrec.significance import Paired, holm, paired
from mbrec.verdict import Row, behavior_sentence, overall_sentence


@dataclass(frozen=True)
class Comparison:
    """Two runs compared by one metric on one split."""

    a: Run
    b: Run
    metric: str
    split: HeldOut
    rows: dict[str, Row]
    missing: tuple[str, ...]
    """Behaviors without held-out rows, or of one run alone."""

    def summary(self) -> dict[str, Any]:
        """Everything, for JSON; differences are A - B."""
        behaviors = {
            behavior: {
                **row.paired.as_dict(),
                "p_wilcoxon_holm": row.p_wilcoxon,
                "p_t_holm": row.p_t,
                "verdict": row.verdict,
                "sentence": behavior_sentence(behavior, row, self.metric),
            }
            for behavior, row in self.rows.items()
        }
        mean_a, mean_b = (
            float(np.mean([getattr(row.paired, name) for row in self.rows.values()]))
            for name in ("mean_a", "mean_b")
        )
        return {
            "metric": self.metric,
            "split": self.split,
            "a": _origin(self.a),
            "b": _origin(self.b),
            "behaviors": behaviors,
            "macro": {"mean_a": mean_a, "mean_b": mean_b, "difference": mean_a - mean_b},
            "missing": list(self.missing),
            "sentence": overall_sentence(self.rows),
        }


def compare_runs(
    a: Path | str, b: Path | str, *, metric: str = "ndcg@5", split: HeldOut = "test", seed: int = 0
) -> Comparison:
    """Compare two evaluated runs, per behavior and paired on users.

    Args:
        a: A run's folder, with `per_user.<split>.parquet` of `mbrec evaluate`.
        b: Another, on the same dataset.
        metric: "<metric>@<K>", as `evaluate` names it.
        split: "valid" or "test".
        seed: Of the bootstrap.

    Raises:
        UsageError: No such metric.
        ArtefactError: A run or its figures are missing or out of date, lack the metric, or the
            runs are on different datasets or users.
        DataError: No behavior has held-out rows.
    """
    metric = check_metric(metric)
    runs = (Run(a), Run(b))
    if runs[0].dataset_hash != runs[1].dataset_hash:
        first, second = (run.dataset_hash[:12] for run in runs)
        raise ArtefactError(
            f"{a} and {b} are on different datasets (content hash {first} and {second}).",
            "Only runs on the same dataset can be compared: train one of them again.",
        )
    tables = [_figures(run, metric, split, other) for run, other in (runs, runs[::-1])]
    pairs: dict[str, Paired] = {}
    for behavior in (name for name in runs[0].behaviors if name in runs[1].behaviors):
        values = _paired_values(runs, tables, behavior, metric, split)
        if len(values[0]):
            pairs[behavior] = paired(*values, seed=seed)
    if not pairs:
        raise DataError(f"Neither run has {split} figures of any user.", "Use the other --split.")
    wilcoxon = holm([pair.p_wilcoxon for pair in pairs.values()])
    t = holm([pair.p_t for pair in pairs.values()])
    rows = {
        behavior: Row(pair, *corrected)
        for (behavior, pair), *corrected in zip(pairs.items(), wilcoxon, t, strict=True)
    }
    either = dict.fromkeys(name for run in runs for name in run.behaviors)
    missing = tuple(name for name in either if name not in rows)
    return Comparison(*runs, metric, split, rows, missing)


def check_metric(text: str) -> str:
    """The name of a metric as the files have it.

    Raises:
        UsageError: There is no such metric.
    """
    name, _, length = text.lower().partition("@")
    if name not in METRICS:
        close = difflib.get_close_matches(name, METRICS, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(METRICS)}."
        raise UsageError(f"There is no metric {name!r}. {hint}")
    if not (length.isascii() and length.isdigit() and int(length) > 0):
        raise UsageError(f"{text!r} has no list length.", f"Write it as {name}@5.")
    return f"{name}@{int(length)}"


def _figures(run: Run, metric: str, split: HeldOut, other: Run) -> pa.Table:
    """user_id, behavior and metric of every user of a run, checked to be of this run as it is."""
    path = inside(run.path, PER_USER.format(split=split))
    evaluate = f"mbrec evaluate {shlex.quote(str(run.path))} --split {split}"
    again = f"Run `{evaluate}` first."
    if not path.is_file():
        elsewhere: HeldOut = "valid" if split == "test" else "test"
        if all((r.path / PER_USER.format(split=elsewhere)).is_file() for r in (run, other)):
            again = f"Both runs have {elsewhere} figures: add --split {elsewhere}."
        raise ArtefactError(f"{run.path} has no figures of single users ({path.name}).", again)
    try:
        schema = pq.read_schema(path)
        source = json.loads((schema.metadata or {}).get(SOURCE, b"null"))
        if source != run.source:
            raise ArtefactError(f"{path} was written before {run.path} was last trained.", again)
        if metric not in schema.names:
            there = [name for name in schema.names if "@" in name]
            raise ArtefactError(
                f"{path} has no {metric} (it has {', '.join(there)}).",
                f"Run `{evaluate} --k {_lengths(there, metric)}`.",
            )
        table = read_columns(path, [USER_ID, BEHAVIOR, metric])
        if any(column.null_count for column in table.columns):
            raise ValueError("it has empty cells")
        return table
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArtefactError(f"{path} is damaged: {error}.", again) from error


def _paired_values(
    runs: tuple[Run, Run], tables: Sequence[pa.Table], behavior: str, metric: str, split: str
) -> tuple[FloatArray, FloatArray]:
    """The metric of both runs for the same users in the same order, each (N,).

    Raises:
        ArtefactError: The runs were measured on different users.
    """
    first, second = (table.filter(pc.equal(table[BEHAVIOR], behavior)) for table in tables)
    if not first[USER_ID].equals(second[USER_ID]):
        only = [
            pc.sum(pc.invert(pc.is_in(x[USER_ID], y[USER_ID]))).as_py() or 0
            for x, y in ((first, second), (second, first))
        ]
        raise ArtefactError(
            f"The {split} figures of {behavior!r} are of different users: {only[0]} only in "
            f"{runs[0].path}, {only[1]} only in {runs[1].path}.",
            "Evaluate both runs again.",
        )
    return first[metric].to_numpy(), second[metric].to_numpy()


def _lengths(names: Sequence[str], metric: str) -> str:
    """The list lengths of some metrics and of one more, as --k takes them."""
    lengths = {int(name.partition("@")[2]) for name in [*names, metric]}
    return ",".join(map(str, sorted(lengths)))


def _origin(run: Run) -> dict[str, Any]:
    return {"path": str(run.path), "model": run.model, "seed": run.info.get("seed")}
