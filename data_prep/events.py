"""Reading a log for a run that exists: its rows as they are, without filters, split or index.

It may be a log like the one that the run's dataset was prepared from, the shop's next day, or a
table with the columns that mbrec calls its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mbrec.columns import BEHAVIOR, ITEM_ID, TIMESTAMP, USER_ID
from mbrec.data_prep import sources
from mbrec.data_prep.layout import Log
from mbrec.data_prep.options import KEEP
from mbrec.data_prep.reading import read_files
from mbrec.data_prep.rejects import Rejects
from mbrec.data_prep.sources import csv
from mbrec.dataset import REJECTS
from mbrec.errors import DataError, MbrecError

OTHER = "a behavior that the run does not rank"


@dataclass(frozen=True)
class Events:
    """The distinct events of a log."""

    table: pa.Table
    """user_id, item_id, behavior as text, each once, and the timestamp that the dataset would keep
    (null: unknown)."""
    rows: int  # of the log
    rejected: dict[str, int]  # reason → rows that were not used


def read_events(
    path: Path, behaviors: Sequence[str], manifest: Mapping[str, Any] | None = None
) -> Events:
    """Read a log of one file.

    Args:
        path: A log like the one that `manifest` tells of; or CSV, TSV or Parquet with the columns
            user_id, item_id, behavior and, if it likes, timestamp.
        behaviors: Rows of others are counted and not used.
        manifest: Of a prepared dataset.

    Raises:
        DataError: The log cannot be read, is of neither kind, or has no usable row.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder.", "Give the file of a log.")
    if not path.is_file():
        raise DataError(f"There is no file {path}.", "Check the path of the log.")
    manifest = manifest or {}
    log = _described(path, behaviors, manifest)
    # The model has learned from the times that the dataset keeps; those of new users have to match.
    keep = manifest.get("options", {}).get("keep", KEEP)
    names = (*behaviors, *(name for name in log.known if name not in behaviors))
    tables, entry, others = [], {"rows": 0}, 0
    with (
        tempfile.TemporaryDirectory(prefix="mbrec-") as folder,
        Rejects(log.layouts, Path(folder) / REJECTS) as rejects,
    ):
        for found in read_files(log.layouts, names, lambda path, rows: None, rejects):
            if isinstance(found, dict):
                entry = found
                continue
            ranked = _ranked(found, len(behaviors))
            others += len(found) - len(ranked)
            tables.append(_distinct(_as_texts(ranked, behaviors), keep))
    table = _distinct(pa.concat_tables(tables), keep) if tables else pa.table({})
    unused = dict(sorted({**rejects.reasons, **({OTHER: others} if others else {})}.items()))
    if not len(table):
        why = "; ".join(f"{rows} × {reason}" for reason, rows in unused.items()) or "it is empty"
        raise DataError(
            f"{path} has no row to use: {why}.", f"It needs rows of {', '.join(behaviors)}."
        )
    return Events(table, int(entry["rows"]), unused)


def _described(path: Path, behaviors: Sequence[str], manifest: Mapping[str, Any]) -> Log:
    """The log as the dataset's was described, or by mbrec's own columns."""
    source, own = manifest.get("source"), csv.Mapping()
    kinds = [("csv", own)]
    if source == "csv":
        mapping = csv.make_mapping(manifest["options"]["mapping"])
        # Columns that are told by position are in every file: those with a name go first.
        kinds.insert(0 if mapping.header else 1, ("csv", mapping))
    elif source in ("ub", "jd") and path.suffix != ".parquet":
        kinds.insert(0, (source, own))
    problems = []
    for kind, mapping in kinds:
        try:
            return sources.describe(kind, [path], mapping, behaviors)
        except MbrecError as error:
            problems.append(error.message)
    raise DataError(
        " ".join(dict.fromkeys(problems)),
        "Give a log like that of the dataset, or name its columns user_id, item_id, behavior and, "
        "if there, timestamp.",
    )


def _ranked(rows: pa.Table, behaviors: int) -> pa.Table:
    """The rows of the first behaviors; below 0 are those that the dataset leaves out."""
    code = rows[BEHAVIOR]
    return rows.filter(pc.and_(pc.greater_equal(code, 0), pc.less(code, behaviors)))


def _as_texts(rows: pa.Table, behaviors: Sequence[str]) -> pa.Table:
    names = pa.array(behaviors, pa.string())
    columns = {column: rows[column].cast(pa.string()) for column in (USER_ID, ITEM_ID)}
    columns[BEHAVIOR] = names.take(rows[BEHAVIOR].combine_chunks())
    return pa.table({**columns, TIMESTAMP: rows[TIMESTAMP].cast(pa.int64())})


def _distinct(table: pa.Table, keep: str) -> pa.Table:
    """Every event once, with the first or last time that is known."""
    keys, pick = [USER_ID, ITEM_ID, BEHAVIOR], "max" if keep == "last" else "min"
    found = table.group_by(keys).aggregate([(TIMESTAMP, pick)])
    return found.select([*keys, f"{TIMESTAMP}_{pick}"]).rename_columns([*keys, TIMESTAMP])
