"""Reading a log for a run that exists: its rows as they are, without filters, split or index."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.columns import BEHAVIOR, ITEM_ID, USER_ID
from mbrec.data_prep.cleaning import REASON
from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.reading import read_files
from mbrec.data_prep.sources.csv import Mapping, describe
from mbrec.errors import DataError


@dataclass(frozen=True)
class Events:
    """The distinct events of a log."""

    table: pa.Table  # user_id, item_id, behavior as text; each row once
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
    with tempfile.TemporaryDirectory(prefix="mbrec-") as name:
        folder = Path(name)
        with DuckEngine(folder) as engine:
            [entry], events = read_files(engine, log.layouts, behaviors, lambda path, rows: None)
            bad = events.filter(events[REASON].notnull())
            reasons = engine.fetch(bad.group_by(REASON).agg(rows=bad.count()).order_by(REASON))
            good = events.filter(events[REASON].isnull())
            names = dict(enumerate(behaviors))
            texts = good.select(
                **{column: good[column].cast("string") for column in (USER_ID, ITEM_ID)},
                **{BEHAVIOR: good[BEHAVIOR].cases(*names.items(), else_=ibis.null("string"))},
            )
            engine.write(texts.distinct(), folder / "events.parquet")
        table = pq.read_table(folder / "events.parquet", memory_map=False)
    rejected = {str(row[REASON]): int(row["rows"]) for row in reasons}
    if not len(table):
        why = "; ".join(f"{rows} × {reason}" for reason, rows in rejected.items()) or "it is empty"
        raise DataError(
            f"{path} has no row to use: {why}.",
            f"It needs the columns user_id, item_id and behavior ({', '.join(behaviors)}).",
        )
    return Events(table, int(entry["rows"]), rejected)
