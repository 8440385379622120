"""Writing a table piece by piece as Parquet, CSV or JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from mbrec.errors import UsageError

Write = Callable[[pa.Table], None]
OpenWriter = Callable[[Path, pa.Schema], AbstractContextManager[Write]]


def table_writer(path: Path) -> OpenWriter:
    """What writes tables in the format that the suffix of `path` names.

    Returns:
        A function of a path (with the same last suffix) and a schema; it gives a context in which
        tables are written one after the other.

    Raises:
        UsageError: Another suffix.
    """
    suffixes = path.name.lower().removesuffix(".gz").rsplit(".", 1)
    format_ = suffixes[-1] if len(suffixes) > 1 else ""
    compressed = path.name.lower().endswith(".gz")
    if format_ not in _WRITERS or (compressed and format_ == "parquet"):
        raise UsageError(
            f"The suffix of {path} names no format.",
            "Use .parquet, .csv or .jsonl (.csv.gz and .jsonl.gz too).",
        )
    return _WRITERS[format_]


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(path, schema) as writer:
        yield writer.write_table


@contextmanager
def _csv(path: Path, schema: pa.Schema) -> Iterator[Write]:
    # The header is written here: older releases of Arrow put it in quotes whatever the style.
    options = pacsv.WriteOptions(include_header=False, quoting_style="needed")
    with pa.output_stream(path) as stream:
        stream.write(f"{','.join(schema.names)}\n".encode())
        with pacsv.CSVWriter(stream, schema, write_options=options) as writer:
            yield writer.write_table


@contextmanager
def _jsonl(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pa.output_stream(path) as stream:

        def write(table: pa.Table) -> None:
            lines = table.to_pandas().to_json(orient="records", lines=True, force_ascii=False)
            stream.write(lines.encode())

        yield write


_WRITERS: dict[str, OpenWriter] = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
