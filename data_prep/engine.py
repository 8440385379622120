"""The embedded engine: DuckDB, driven by Ibis expressions, out of core within a memory limit.

Everything after the raw rows is an Ibis expression; only what stands here is DuckDB's own. Ibis
serves as the compiler alone: expressions are made over unbound tables and run here as SQL, since
its connection to DuckDB breaks with releases of either (its `.cache()` and `list_tables()` do).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.data_prep.lines import SCHEMA as LINES_SCHEMA
from mbrec.data_prep.lines import LineReader
from mbrec.errors import DataError, MbrecError

# DuckDB's limit covers its buffers, not the process around it: Arrow blocks, Python, allocator.
_SHARE = 0.7
_SMALLEST = 64 << 20


class DuckEngine:
    """One DuckDB database in a folder of its own, which also takes what spills.

    Use as a context manager; the caller removes the folder.

    Args:
        folder: An existing folder on a disk with room for about twice the unpacked log.
        memory_limit: Bytes the whole process should stay within; None: 70 % of the machine's.
    """

    def __init__(self, folder: Path, memory_limit: int | None = None) -> None:
        settings: dict[str, Any] = {
            "temp_directory": str(folder / "spill"),
            # Line numbers travel with the rows, so that their order need not be kept.
            "preserve_insertion_order": False,
            # By default it fetches an extension from the network when a query seems to want one.
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
        }
        if memory_limit is not None:
            limit = max(int(memory_limit * _SHARE), _SMALLEST)
            settings["memory_limit"] = f"{limit >> 20}MiB"
        self._thread = futures.ThreadPoolExecutor(1)
        self._stopped = False
        self._duck = duckdb.connect(str(folder / "prep.duckdb"), config=settings)
        self._run("SET TimeZone = 'UTC'")  # else instants are shown in the machine's own
        self._numbers = itertools.count()
        self._appended: dict[str, ir.Table] = {}

    def __enter__(self) -> DuckEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        self._duck.close()

    @contextlib.contextmanager
    def lines(self, reader: LineReader) -> Iterator[ir.Table]:
        """The lines of a text file as a table that can be read once, within the block.

        Raises:
            DataError: Reading fails in a way that `LineReader.batches` raises.
        """
        failure: list[BaseException] = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                for batch in reader.batches():
                    if self._stopped:
                        return
                    yield batch
            except BaseException as error:  # DuckDB would hand on no more than its text
                failure.append(error)
                raise

        self._duck.register("lines", pa.RecordBatchReader.from_batches(LINES_SCHEMA, batches()))
        try:
            yield ibis.table(ibis.Schema.from_pyarrow(LINES_SCHEMA), name="lines")
        except Exception:
            if failure:
                raise failure[0] from None
            raise
        self._duck.unregister("lines")

    def parquet(self, path: Path) -> ir.Table:
        """A Parquet file as a table, with its rows numbered from 0 in `file_row_number`."""
        name = f"parquet_{next(self._numbers)}"
        columns = dict(ibis.Schema.from_pyarrow(pq.read_schema(path)))
        source = f"read_parquet({_quoted(path)}, file_row_number = true)"
        self._run(f"CREATE VIEW {name} AS SELECT * FROM {source}")
        return ibis.table(columns | {"file_row_number": "int64"}, name=name)

    def store(self, table: ir.Table) -> ir.Table:
        """Compute `table` into a new table on disk."""
        name = f"stored_{next(self._numbers)}"
        self._run(f"CREATE TABLE {name} AS {_sql(table)}")
        return ibis.table(table.schema(), name=name)

    def append(self, name: str, table: ir.Table) -> ir.Table:
        """Compute `table` into `name`: a new table, or rows more in an existing one."""
        if name in self._appended:
            self._run(f"INSERT INTO {name} {_sql(table)}")
        else:
            self._run(f"CREATE TABLE {name} AS {_sql(table)}")
            self._appended[name] = ibis.table(table.schema(), name=name)
        return self._appended[name]

    def table(self, name: str) -> ir.Table:
        """A table that `append` made."""
        return self._appended[name]

    def drop(self, *tables: ir.Table) -> None:
        """Remove tables; the space they took is used again."""
        for table in tables:
            self._run(f"DROP TABLE {table.get_name()}")

    def fetch(self, table: ir.Table) -> list[dict[str, Any]]:
        """Compute a small table and give its rows."""
        rows = self._run(_sql(table))
        return [dict(zip(table.columns, row, strict=True)) for row in rows]

    def write(self, table: ir.Table, path: Path) -> None:
        """Compute `table` into a Parquet file, in its order, without holding it in memory."""
        self._run(f"COPY ({_sql(table)}) TO {_quoted(path)} (FORMAT parquet, COMPRESSION zstd)")

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement in a thread of its own.

        DuckDB looks for Ctrl-C between its tasks only, and reading a log is one long task.
        """
        running = self._thread.submit(lambda: self._duck.execute(sql).fetchall())
        try:
            with _readable_errors():
                rows: list[tuple[Any, ...]] = running.result()
        except BaseException:
            if not running.done():
                self._stopped = True
                self._duck.interrupt()
                futures.wait([running])
            raise
        return rows


def _sql(table: ir.Table) -> str:
    return str(ibis.to_sql(table, dialect="duckdb", pretty=False))


def _quoted(path: Path) -> str:
    name = str(path).replace("'", "''")
    return f"'{name}'"


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """Turn the engine's own failures into errors with a remedy."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise MbrecError(
            f"The log does not fit into the memory limit ({_first_line(error)}).",
            "Raise --memory-limit, or free space on the disk of --out.",
        ) from error
    except duckdb.IOException as error:
        raise DataError(
            f"Reading or writing failed: {_first_line(error)}", "Is the disk of --out full?"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
