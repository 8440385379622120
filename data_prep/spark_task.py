"""What runs on Spark's executors: the readers of a single machine, one file per task.

Apart from the engine, so that an executor imports no more than it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from mbrec.data_prep.layout import Layout
from mbrec.data_prep.parsing import Parser, schema_of, widened

SOURCE = "source"
"""Column with the number of the file that a row comes from."""

_TYPES = {
    pa.int8(): "tinyint",
    pa.int16(): "smallint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.string(): "string",
}


def schema_of_read(layouts: Sequence[Layout]) -> pa.Schema:
    """What `reader` gives."""
    return schema_of(layouts).append(pa.field(SOURCE, pa.int32()))


def as_ddl(schema: pa.Schema) -> str:
    """A schema as Spark writes it."""
    return ", ".join(f"`{field.name}` {_TYPES[field.type]}" for field in schema)


def reader(
    layouts: tuple[Layout, ...], names: tuple[str, ...]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function from numbers of files to all of their rows, malformed ones included.

    Args:
        layouts: The files.
        names: Name of every behavior code number.
    """

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        schema = schema_of_read(layouts)
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            with Parser(layouts[number], names, number, threads=1) as parser:
                for table in parser.tables():
                    rows = widened(table, schema_of(layouts))
                    source = pa.array(np.full(len(rows), number, np.int32))
                    yield from rows.append_column(schema.field(SOURCE), source).to_batches()

    return read
