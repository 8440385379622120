"""Reading a log into the stages that fit it: in memory, in DuckDB, or in Spark."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mbrec.data_prep.arrays import ArrayStages
from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.layout import Layout
from mbrec.data_prep.options import EngineName
from mbrec.data_prep.parsing import Tell, schema_of
from mbrec.data_prep.reading import Sink, compact, read_files
from mbrec.data_prep.rejects import Rejects
from mbrec.data_prep.stages import Stages
from mbrec.data_prep.tables import TableStages
from mbrec.memory import free_memory

# Of the memory allowed, what rows may take: bringing together those of a user needs as much again.
_SHARE = 0.3
_DEFAULT_SHARE = 0.8  # of the memory that is free
_FALLBACK = 4 << 30  # where a system does not say what is free


@dataclass(frozen=True)
class Place:
    """Where a preparation is computed.

    Attributes:
        engine: See `PrepOptions.engine`.
        scratch: An empty folder.
        memory_limit: Bytes; None: most of what is free.
        spark_master: Of the engine spark.
    """

    engine: EngineName
    scratch: Path
    memory_limit: int | None = None
    spark_master: str | None = None


@contextlib.contextmanager
def read_log(
    place: Place, layouts: Sequence[Layout], names: Sequence[str], tell: Tell, rejects: Rejects
) -> Iterator[tuple[list[dict[str, Any]], Stages]]:
    """Read all files; give their entries for the manifest and the sound rows, within the block.

    Raises:
        DataError: A file cannot be read.
        DeviceError: Spark is asked for, and cannot be had.
    """
    if place.engine == "spark":
        from mbrec.data_prep.spark import SparkEngine

        with SparkEngine(place.scratch, place.spark_master) as spark:
            entries, table = spark.read(layouts, names, tell, rejects)
            yield entries, TableStages(spark, table)
        return
    with DuckEngine(place.scratch, place.memory_limit) as engine:
        sink = Sink(engine, 0 if place.engine == "duckdb" else _budget(place.memory_limit))
        entries = []
        for found in read_files(layouts, names, tell, rejects):
            if isinstance(found, dict):
                entries.append(found)
            elif len(found):
                sink.add(found)
        events = sink.events()
        yield entries, _in_memory(sink, layouts) if events is None else TableStages(engine, events)


def _in_memory(sink: Sink, layouts: Sequence[Layout]) -> ArrayStages:
    if not sink.tables:
        sink.tables.append(compact(pa.table(schema_of(layouts).empty_table())))
    return ArrayStages(sink.tables)


def _budget(memory_limit: int | None) -> int:
    """Bytes of rows that may stay in memory."""
    free = free_memory()
    allowed = memory_limit or int(_DEFAULT_SHARE * (_FALLBACK if free is None else free))
    return int(_SHARE * allowed)
