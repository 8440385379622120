"""Reading every file into one table of typed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow.parquet as pq

from mbrec.data_prep.cleaning import fields_of_lines, fields_of_parquet, typed
from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.layout import Layout
from mbrec.data_prep.lines import LineReader
from mbrec.files import sha256

_EVENTS = "events"


def read_files(
    engine: DuckEngine,
    layouts: Sequence[Layout],
    names: Sequence[str],
    tell: Callable[[Path, int], None],
) -> tuple[list[dict[str, Any]], ir.Table]:
    """Read all files, each once.

    Args:
        engine: Where the rows go.
        layouts: The files.
        names: Name of every behavior code number.
        tell: Called now and then with a file and its rows so far.

    Returns:
        An entry per file for the manifest (file, bytes, sha256, rows), and the rows as
        `mbrec.data_prep.cleaning.typed` makes them.

    Raises:
        DataError: A file cannot be read.
    """
    entries = []
    for number, layout in enumerate(layouts):
        read = _read_parquet if layout.parquet else _read_text
        rows = read(engine, layout, names, number, tell)
        path = layout.path
        size, digest = path.stat().st_size, sha256(path)
        entries.append({"file": str(path), "bytes": size, "sha256": digest, "rows": rows})
    return entries, engine.table(_EVENTS)


def _read_text(
    engine: DuckEngine,
    layout: Layout,
    names: Sequence[str],
    number: int,
    tell: Callable[[Path, int], None],
) -> int:
    reader = LineReader(layout, tell)
    with engine.lines(reader) as lines:
        engine.append(_EVENTS, typed(fields_of_lines(lines, layout), layout, names, number))
    return reader.rows


def _read_parquet(
    engine: DuckEngine,
    layout: Layout,
    names: Sequence[str],
    number: int,
    tell: Callable[[Path, int], None],
) -> int:
    fields = fields_of_parquet(engine.parquet(layout.path), layout)
    engine.append(_EVENTS, typed(fields, layout, names, number))
    rows: int = pq.read_metadata(layout.path).num_rows
    tell(layout.path, rows)
    return rows
