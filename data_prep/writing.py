"""Writing the tables of a dataset: the same bytes, whichever engine the rows come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.columns import BEHAVIOR, ITEM_IDX, SPLIT, SPLITS, TIMESTAMP, USER_IDX
from mbrec.dataset import INTERACTIONS

_GROUP = 1 << 20  # rows per group of a Parquet file

NUMBERED = pa.schema(
    [
        (USER_IDX, pa.int32()),
        (ITEM_IDX, pa.int32()),
        (BEHAVIOR, pa.int16()),
        (TIMESTAMP, pa.int64()),
        (SPLIT, pa.int8()),
    ]
)
"""Interactions with behavior and split as numbers, as `write_interactions` takes them."""


class TableWriter:
    """Writes a Parquet file whose bytes do not depend on how the rows are dealt out.

    Use as a context manager. Memory: one group of 2^20 rows, and what is written at once.

    Args:
        path: The file.
        schema: Its columns; dictionaries are written as what they stand for.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[pa.Table] = []
        self._count = 0
        codes = [field.name for field in schema if pa.types.is_dictionary(field.type)]
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=1,
            # Dictionaries of ids and times only cost time: most are distinct.
            use_dictionary=codes,
            store_schema=False,
            write_page_checksum=True,
        )

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._count:
            self._group(pa.concat_tables(self._rows))
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._rows.append(table)
        self._count += len(table)
        if self._count < _GROUP:
            return
        whole = pa.concat_tables(self._rows)
        full = len(whole) // _GROUP * _GROUP
        for start in range(0, full, _GROUP):
            self._group(whole.slice(start, _GROUP))
        self._rows = [whole.slice(full)]
        self._count = len(whole) - full

    def _group(self, table: pa.Table) -> None:
        # In one chunk, or pages would end where chunks do.
        self._writer.write_table(table.combine_chunks(), row_group_size=_GROUP)


def write_ids(path: Path, index: str, column: str, ids: Iterable[pa.Array]) -> None:
    """Write the ids of users or items, which come in their order, beside their positions.

    Args:
        path: The file.
        index: Name of the column of positions, from 0.
        column: Name of the column of ids.
        ids: Arrays (int64 or string); at least one, which may be empty.
    """
    arrays = iter(ids)
    first = next(arrays)
    schema = pa.schema([(index, pa.int32()), (column, first.type)])
    place = 0
    with TableWriter(path, schema) as writer:
        array: pa.Array | None = first
        while array is not None:
            positions = np.arange(place, place + len(array), dtype=np.int32)
            writer.write(pa.table([positions, array], schema=schema))
            place += len(array)
            array = next(arrays, None)


def write_interactions(folder: Path, tables: Iterable[pa.Table], names: Mapping[int, str]) -> None:
    """Write the interactions of a dataset into `folder`.

    Args:
        folder: Where `mbrec.dataset.DatasetWriter` expects the file.
        tables: Rows of `NUMBERED`, in order of behavior, split, user and item.
        names: Behavior code → name, of those that the dataset has.
    """
    places = np.zeros(max(names) + 1, dtype=np.int16)
    places[list(names)] = range(len(names))
    texts = {BEHAVIOR: list(names.values()), SPLIT: list(SPLITS)}
    kind = pa.dictionary(pa.int16(), pa.string())
    schema = pa.schema([(f.name, kind if f.name in texts else f.type) for f in NUMBERED])
    with TableWriter(folder / INTERACTIONS, schema) as writer:
        for table in tables:
            columns = {name: table[name] for name in schema.names}
            codes = {
                BEHAVIOR: places[table[BEHAVIOR].to_numpy()],
                SPLIT: table[SPLIT].to_numpy().astype(np.int16),
            }
            for name, values in texts.items():
                columns[name] = pa.DictionaryArray.from_arrays(codes[name], values)
            writer.write(pa.table(columns, schema=schema))
