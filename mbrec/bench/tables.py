"""From the results of all runs to what a table shows: averages over seeds, ranks, gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.bench.results import MACRO
from mbrec.bench.spec import BenchSpec
from mbrec.bench.store import Store
from mbrec.columns import BEHAVIOR, USER_IDX
from mbrec.errors import ArtefactError
from mbrec.metrics import FloatArray
from mbrec.significance import ALPHA, Paired, holm, paired

Column = tuple[str, str]  # metric, behavior


@dataclass(frozen=True)
class Stat:
    """A metric over the seeds."""

    mean: float
    deviation: float | None  # of a sample; None for a single run
    runs: int


@dataclass(frozen=True)
class Gain:
    """What one of ours wins over the best of the others, in one column."""

    ours: str
    other: str
    relative: float | None  # of the means over seeds; None over a 0
    paired: Paired | None = None  # on users, each averaged over seeds; None for the macro average
    p_wilcoxon: float | None = None  # Holm-corrected over the behaviors
    p_t: float | None = None

    @property
    def significant(self) -> bool | None:
        """Whether both tests reject that there is no difference; None if none was made."""
        if self.p_wilcoxon is None or self.p_t is None:
            return None
        return self.p_wilcoxon < ALPHA and self.p_t < ALPHA


class Sheet:
    """Everything that is shown of one dataset.

    Args:
        rows: The results of the dataset.
        spec: The bench.
        store: Where the values per user are.
    """

    def __init__(self, rows: pd.DataFrame, spec: BenchSpec, store: Store) -> None:
        self.name = str(rows["dataset"].iloc[0])
        self.content_hash = str(rows["dataset_hash"].iloc[0])
        self.rows, self.metrics, self._store = rows, spec.metrics, store
        self.labels = list(dict.fromkeys(rows["label"]))
        self.ours = [label for label in spec.ours if label in self.labels]
        self.finals = rows[(rows["phase"] == "final") & (rows["reported"] == True)]  # noqa: E712
        self.split = str(self.finals["split"].iloc[0]) if len(self.finals) else spec.report
        self.behaviors = [b for b in dict.fromkeys(self.finals[BEHAVIOR]) if b != MACRO]
        self.stats = {
            (metric, behavior): self._column(metric, behavior)
            for metric in self.metrics
            for behavior in (*self.behaviors, MACRO)
        }
        self.gains = {(ours, metric): self._gains(ours, metric) for ours, metric in self._wanted()}

    def users(self, behavior: str) -> int:
        """How many users a behavior is averaged over."""
        return int(self.finals.loc[self.finals[BEHAVIOR] == behavior, "users"].max())

    def ranks(self, column: Column) -> dict[str, int]:
        """Row → its place in a column, 1 the best; equal means share one."""
        means = {label: stat.mean for label, stat in self.stats[column].items()}
        places = {mean: place for place, mean in enumerate(sorted(set(means.values()))[::-1], 1)}
        return {label: places[mean] for label, mean in means.items()}

    def _column(self, metric: str, behavior: str) -> dict[str, Stat]:
        some = (self.finals["metric"] == metric) & (self.finals[BEHAVIOR] == behavior)
        found = {}
        for label, values in self.finals[some].groupby("label", sort=False)["value"]:
            known = values.dropna()
            if len(known):
                deviation = float(known.std(ddof=1)) if len(known) > 1 else None
                found[str(label)] = Stat(float(known.mean()), deviation, len(known))
        return found

    def _wanted(self) -> Iterator[tuple[str, str]]:
        return ((ours, metric) for ours in self.ours for metric in self.metrics)

    def _gains(self, ours: str, metric: str) -> dict[str, Gain]:
        """Behavior → the gain there, for the behaviors in which both sides have runs."""
        found: dict[str, Gain] = {}
        pairs: dict[str, Paired] = {}
        for behavior in (*self.behaviors, MACRO):
            stats = self.stats[metric, behavior]
            others = {row: s.mean for row, s in stats.items() if row not in self.ours}
            if ours not in stats or not others:
                continue
            other = max(others, key=lambda row: others[row])
            mean, base = stats[ours].mean, others[other]
            found[behavior] = Gain(ours, other, (mean - base) / base if base else None)
            if behavior != MACRO:
                values = [self._per_user(row, metric, behavior) for row in (ours, other)]
                if values[0] is not None and values[1] is not None:
                    pairs[behavior] = paired(values[0], values[1])
        wilcoxon = holm([pair.p_wilcoxon for pair in pairs.values()])
        t = holm([pair.p_t for pair in pairs.values()])
        for number, (behavior, pair) in enumerate(pairs.items()):
            gain = found[behavior]
            found[behavior] = Gain(
                ours, gain.other, gain.relative, pair, wilcoxon[number], t[number]
            )
        return found

    def _per_user(self, label: str, metric: str, behavior: str) -> FloatArray | None:
        """The metric per user, averaged over seeds, (N,), users ascending."""
        some = (self.finals["label"] == label) & (self.finals[BEHAVIOR] == behavior)
        runs = self.finals.loc[some & (self.finals["metric"] == metric), "run"].dropna()
        total: FloatArray | None = None
        for key in runs:
            values = _read_users(self._store, str(key), metric, behavior)
            if values is None:
                return None
            total = values if total is None else total + values
        return None if total is None else total / len(runs)


def read_sheets(spec: BenchSpec, store: Store) -> list[Sheet]:
    """What there is to show, one sheet per dataset.

    Raises:
        ArtefactError: There are no results.
    """
    if not store.results.is_file():
        raise ArtefactError(f"{store.path} has no results yet.", "Run the bench first.")
    # Not as pandas' own strings, and not split by its categories: plain objects, None where empty.
    frame = pq.read_table(store.results).to_pandas()
    groups = frame.groupby("dataset", sort=False)
    return [Sheet(rows, spec, store) for _, rows in groups]


def csv_rows(sheets: Sequence[Sheet]) -> list[dict[str, Any]]:
    """One row per dataset, metric, behavior and row of the table; gains beside ours."""
    rows = []
    for sheet in sheets:
        for column, stats in sheet.stats.items():
            metric, behavior = column
            ranks = sheet.ranks(column)
            for label, stat in stats.items():
                gain = sheet.gains.get((label, metric), {}).get(behavior)
                rows.append(
                    {
                        "dataset": sheet.name,
                        "split": sheet.split,
                        "label": label,
                        "metric": metric,
                        "behavior": behavior,
                        "mean": stat.mean,
                        "deviation": stat.deviation,
                        "runs": stat.runs,
                        "rank": ranks[label],
                        **_gain_columns(gain),
                    }
                )
    return rows


def _gain_columns(gain: Gain | None) -> dict[str, Any]:
    pair = gain.paired if gain else None
    return {
        "best_other": gain.other if gain else None,
        "gain": gain.relative if gain else None,
        "difference": pair.difference if pair else None,
        "low": pair.low if pair else None,
        "high": pair.high if pair else None,
        "p_wilcoxon": gain.p_wilcoxon if gain else None,
        "p_t": gain.p_t if gain else None,
        "significant": gain.significant if gain else None,
    }


def _read_users(store: Store, key: str, metric: str, behavior: str) -> FloatArray | None:
    path = store.users(key)
    if not path.is_file():
        return None
    try:
        names = pq.read_schema(path).names
        if metric not in names:
            return None  # the run was made when another metric was wanted per user
        table = pq.read_table(path, columns=[USER_IDX, metric], filters=[(BEHAVIOR, "=", behavior)])
    except (OSError, pa.ArrowException) as error:
        cell = store.path / "cells" / f"{key}.json"
        raise ArtefactError(
            f"{path} is damaged: {error}.", f"Delete it and {cell}: the run is made again."
        ) from error
    order = np.argsort(table[USER_IDX].to_numpy(), kind="stable")
    values: FloatArray = table[metric].to_numpy()[order]
    return values
