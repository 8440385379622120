"""From files to typed rows, batch by batch: the same for every engine, wherever it reads.

What every line means is said once, in `mbrec.data_prep.cleaning`; DuckDB works it out. Most lines
of most logs are plain numbers, though, and those Arrow's CSV reader takes at several times the
speed. It gets a block only if it cannot read it in any other way than DuckDB would: every byte is
one that a sound row may have, and no number begins with 0.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from types import TracebackType

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from mbrec.columns import BEHAVIOR, ITEM_ID, SPLIT, SPLITS, TIMESTAMP, USER_ID
from mbrec.data_prep.cleaning import REASON, fields_of_lines, fields_of_parquet, typed
from mbrec.data_prep.clock import MAX_SECONDS
from mbrec.data_prep.layout import Layout
from mbrec.data_prep.lines import SCHEMA, Block, LineReader, batch_of
from mbrec.errors import DataError

_PIECE = 64 << 10  # bytes; a block with something odd in it is looked at again in such pieces
_ROWS = 1 << 18  # of a Parquet file at a time
_DIGITS = b"0123456789"
_TEXT = pa.string()

Tell = Callable[[Path, int], None]


def schema_of(layouts: Sequence[Layout]) -> pa.Schema:
    """What `Parser.tables` gives for any of these files."""
    ids = pa.int64() if layouts[0].ids == "integer" else _TEXT
    return pa.schema(
        [
            (USER_ID, ids),
            (ITEM_ID, ids),
            (BEHAVIOR, pa.int16()),
            (TIMESTAMP, pa.int64()),
            (REASON, _TEXT),
            (SPLIT, pa.int8()),
            ("file", pa.int32()),
            ("line", pa.int64()),
            ("text", _TEXT),
        ]
    )


class Parser:
    """Reads one file into the rows that `mbrec.data_prep.cleaning.typed` describes.

    Use as a context manager.

    Args:
        layout: The file.
        names: Name of every behavior code number.
        file: Number of the file.
        threads: How many blocks are read at a time; None: one per core.

    Attributes:
        rows: Rows given so far.
        schema: Of a table with all columns.
    """

    def __init__(
        self, layout: Layout, names: Sequence[str], file: int, threads: int | None = None
    ) -> None:
        self.layout, self._names, self._file = layout, names, file
        self.rows = 0
        self._threads = threads or _cores()
        self.schema = schema_of([layout])
        self._plain = _Plain(layout, names) if _Plain.can_read(layout) else None
        settings: dict[str, str | bool | int | float | list[str]] = {
            "threads": str(self._threads),
            # By default it fetches an extension from the network when a query seems to want one.
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
        }
        self._duck = duckdb.connect(config=settings)
        self._duck.execute("SET GLOBAL TimeZone = 'UTC'")
        lines = ibis.table(ibis.Schema.from_pyarrow(SCHEMA), name="lines")
        self._sql = "" if layout.parquet else self._typed(fields_of_lines(lines, layout))

    def __enter__(self) -> Parser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._duck.close()

    def tables(self, tell: Tell | None = None) -> Iterator[pa.Table]:
        """Give the rows of the file, in their order.

        A table without the column `REASON` has sound rows only; `widened` adds what it lacks.

        Args:
            tell: Called now and then with the file and its rows so far.

        Raises:
            DataError: The file is damaged.
        """
        for table in self._parquet() if self.layout.parquet else self._text():
            self.rows += len(table)
            if tell:
                tell(self.layout.path, self.rows)
            yield table

    def _text(self) -> Iterator[pa.Table]:
        """Parse blocks side by side, and give them in their order."""
        waiting: deque[futures.Future[pa.Table]] = deque()
        with futures.ThreadPoolExecutor(self._threads) as pool:
            try:
                for block in LineReader(self.layout).blocks():
                    waiting.append(pool.submit(self._block, block))
                    if len(waiting) > self._threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _block(self, block: Block) -> pa.Table:
        if self._plain is None:
            return self._by_duckdb(block)
        whole = self._plain.read(block)
        if whole is not None:
            return whole
        pieces = [(piece, self._plain.read(piece)) for piece in block.pieces(_PIECE)]
        tables = []
        for odd, group in itertools.groupby(pieces, lambda pair: pair[1] is None):
            members = list(group)
            if odd:
                data = b"".join(piece.data for piece, _ in members)
                first, last = members[0][0], members[-1][0]
                tables.append(self._by_duckdb(Block(first.first, data, last.unended)))
            else:
                tables += [widened(table, self.schema) for _, table in members if table is not None]
        return pa.concat_tables(tables)

    def _by_duckdb(self, block: Block) -> pa.Table:
        cursor = self._duck.cursor()
        cursor.register("lines", batch_of(block, self.layout))
        try:
            return cursor.sql(self._sql).to_arrow_table().cast(self.schema)
        finally:
            cursor.close()

    def _parquet(self) -> Iterator[pa.Table]:
        path = self.layout.path
        columns = dict(ibis.Schema.from_pyarrow(pq.read_schema(path)))
        rows = ibis.table(columns | {"file_row_number": "int64"}, name="rows")
        name = str(path).replace("'", "''")
        source = f"read_parquet('{name}', file_row_number = true)"
        try:
            self._duck.execute(f"CREATE TEMP VIEW rows AS SELECT * FROM {source}")
            running = self._duck.sql(self._typed(fields_of_parquet(rows, self.layout)))
            for batch in running.to_arrow_reader(_ROWS):
                yield pa.Table.from_batches([batch]).cast(self.schema)
        except duckdb.Error as error:
            why = (str(error).strip().splitlines() or ["no message"])[0]
            raise DataError(f"{path} cannot be read: {why}", "Write it again.") from error

    def _typed(self, fields: ibis.Table) -> str:
        table = typed(fields, self.layout, self._names, self._file)
        return str(ibis.to_sql(table, dialect="duckdb", pretty=False))


def widened(sound: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the columns that only malformed rows fill."""
    columns = {name: sound[name] for name in sound.column_names}
    for field in schema:
        columns.setdefault(field.name, pa.nulls(len(sound), field.type))
    return pa.table([columns[name] for name in schema.names], schema=schema)


class _Plain:
    """Reads blocks in which every row is sound and every number in canonical form.

    Args:
        layout: A file of the kind that `can_read` takes.
        names: Name of every behavior code number.
    """

    def __init__(self, layout: Layout, names: Sequence[str]) -> None:
        places = {USER_ID: layout.user, ITEM_ID: layout.item}
        if layout.behavior is not None:
            places[BEHAVIOR] = layout.behavior
        if layout.time is not None:
            places[TIMESTAMP] = layout.time
        self._places = {name: str(place) for name, place in places.items()}
        kinds: dict[str, pa.DataType] = dict.fromkeys(self._places.values(), pa.int64())
        if layout.behavior is not None:
            kinds[self._places[BEHAVIOR]] = pa.dictionary(pa.int32(), _TEXT)
        self._read = pa.csv.ReadOptions(
            use_threads=False,
            block_size=1 << 30,
            column_names=[str(place) for place in range(layout.width)],
        )
        self._parse = pa.csv.ParseOptions(
            delimiter=layout.separator, quote_char=False, ignore_empty_lines=False
        )
        self._convert = pa.csv.ConvertOptions(
            column_types=kinds, include_columns=list(kinds), null_values=[]
        )
        codes = "".join(layout.codes).encode()
        self._bytes = _DIGITS + b"\n" + layout.separator.encode() + codes
        positions = {name: position for position, name in enumerate(names)}
        self._codes = {raw: positions.get(name, -1) for raw, name in layout.codes.items()}
        self._fixed = 0 if layout.behavior is not None else names.index(layout.fixed_behavior)
        self._part = 0 if layout.fixed_split is None else SPLITS.index(layout.fixed_split)

    @staticmethod
    def can_read(layout: Layout) -> bool:
        """Whether a file is of numbers, apart from the behavior."""
        simple = layout.ids == "integer" and not (layout.quoted or layout.blanks or layout.parquet)
        timed = layout.clock is None or layout.clock.form == "s"
        plain = all(raw.isascii() and raw.isalnum() for raw in layout.codes)
        # Below "0", so that a number that begins with it is seen by the byte before.
        split = len(layout.separator) == 1 and layout.separator < "0"
        return simple and timed and plain and split and layout.split is None

    def read(self, block: Block) -> pa.Table | None:
        """The typed rows of a block; None if it has anything that is not plain and sound."""
        data = block.data
        if block.unended or data.translate(None, self._bytes) or _has_leading_zero(data):
            return None
        try:
            found = pa.csv.read_csv(
                pa.BufferReader(data),
                read_options=self._read,
                parse_options=self._parse,
                convert_options=self._convert,
            )
        except pa.ArrowInvalid:
            return None
        if len(found) != block.rows:
            return None
        columns = {name: found[place] for name, place in self._places.items()}
        if TIMESTAMP in columns:
            bounds = pc.min_max(columns[TIMESTAMP]).as_py()
            if not -MAX_SECONDS < bounds["min"] <= bounds["max"] < MAX_SECONDS:
                return None
        behavior = self._behavior(columns.get(BEHAVIOR), len(found))
        if behavior is None:
            return None
        part = pa.array(np.full(len(found), self._part, np.int8))
        return pa.table({**columns, BEHAVIOR: behavior, SPLIT: part})

    def _behavior(self, column: pa.ChunkedArray | None, rows: int) -> pa.Array | None:
        """The number of every row's behavior; None if one is not known."""
        if column is None:
            return pa.array(np.full(rows, self._fixed, np.int16))
        encoded = column.combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            return None
        codes = [self._codes.get(raw) for raw in encoded.dictionary.to_pylist()]
        if None in codes:
            return None
        return pa.array(np.array(codes, np.int16)[encoded.indices.to_numpy()])


def _has_leading_zero(data: bytes) -> bool:
    """Whether a field begins with 0, where every other byte below "0" ends a field."""
    values = np.frombuffer(data, np.uint8)
    zero = ord("0")
    return values[0] == zero or bool(((values[1:] == zero) & (values[:-1] < zero)).any())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
