"""Engines for what does not fit into memory, and the one that is always there: DuckDB.

Everything after the typed rows is an Ibis expression; only what stands here is DuckDB's own. Ibis
serves as the compiler alone: expressions are made over unbound tables and run here as SQL, since
its connection to DuckDB breaks with releases of either (its `.cache()` and `list_tables()` do).
"""

from __future__ import annotations

import abc
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

from mbrec.errors import DataError, MbrecError

# DuckDB's limit covers its buffers, not the process around it: Arrow blocks, Python, allocator.
_SHARE = 0.7
_SMALLEST = 64 << 20
_BATCH = 1 << 18  # rows that are handed on at a time


class Engine(abc.ABC):
    """Runs Ibis expressions over tables that it stores on disk, as SQL."""

    _create: str
    """How the engine's `CREATE TABLE … AS` begins, with `{name}` for the table."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._appended: dict[str, ir.Table] = {}

    @abc.abstractmethod
    def ordered(self, table: ir.Table) -> Iterator[pa.Table]:
        """Compute a table that has an order, and give its rows in it, without holding them all.

        At least one table is given, which may be empty.
        """

    @abc.abstractmethod
    def fetch(self, table: ir.Table) -> list[dict[str, Any]]:
        """Compute a small table and give its rows."""

    @abc.abstractmethod
    def _sql(self, table: ir.Table) -> str:
        """The expression in the engine's own SQL."""

    @abc.abstractmethod
    def _do(self, sql: str) -> None:
        """Run a statement."""

    def store(self, table: ir.Table) -> ir.Table:
        """Compute `table` into a new table on disk."""
        name = f"stored_{next(self._numbers)}"
        self._do(f"{self._create.format(name=name)} AS {self._sql(table)}")
        return ibis.table(table.schema(), name=name)

    def append(self, name: str, table: ir.Table) -> ir.Table:
        """Compute `table` into `name`: a new table, or rows more in an existing one."""
        if name in self._appended:
            self._do(f"INSERT INTO {name} {self._sql(table)}")
        else:
            self._do(f"{self._create.format(name=name)} AS {self._sql(table)}")
            self._appended[name] = ibis.table(table.schema(), name=name)
        return self._appended[name]

    def table(self, name: str) -> ir.Table:
        """A table that `append` made."""
        return self._appended[name]

    def drop(self, *tables: ir.Table) -> None:
        """Remove tables; the space they took is used again."""
        for table in tables:
            self._do(f"DROP TABLE {table.get_name()}")


class DuckEngine(Engine):
    """One DuckDB database in a folder of its own, which also takes what spills.

    Use as a context manager; the caller removes the folder.

    Args:
        folder: An existing folder on a disk with room for about twice the unpacked log.
        memory_limit: Bytes the whole process should stay within; None: 70 % of the machine's.
    """

    _create = "CREATE TABLE {name}"

    def __init__(self, folder: Path, memory_limit: int | None = None) -> None:
        super().__init__()
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
        self._duck = duckdb.connect(str(folder / "prep.duckdb"), config=settings)
        self._run("SET TimeZone = 'UTC'")  # else instants are shown in the machine's own

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

    def insert(self, name: str, rows: pa.Table) -> ir.Table:
        """Put rows from memory into `name`: a new table, or rows more in an existing one."""
        self._duck.register("inserted", rows)
        table = ibis.table(ibis.Schema.from_pyarrow(rows.schema), name="inserted")
        found = self.append(name, table)
        self._duck.unregister("inserted")
        return found

    def ordered(self, table: ir.Table) -> Iterator[pa.Table]:
        """See `Engine.ordered`."""
        # An order without a limit is kept by a result, whatever `preserve_insertion_order` says.
        with _readable_errors():
            reader = self._duck.sql(self._sql(table)).to_arrow_reader(_BATCH)
            yield reader.schema.empty_table()
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def fetch(self, table: ir.Table) -> list[dict[str, Any]]:
        """See `Engine.fetch`."""
        rows = self._run(self._sql(table))
        return [dict(zip(table.columns, row, strict=True)) for row in rows]

    def _sql(self, table: ir.Table) -> str:
        return str(ibis.to_sql(table, dialect="duckdb", pretty=False))

    def _do(self, sql: str) -> None:
        self._run(sql)

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement in a thread of its own.

        DuckDB looks for Ctrl-C between its tasks only, and a task may be long.
        """
        running = self._thread.submit(lambda: self._duck.execute(sql).fetchall())
        try:
            with _readable_errors():
                rows: list[tuple[Any, ...]] = running.result()
        except BaseException:
            if not running.done():
                self._duck.interrupt()
                futures.wait([running])
            raise
        return rows


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
