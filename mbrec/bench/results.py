"""The tidy table of all runs: one row per run, split, behavior and metric.

A failed run has one row, with its error. Whoever wants another table than ours starts here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.bench.plan import Cell, Lane
from mbrec.bench.schedule import Schedule
from mbrec.bench.store import Record
from mbrec.columns import BEHAVIOR
from mbrec.files import atomic_path

MACRO = "macro"

_COLUMNS = [
    ("dataset", pa.string()),
    ("dataset_hash", pa.string()),
    ("label", pa.string()),  # the row of the table
    ("method", pa.string()),
    ("alone", pa.string()),  # the one behavior that was trained on, of rows with each = "behavior"
    ("phase", pa.string()),  # trial or final
    ("trial", pa.int32()),  # number of the candidate, 0 are the defaults
    ("candidates", pa.int32()),
    ("chosen", pa.bool_()),  # whether validation chose this candidate
    ("seed", pa.int64()),
    ("run", pa.string()),  # key of the cell
    ("status", pa.string()),  # finished or failed
    ("error", pa.string()),
    ("point", pa.string()),  # JSON: what the candidate changes
    ("settings", pa.string()),  # JSON: every setting
    ("split", pa.string()),
    ("reported", pa.bool_()),  # whether the tables are measured on this split
    (BEHAVIOR, pa.string()),
    ("metric", pa.string()),
    ("value", pa.float64()),
    ("users", pa.int64()),
    ("epochs", pa.int32()),
    ("best_epoch", pa.int32()),
    ("seconds", pa.float64()),  # of training steps
    ("wall_seconds", pa.float64()),  # of the whole cell
    ("ended_by", pa.string()),
    ("order", pa.string()),  # the cascade that was trained
    ("device", pa.string()),
]
SCHEMA = pa.schema(_COLUMNS)


def write_results(schedule: Schedule) -> None:
    """Write the results of all lanes of a schedule into the bench's folder."""
    rows = [row for lane in schedule.lanes for row in _lane_rows(schedule, lane)]
    rows += _joint_macros(rows, schedule.lanes)
    with atomic_path(schedule.store.results) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd")


def _lane_rows(schedule: Schedule, lane: Lane) -> Iterator[dict[str, Any]]:
    about = {
        "dataset": lane.dataset.name,
        "dataset_hash": lane.dataset.content_hash,
        "label": lane.label,
        "method": lane.method,
        "alone": lane.alone or None,
        "candidates": len(lane.points),
    }
    if lane.error:
        yield {**about, "phase": "final", "status": "failed", "error": lane.error}
        return
    best = schedule.best(lane)
    cells = [*lane.trials(), *(lane.finals(best) if best is not None else [])]
    for cell in cells:
        record = schedule.record(cell)
        if record is not None:
            yield from _cell_rows({**about, "chosen": cell.trial == best}, cell, record)


def _cell_rows(about: Mapping[str, Any], cell: Cell, record: Record) -> Iterator[dict[str, Any]]:
    names = ("status", "error", "epochs", "best_epoch", "seconds", "wall_seconds", "device")
    row = {
        **about,
        "phase": cell.phase,
        "trial": cell.trial,
        "seed": cell.seed,
        "run": cell.key,
        "point": json.dumps(cell.point),
        "settings": json.dumps(record["settings"]),
        **{name: record.get(name) for name in names},
        "ended_by": record.get("ended_by") or None,
        "order": ",".join(record["order"]) if "order" in record else None,
    }
    if record["status"] == "failed":
        yield row
        return
    for split in cell.splits:
        here = {**row, "split": split, "reported": split == cell.dataset.report}
        measured = record["measured"][split]
        for behavior, values in measured["behaviors"].items():
            yield from _values({**here, BEHAVIOR: behavior, "users": values["users"]}, values)
        if not about["alone"]:
            yield from _values({**here, BEHAVIOR: MACRO}, measured[MACRO])


def _values(row: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in values.items():
        if name != "users":
            yield {**row, "metric": name, "value": value}


def _joint_macros(rows: Sequence[Mapping[str, Any]], lanes: Sequence[Lane]) -> list[dict[str, Any]]:
    """The macro averages of rows whose behaviors were trained one by one, where all are there."""
    behaviors: dict[tuple[str, str], set[str]] = {}
    for lane in lanes:
        if lane.alone:
            behaviors.setdefault((lane.dataset.name, lane.label), set()).add(lane.alone)
    shared = ("dataset", "dataset_hash", "label", "method", "phase", "seed", "split")
    names = (*shared, "reported", "metric", "chosen", "status")
    parts: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        if row["alone"] and row["phase"] == "final" and row.get("value") is not None:
            key = tuple(row[name] for name in names)
            parts.setdefault(key, {})[row["alone"]] = row["value"]
    return [
        {
            **dict(zip(names, key, strict=True)),
            BEHAVIOR: MACRO,
            "value": sum(values.values()) / len(values),
        }
        for key, values in parts.items()
        if set(values) == behaviors[key[0], key[2]]
    ]
