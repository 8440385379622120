"""Spark, for logs that are more than one machine can take.

Every input file is one task: the readers that a single machine uses run on the executors, so a row
means the same there. All that follows is the Ibis expressions that DuckDB gets, as Spark SQL. Its
tables lie in the folder beside the output, which the executors of a cluster have to share, as they
have to share the inputs; mbrec has to be installed there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.data_prep.cleaning import REASON
from mbrec.data_prep.engine import Engine
from mbrec.data_prep.java import (
    chatter_into,
    check_java,
    check_master,
    interrupts_unsaid,
    readable,
)
from mbrec.data_prep.layout import Layout
from mbrec.data_prep.parsing import Tell
from mbrec.data_prep.reading import entry_of
from mbrec.data_prep.rejects import COLUMNS, Rejects
from mbrec.data_prep.spark_task import SOURCE, as_ddl, reader, schema_of_read
from mbrec.errors import DeviceError, MbrecError
from mbrec.files import sha256

_SETTINGS = {
    "spark.app.name": "mbrec prep",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",  # an overflow is an error, not a wrong number
    "spark.sql.catalogImplementation": "in-memory",
}
_LOCAL = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",  # the default of 200 is for clusters
}


class SparkEngine(Engine):
    """A Spark application; one that runs in this process already is used, and left running.

    Use as a context manager.

    Args:
        folder: An existing folder for tables, on storage that executors share with the caller.
        master: URL such as `spark://host:7077`, `yarn` or `local[4]`; None: all cores of this
            machine.

    Raises:
        DeviceError: pyspark or Java is missing, or the master cannot be reached.
    """

    def __init__(self, folder: Path, master: str | None = None) -> None:
        super().__init__()
        self._folder = folder.resolve()
        self._master = master or "local[*]"
        self._create = f"CREATE TABLE {{name}} USING parquet LOCATION '{self._quoted}/{{name}}'"
        self._made: set[str] = set()
        self._spark, self._ours = open_session(self._master, self._folder)

    def __enter__(self) -> SparkEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whatever it says now is no news: either all is done, or an error is on its way.
        with contextlib.suppress(Exception):
            for table in self._spark.catalog.listTables():
                kind_of = "VIEW" if table.isTemporary else "TABLE"
                self._spark.sql(f"DROP {kind_of} IF EXISTS {table.name}")
            if self._ours:
                self._spark.stop()

    def read(
        self, layouts: Sequence[Layout], names: Sequence[str], tell: Tell, rejects: Rejects
    ) -> tuple[list[dict[str, Any]], ir.Table]:
        """Read all files, each in a task of its own.

        Args:
            layouts: The files, at paths that executors see, too.
            names: Name of every behavior code number.
            tell: Called with every file and its rows when all are read.
            rejects: Takes the malformed rows.

        Returns:
            An entry per file for the manifest, and the sound rows.
        """
        schema = schema_of_read(layouts)
        place = str(self._folder / "read")
        with self._errors(), futures.ThreadPoolExecutor(1) as pool:
            digests = [pool.submit(sha256, layout.path) for layout in layouts]
            numbers = self._spark.range(0, len(layouts), 1, len(layouts))
            read = reader(tuple(layouts), tuple(names))
            numbers.mapInArrow(read, as_ddl(schema)).write.parquet(place)
            self._spark.read.parquet(place).createOrReplaceTempView("read")
            hashes = [digest.result() for digest in digests]
        table = ibis.table(ibis.Schema.from_pyarrow(schema), name="read")
        bad = table.filter(table[REASON].notnull()).order_by(["file", "line"])
        for found in self.ordered(bad.select(*COLUMNS)):
            rejects.add(found)
        counts = self.fetch(table.group_by(SOURCE).agg(rows=table.count()))
        rows = {row[SOURCE]: row["rows"] for row in counts}
        entries = []
        for number, (layout, digest) in enumerate(zip(layouts, hashes, strict=True)):
            entries.append(entry_of(layout.path, rows.get(number, 0), digest))
            tell(layout.path, rows.get(number, 0))
        sound = table.filter(table[REASON].isnull()).drop(SOURCE, *COLUMNS)
        return entries, self.store(sound)

    def ordered(self, table: ir.Table) -> Iterator[pa.Table]:
        """See `Engine.ordered`."""
        place = self._folder / f"ordered_{next(self._numbers)}"
        with self._errors():
            self._spark.sql(self._sql(table)).write.parquet(str(place))
        schema = table.schema().to_pyarrow()
        yield schema.empty_table()
        # A sort deals rows out by range, and the files are numbered as the ranges are.
        for part in sorted(place.glob("part-*.parquet")):
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches():
                    yield pa.Table.from_batches([batch]).cast(schema)
        shutil.rmtree(place)

    def fetch(self, table: ir.Table) -> list[dict[str, Any]]:
        """See `Engine.fetch`."""
        with self._errors():
            return [row.asDict() for row in self._spark.sql(self._sql(table)).collect()]

    def drop(self, *tables: ir.Table) -> None:
        """See `Engine.drop`."""
        super().drop(*tables)
        for table in tables:
            shutil.rmtree(self._folder / table.get_name(), ignore_errors=True)

    def _sql(self, table: ir.Table) -> str:
        return str(ibis.to_sql(table, dialect="pyspark", pretty=False))

    def _do(self, sql: str) -> None:
        with self._errors():
            self._spark.sql(sql)

    @property
    def _quoted(self) -> str:
        return str(self._folder).replace("\\", "\\\\").replace("'", "\\'").replace("{", "{{")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what Spark says into one line, and cancel what runs when the user stops it."""
        try:
            with interrupts_unsaid():
                yield
        except (KeyboardInterrupt, MbrecError):
            with contextlib.suppress(Exception):
                self._spark.sparkContext.cancelAllJobs()
            raise
        except Exception as error:
            raise readable(error, self._master) from error


def open_session(master: str, folder: Path) -> tuple[Any, bool]:
    """A session of Spark, and whether it was made here.

    Args:
        master: See `SparkEngine`.
        folder: Where its spill and its log go.

    Raises:
        DeviceError: pyspark or Java is missing, or the master cannot be reached.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise DeviceError(
            "--engine spark needs pyspark.", "Install it with `pip install 'mbrec[spark]'`."
        ) from error
    running = SparkSession.getActiveSession()
    if running is not None:
        return running, False
    check_java()
    check_master(master)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = {**_SETTINGS, "spark.local.dir": str(folder / "spill")}
    settings |= _LOCAL if master.startswith("local") else {}
    builder = SparkSession.builder.master(master)
    for key, value in settings.items():
        builder = builder.config(key, value)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with chatter_into(folder / "spark.log"):
            return builder.getOrCreate(), True
    except Exception as error:
        raise readable(error, master) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Spark has put its own there
