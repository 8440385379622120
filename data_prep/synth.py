"""Synthetic raw logs of any size, in the exact formats of the real ones.

The log is made one block of users at a time, each block from its own stream of random numbers, so
that memory does not grow with the number of events and the same options give the same bytes. See
docs/synthetic.md for what is planted in it.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mbrec.data_prep.synth_events import Events, make_events
from mbrec.data_prep.synth_formats import FORMATS, LogFormat, Rows, Stage
from mbrec.data_prep.synth_world import (
    Catalog,
    FloatArray,
    IndexArray,
    make_catalog,
    make_segments,
    make_shoppers,
    scattered_ids,
)
from mbrec.errors import UsageError
from mbrec.files import atomic_path, work_folder

FormatName = Literal["ub", "jd2019", "jd2016"]
BLOCK_EVENTS = 250_000  # events per block; a part of the format: other blocks, other bytes
ACTIVITY_SPREAD = 0.7  # standard deviation of the logarithm of a user's activity
SORT_MEMORY = "1GB"
GZIP_LEVEL = 4

Progress = Callable[[int], object]


@dataclass(frozen=True)
class SynthOptions:
    """What to write.

    Raises:
        UsageError: A number is out of range, or the format is unknown.
    """

    format: FormatName = "ub"
    """`ub` (UserBehavior), `jd2019` or `jd2016` (JData)."""
    users: int = 2_000
    """Users; every one of them has at least one event."""
    items: int = 1_000
    """Items of the catalog; the least popular may have no event."""
    events: int = 200_000
    """Rows, exactly, without the header."""
    seed: int = 1
    """Same options and seed, same bytes."""
    quirks: bool = False
    """Also imitate the faults of the real log."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(f"No such format {self.format!r}.", f"There are {', '.join(FORMATS)}.")
        for name, value, least, most in (
            ("users", self.users, 1, 100_000_000),
            ("items", self.items, 1, 100_000_000),
            ("events", self.events, self.users, 100_000_000_000),
            ("seed", self.seed, 0, 2**63 - 1),
        ):
            if not least <= value <= most:
                why = " (one for every user)" if name == "events" and least > 1 else ""
                raise UsageError(
                    f"The number of {name} is {value}.",
                    f"It must be {least:,}{why} to {most:,}.",
                )


@dataclass(frozen=True)
class SynthSummary:
    """What was written."""

    path: str
    options: SynthOptions
    rows: int
    users: int
    items: int
    """Items with at least one event."""
    by_code: dict[str, int]
    """Rows per behavior, as the log names it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def write_log(
    path: Path | str,
    options: SynthOptions | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> SynthSummary:
    """Write a synthetic raw log, atomically.

    Time is linear in the events. Memory is bounded: one block of events, plus about 50 bytes per
    item and 30 per user; `jd2016`, which is ordered by time over all users, is sorted on disk and
    needs room for a temporary copy beside `path`.

    Args:
        path: The file; with the suffix `.gz` it is compressed.
        options: What to write.
        force: Replace an existing file.
        progress: Called with the number of events made, block by block.

    Raises:
        UsageError: The file exists and `force` is not given, or its folder does not exist.
    """
    path, options = Path(path), options or SynthOptions()
    if path.is_file() and not force:
        raise UsageError(f"{path} exists already.", "Choose another file, or add --force.")
    log, tally = FORMATS[options.format], _Tally(options.items)
    with atomic_path(path) as temporary, _sink(temporary, path.suffix == ".gz") as sink:
        tables = _tables(options, log, tally, progress)
        if log.order == "oldest":
            tables = _by_time(tables, path)
        if log.header:
            sink.write(log.header.encode() + b"\n")
        _write_csv(tables, sink)
    by_code = {code: int(tally.stages[stage]) for stage, code in log.codes.items()}
    items = int(tally.items.sum())
    return SynthSummary(str(path), options, int(tally.stages.sum()), options.users, items, by_code)


class _Tally:
    """What has been made so far."""

    def __init__(self, items: int) -> None:
        self.items = np.zeros(items, dtype=bool)  # has the item any event?
        self.stages = np.zeros(len(Stage), dtype=np.int64)  # events per stage


def _tables(
    options: SynthOptions, log: LogFormat, tally: _Tally, progress: Progress | None
) -> Iterator[pa.Table]:
    """The blocks as tables, counted."""
    for rows, events in _blocks(options):
        tally.items[events.item] = True
        tally.stages += np.bincount(events.stage, minlength=len(Stage))
        yield log.columns(log, rows, options.quirks)
        if progress is not None:
            progress(len(rows.stage))


def _blocks(options: SynthOptions) -> Iterator[tuple[Rows, Events]]:
    """The events, block by block, in the order of the format (but for a global order by time)."""
    world, activity, ids, *_ = np.random.SeedSequence(options.seed).spawn(4)
    log = FORMATS[options.format]
    world_rng = np.random.default_rng(world)
    catalog, segments = make_catalog(options.items, world_rng), make_segments(world_rng)
    counts = _activity(options, np.random.default_rng(activity))
    user_ids = _user_ids(options, log, np.random.default_rng(ids))
    ends = np.cumsum(counts)
    bounds = np.searchsorted(ends, np.arange(0, options.events, BLOCK_EVENTS), side="right")
    bounds = np.unique(np.append(bounds, options.users))
    for number, (start, stop) in enumerate(pairwise(bounds)):
        seed = np.random.SeedSequence(options.seed, spawn_key=(3, number))
        rng = np.random.default_rng(seed)
        block = counts[start:stop], user_ids[start:stop]
        yield _block(*block, catalog, segments, log, options.quirks, rng)


def _block(
    counts: IndexArray,
    user_ids: IndexArray,
    catalog: Catalog,
    segments: FloatArray,
    log: LogFormat,
    quirks: bool,
    rng: np.random.Generator,
) -> tuple[Rows, Events]:
    shoppers = make_shoppers(len(counts), catalog, segments, rng)
    events = make_events(counts, shoppers, catalog, log, quirks, rng)
    sign = -1 if log.order == "user_then_newest" else 1
    order = np.lexsort((events.stage, sign * events.second, events.user))
    item = events.item[order]
    rows = Rows(
        user_id=user_ids[events.user[order]],
        item_id=catalog.item_id[item].astype(np.int64),
        category=catalog.topic[item].astype(np.int64),
        stage=events.stage[order],
        second=events.second[order],
        draw=rng.random(len(order), dtype=np.float32),
    )
    return rows, events


def _activity(options: SynthOptions, rng: np.random.Generator) -> IndexArray:
    """Events per user (U,): log-normal, at least one, exactly `events` in all."""
    weight = rng.lognormal(0.0, ACTIVITY_SPREAD, options.users)
    return 1 + rng.multinomial(options.events - options.users, weight / weight.sum())


def _user_ids(options: SynthOptions, log: LogFormat, rng: np.random.Generator) -> IndexArray:
    ids = scattered_ids(options.users, rng) + (200_000 if options.format == "jd2016" else 0)
    # The published UserBehavior file is sorted by user id as text.
    return np.sort(ids.astype(str)).astype(np.int64) if log.order == "user_then_oldest" else ids


def _by_time(tables: Iterator[pa.Table], path: Path) -> Iterator[pa.Table]:
    """All rows ordered by time, then by the order they came in, sorted by DuckDB on disk."""
    import duckdb

    with ExitStack() as stack:
        place = stack.enter_context(work_folder(path)) / "sorting"
        shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
        place.mkdir()
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        spill, number = place / "rows.parquet", 0
        with ExitStack() as writing:
            writer: Any = None
            for table in tables:
                index = pa.array(np.arange(number, number + len(table)))
                number += len(table)
                table = table.append_column("row", index)
                if writer is None:
                    writer = writing.enter_context(pq.ParquetWriter(spill, table.schema))
                writer.write_table(table)
        settings: dict[str, Any] = {"memory_limit": SORT_MEMORY, "temp_directory": str(place)}
        connection = stack.enter_context(duckdb.connect(config=settings))
        rows = connection.read_parquet(str(spill)).order("time, row")
        columns = ", ".join(name for name in rows.columns if name != "row")
        for batch in rows.project(columns).to_arrow_reader(BLOCK_EVENTS):
            table = pa.Table.from_batches([batch])
            yield table.set_column(2, "time", table["time"].cast(pa.timestamp("s")))


@contextmanager
def _sink(path: Path, compressed: bool) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        stream: Any = stack.enter_context(path.open("wb"))
        if compressed:  # without name and time, or the bytes would not be the same
            stream = stack.enter_context(
                gzip.GzipFile("", "wb", GZIP_LEVEL, fileobj=stream, mtime=0)
            )
        yield stream


def _write_csv(tables: Iterator[pa.Table], sink: BinaryIO) -> None:
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    writer: Any = None
    for table in tables:
        writer = writer or pa.csv.CSVWriter(sink, table.schema, write_options=options)
        writer.write_table(table)
    if writer is not None:
        writer.close()
