"""Reading a log for a run that exists: its rows as they are, without filters, split or index."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mbrec.columns import BEHAVIOR, ITEM_ID, TIMESTAMP, USER_ID
from mbrec.data_prep.reading import read_files
from mbrec.data_prep.rejects import Rejects
from mbrec.data_prep.sources.csv import Mapping, describe
from mbrec.dataset import REJECTS
from mbrec.errors import DataError


@dataclass(frozen=True)
class Events:
    """The distinct events of a log."""

    table: pa.Table
    """user_id, item_id, behavior as text, each once, and the last timestamp (null: unknown)."""
    rows: int  # of the log
    rejected: dict[str, int]  # reason → rows that were not used


def read_events(path: Path, behaviors: Sequence[str]) -> Events:
    """Read a CSV, TSV or Parquet log with the columns of the source `csv`.

    Args:
        path: Has the columns user_id, item_id, behavior and, if it likes, timestamp.
        behaviors: Rows of others are rejected as of an unknown behavior.

    Raises:
        DataError: The log cannot be read, lacks a column, or has no usable row.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.", "Check the path of the log.")
    log = describe([path], Mapping(), behaviors)
    tables, entry = [], {"rows": 0}
    with (
        tempfile.TemporaryDirectory(prefix="mbrec-") as name,
        Rejects(log.layouts, Path(name) / REJECTS) as rejects,
    ):
        for found in read_files(log.layouts, behaviors, lambda path, rows: None, rejects):
            if isinstance(found, dict):
                entry = found
            else:
                tables.append(_distinct(_as_texts(found, behaviors)))
    table = _distinct(pa.concat_tables(tables)) if tables else pa.table({})
    rejected = dict(sorted(rejects.reasons.items()))
    if not len(table):
        why = "; ".join(f"{rows} × {reason}" for reason, rows in rejected.items()) or "it is empty"
        raise DataError(
            f"{path} has no row to use: {why}.",
            f"It needs the columns user_id, item_id and behavior ({', '.join(behaviors)}).",
        )
    return Events(table, int(entry["rows"]), rejected)


def _as_texts(rows: pa.Table, behaviors: Sequence[str]) -> pa.Table:
    names = pa.array(behaviors, pa.string())
    columns = {column: rows[column].cast(pa.string()) for column in (USER_ID, ITEM_ID)}
    columns[BEHAVIOR] = names.take(rows[BEHAVIOR].combine_chunks())
    return pa.table({**columns, TIMESTAMP: rows[TIMESTAMP].cast(pa.int64())})


def _distinct(table: pa.Table) -> pa.Table:
    keys = [USER_ID, ITEM_ID, BEHAVIOR]
    found = table.group_by(keys).aggregate([(TIMESTAMP, "max")])
    return found.select([*keys, f"{TIMESTAMP}_max"]).rename_columns([*keys, TIMESTAMP])
