"""Reading every file into sound rows and malformed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc

from mbrec.columns import BEHAVIOR, ITEM_ID, SPLIT, TIMESTAMP, USER_ID
from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.layout import Layout
from mbrec.data_prep.parsing import Parser, Tell
from mbrec.data_prep.rejects import Rejects, malformed
from mbrec.files import sha256

_EVENTS = "events"
_AT_ONCE = 1 << 20  # rows that are put into a table at a time


def read_files(
    layouts: Sequence[Layout], names: Sequence[str], tell: Tell, rejects: Rejects
) -> Iterator[pa.Table | dict[str, Any]]:
    """Read all files, each once.

    Args:
        layouts: The files.
        names: Name of every behavior code number.
        tell: Called now and then with a file and its rows so far.
        rejects: Takes the malformed rows.

    Yields:
        Sound rows as `mbrec.data_prep.cleaning.typed` makes them, and after those of each file
        an entry for the manifest (file, bytes, sha256, rows).

    Raises:
        DataError: A file cannot be read.
    """
    with futures.ThreadPoolExecutor(1) as pool:
        for number, layout in enumerate(layouts):
            digest = pool.submit(sha256, layout.path)
            with Parser(layout, names, number) as parser:
                for table in parser.tables(tell):
                    sound, bad = malformed(table)
                    rejects.add(bad)
                    yield sound
            yield entry_of(layout.path, parser.rows, digest.result())


def entry_of(path: Path, rows: int, digest: str) -> dict[str, Any]:
    """What the manifest says of an input."""
    return {"file": str(path), "bytes": path.stat().st_size, "sha256": digest, "rows": rows}


class Sink:
    """Takes the sound rows: into memory, and from there into a table when they become too many.

    Args:
        engine: Has the table.
        limit: Bytes of rows that may stay in memory.

    Attributes:
        rows: Rows taken so far.
        tables: What is in memory.
    """

    def __init__(self, engine: DuckEngine, limit: int) -> None:
        self.rows = 0
        self.tables: list[pa.Table] = []
        self._engine = engine
        self._limit = limit
        self._table: ir.Table | None = None
        self._waiting = 0
        self._bytes = 0

    def add(self, table: pa.Table) -> None:
        """Take rows."""
        self.rows += len(table)
        self._waiting += len(table)
        self.tables.append(compact(table))
        self._bytes += self.tables[-1].nbytes
        if self._bytes > self._limit and (self._table is None or self._waiting >= _AT_ONCE):
            self._flush()

    def events(self) -> ir.Table | None:
        """All rows as a table on disk; None if they are in memory."""
        if self._table is not None and self.tables:
            self._flush()
        return self._table

    def _flush(self) -> None:
        for start in range(0, len(self.tables), 4):
            rows = pa.concat_tables(map(_plain, self.tables[start : start + 4]))
            self._table = self._engine.insert(_EVENTS, rows)
        self.tables.clear()
        self._waiting, self._bytes = 0, self._limit


def compact(table: pa.Table) -> pa.Table:
    """The columns of an event: texts as dictionaries, small numbers in 32 bits (behaviors: 8)."""
    columns = {}
    for name in (USER_ID, ITEM_ID, BEHAVIOR, TIMESTAMP, SPLIT):
        column = table[name]
        if name == BEHAVIOR:
            columns[name] = _narrow(column, pa.int8())
        elif pa.types.is_int64(column.type):
            columns[name] = _narrow(column, pa.int32())
        elif pa.types.is_string(column.type):
            columns[name] = column.dictionary_encode()
        else:
            columns[name] = column
    return pa.table(columns)


def _narrow(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    bounds, limit = pc.min_max(column).as_py(), 1 << (kind.bit_width - 1)
    if bounds["min"] is None or -limit < bounds["min"] <= bounds["max"] < limit:
        return column.cast(kind)
    return column


def _plain(table: pa.Table) -> pa.Table:
    """`compact` undone."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            columns[name] = column.cast(pa.string())
        elif name == BEHAVIOR:
            columns[name] = column.cast(pa.int16())
        else:
            columns[name] = column.cast(pa.int64()) if column.type == pa.int32() else column
    return pa.table(columns)
