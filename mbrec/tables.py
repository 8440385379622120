"""Writing a table piece by piece as Parquet, CSV or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from mbrec.errors import UsageError

# What a spreadsheet may take for a formula, or for the end of a cell that a formula then follows;
# and what `_as_text` puts in front of such cells.
_RISKY = r"^\s*['=+\-@＝＋－＠]|^[\t\r\n]"

Write = Callable[[pa.Table], None]
OpenWriter = Callable[[Path, pa.Schema], AbstractContextManager[Write]]


def table_writer(path: Path, *, spreadsheet: bool = False) -> OpenWriter:
    """What writes tables in the format that the suffix of `path` names.

    Args:
        path: Names the format.
        spreadsheet: Write CSV that a spreadsheet does not run: every cell is quoted, and texts that
            begin with =, +, -, @ or white space and one of them, with a tab, a line break or an
            apostrophe have an apostrophe put in front. Taking one leading apostrophe away gives
            every text back.

    Returns:
        A function of a path (with the same last suffix) and a schema; it gives a context in which
        tables are written one after the other.

    Raises:
        UsageError: Another suffix, or `spreadsheet` and no CSV.
    """
    suffixes = path.name.lower().removesuffix(".gz").rsplit(".", 1)
    format_ = suffixes[-1] if len(suffixes) > 1 else ""
    compressed = path.name.lower().endswith(".gz")
    if format_ not in _WRITERS or (compressed and format_ == "parquet"):
        raise UsageError(
            f"The suffix of {path} names no format.",
            "Use .parquet, .csv or .jsonl (.csv.gz and .jsonl.gz too).",
        )
    if spreadsheet and format_ != "csv":
        raise UsageError(
            f"{path} is no CSV file: a spreadsheet runs no formula in it.",
            "Leave --spreadsheet-safe out.",
        )
    return partial(_csv, spreadsheet=True) if spreadsheet else _WRITERS[format_]


def count_risky(texts: pa.Array) -> int:
    """How many texts a spreadsheet may take for formulas; none in a column of numbers."""
    if not pa.types.is_string(texts.type):
        return 0
    return pc.sum(pc.match_substring_regex(texts, _RISKY)).as_py() or 0


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(path, schema) as writer:
        yield writer.write_table


@contextmanager
def _csv(path: Path, schema: pa.Schema, spreadsheet: bool = False) -> Iterator[Write]:
    # The header is written here: older releases of Arrow put it in quotes whatever the style.
    quotes = "all_valid" if spreadsheet else "needed"
    options = pacsv.WriteOptions(include_header=False, quoting_style=quotes)
    with pa.output_stream(path) as stream:
        stream.write(f"{','.join(schema.names)}\n".encode())
        with pacsv.CSVWriter(stream, schema, write_options=options) as writer:
            if spreadsheet:
                yield lambda table: writer.write_table(_as_text(table))
            else:
                yield writer.write_table


def _as_text(table: pa.Table) -> pa.Table:
    """Put an apostrophe in front of what may be taken for a formula."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = table.column(place)
            risky = pc.match_substring_regex(texts, _RISKY)
            marked = pc.binary_join_element_wise("'", texts, "")
            table = table.set_column(place, field, pc.if_else(risky, marked, texts))
    return table


@contextmanager
def _jsonl(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pa.output_stream(path) as stream:

        def write(table: pa.Table) -> None:
            stream.write("".join(_json_lines(table).to_pylist()).encode())

        yield write


def _json_lines(table: pa.Table) -> pa.ChunkedArray:
    """Every row as a JSON object and the end of its line."""
    pieces: list[Any] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        pieces += [
            f"{',' if pieces else '{'}{json.dumps(name, ensure_ascii=False)}:",
            _json(column),
        ]
    return pc.binary_join_element_wise(
        *pieces, "}\n", "", null_handling="replace", null_replacement="null"
    )


def _json(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a column as JSON: numbers with the fewest digits that give them back."""
    if not pa.types.is_string(column.type):
        return pc.cast(column, pa.string())
    # Most texts stand in many rows.
    codes = column.combine_chunks().dictionary_encode()
    texts = [json.dumps(text, ensure_ascii=False) for text in codes.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string()).take(codes.indices)])


_WRITERS: dict[str, OpenWriter] = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
