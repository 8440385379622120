"""Duplicates on arrays: one row per user, item and behavior, by sorting 64-bit keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mbrec.data_prep.ids import IntArray

Numbers = npt.NDArray[Any]
Columns = tuple[IntArray, IntArray, Numbers, "Numbers | None"]
Deduplicated = tuple[IntArray, IntArray, Numbers, Numbers, Numbers]

_BUCKET = 1 << 20  # rows that are sorted at a time
_THREADS = 2  # each holds a bucket several times
_SPLIT_BITS = 2
_WORD = 63  # bits of a key that stay positive


def deduplicate(
    columns: list[Numbers], *, unknown: int, last: bool, split_given: bool
) -> Deduplicated:
    """One row per user, item and behavior, in that order.

    Sorts O(N log N), bucket by bucket of users. Memory: the columns and 8 bytes per row, to bring
    the rows of every bucket together, and then some buckets.

    Args:
        columns: Users, items (int32), behaviors (int8 or int16) and splits (int8), from 0, and
            seconds or `unknown`, (N,) each; emptied, and what was in it is changed, so that nothing
            is there twice.
        unknown: Stands for a time that is not known.
        last: Take the last of several times, not the first.
        split_given: Splits count.

    Returns:
        Users, items, behaviors, splits (0 if they do not count), and times. A row is that of the
        first split; its time that of the first split with any.
    """
    users, items, behavior, split, time = columns
    clock = _Clock.of(time, unknown, last=last)
    packing = _Packing.of((users, items, behavior, split if split_given else None))
    starts = _buckets(users)
    del users, items, behavior, split, time
    ends = _group(columns, starts) if len(starts) > 1 else [len(columns[0])]
    rows = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def work(bucket: slice) -> int:
        """Move what is kept of a bucket to its front; how many rows that are."""
        users, items, behavior, split, time = (column[bucket] for column in columns)
        parts = (users, items, behavior, split if split_given else None)
        found = _bucket(packing, clock, parts, time)
        for column, kept in zip(columns, found, strict=True):
            column[bucket.start : bucket.start + len(kept)] = kept
        return len(found[0])

    with futures.ThreadPoolExecutor(_THREADS) as pool:
        kept = list(pool.map(work, rows))
    for column in columns:
        _close_up(column, [slice(b.start, b.start + n) for b, n in zip(rows, kept, strict=True)])
    found = tuple(columns)
    columns.clear()
    return found  # type: ignore[return-value]


@dataclass(frozen=True)
class _Clock:
    """Times as numbers from 0, the one that is wanted first; unknown ones last."""

    zero: int
    limit: int
    """Stands for unknown."""
    unknown: int
    last: bool

    @classmethod
    def of(cls, time: Numbers, unknown: int, *, last: bool) -> _Clock:
        known = time[time != unknown] if time.dtype == np.int64 else time
        low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
        return cls(high if last else low, high - low + 1, unknown, last)

    def wait(self, time: Numbers) -> Numbers:
        """(N,) int64 from 0 to `limit`."""
        seconds = time.astype(np.int64)
        wait = self.zero - seconds if self.last else seconds - self.zero
        if time.dtype == np.int64:
            wait[seconds == self.unknown] = self.limit
        return wait

    def time(self, wait: Numbers, kind: np.dtype[Any]) -> Numbers:
        """What `wait` came from."""
        if kind != np.int64:
            return (self.zero - wait if self.last else wait + self.zero).astype(kind)
        seconds = self.zero - wait if self.last else wait + self.zero
        return np.where(wait == self.limit, self.unknown, seconds)


@dataclass(frozen=True)
class _Packing:
    """How many bits of a key its parts take: user, item, behavior, and the split, if any."""

    item: int
    behavior: int
    split: int

    @classmethod
    def of(cls, columns: Columns) -> _Packing:
        _, items, behavior, split = columns
        item, code = (
            int(part.max()).bit_length() if len(part) else 0 for part in (items, behavior)
        )
        return cls(item, code, 0 if split is None else _SPLIT_BITS)

    def key(self, columns: Columns, base: int) -> Numbers:
        """One number per row (N,) int64; users are counted from `base`."""
        users, items, behavior, split = columns
        key = users.astype(np.int64)
        key -= base
        key <<= self.item
        key |= items
        key <<= self.behavior
        key |= behavior
        if split is not None:
            key <<= self.split
            key |= split
        return key

    def columns(self, key: Numbers, base: int) -> tuple[IntArray, IntArray, Numbers, Numbers]:
        """Users, items, behaviors and splits of keys."""
        split = (key & ((1 << self.split) - 1)).astype(np.int8)
        rest = key >> self.split
        behavior = (rest & ((1 << self.behavior) - 1)).astype(np.int16)
        rest >>= self.behavior
        items = (rest & ((1 << self.item) - 1)).astype(np.int32)
        rest >>= self.item
        rest += base
        return rest.astype(np.int32), items, behavior, split


def _buckets(users: IntArray) -> Numbers:
    """First users of buckets with about `_BUCKET` rows each."""
    if len(users) <= _BUCKET:
        return np.zeros(1, dtype=np.int64)
    counts = np.zeros(int(users.max()) + 1, dtype=np.int64)
    for rows in _chunks(len(users)):
        counts += np.bincount(users[rows], minlength=len(counts))
    bucket = np.cumsum(counts) // _BUCKET
    return np.flatnonzero(np.diff(bucket, prepend=-1))


def _group(columns: list[Numbers], starts: Numbers) -> list[int]:
    """Bring the rows of every bucket together; give where each bucket ends."""
    users = columns[0]
    size = int(users.max()) + 1
    bucket_of = np.repeat(np.arange(len(starts)), np.diff(starts, append=size)).astype(np.uint16)
    counts = np.zeros(len(starts), dtype=np.int64)
    for rows in _chunks(len(users)):
        counts += np.bincount(bucket_of[users[rows]], minlength=len(starts))
    ends = np.cumsum(counts)
    upto = ends - counts
    place = np.empty(len(users), dtype=np.uint32 if len(users) < 1 << 32 else np.int64)
    for rows in _chunks(len(users)):
        bucket = bucket_of[users[rows]]
        order = np.argsort(bucket, kind="stable")
        here = np.bincount(bucket, minlength=len(starts))
        shift = upto - (np.cumsum(here) - here)
        place[rows][order] = np.arange(len(order)) + np.repeat(shift, here)
        upto += here
    del users
    for number, column in enumerate(columns):
        grouped = np.empty_like(column)
        for rows in _chunks(len(column)):
            grouped[place[rows]] = column[rows]
        columns[number] = grouped
        del column  # before there is memory for the next
    return [int(end) for end in ends]


def _close_up(column: Numbers, kept: Sequence[slice]) -> None:
    """Move the rows that are kept to the front, and give the rest of the memory back."""
    count = 0
    for rows in kept:
        size = rows.stop - rows.start
        if count != rows.start:
            column[count : count + size] = column[rows]
        count += size
    column.resize(count, refcheck=False)


def _chunks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _BUCKET):
        yield slice(start, min(start + _BUCKET, rows))


def _bucket(packing: _Packing, clock: _Clock, columns: Columns, time: Numbers) -> Deduplicated:
    base = int(columns[0].min()) if len(columns[0]) else 0
    key, wait = packing.key(columns, base), clock.wait(time)
    key, wait = _earliest(key, wait, clock.limit)
    users, items, behavior, split = packing.columns(key, base)
    if packing.split:
        starts = _starts(key >> packing.split)
        wait = _first_known(wait, starts, clock.limit)
        users, items, behavior, split = (c[starts] for c in (users, items, behavior, split))
    return users, items, behavior, split, clock.time(wait, time.dtype)


def _earliest(key: Numbers, wait: Numbers, limit: int) -> tuple[Numbers, Numbers]:
    """Every key once, ascending, with the least of its times."""
    bits = limit.bit_length()
    if len(key) and int(key.max()).bit_length() + bits <= _WORD:
        key <<= bits
        key |= wait
        key.sort()
        wait = key & ((1 << bits) - 1)
        key >>= bits
        starts = _starts(key)
        return key[starts], wait[starts]
    order = np.argsort(key)
    key = key[order]
    starts = _starts(key)
    least = np.minimum.reduceat(wait[order], starts) if len(starts) else wait
    return key[starts], least


def _starts(key: Numbers) -> Numbers:
    """Where a run of equal keys begins."""
    new = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=new[1:])
    return np.flatnonzero(new)


def _first_known(wait: Numbers, starts: Numbers, limit: int) -> Numbers:
    """The first time of each run that is known; `limit` if none is."""
    none = len(wait)
    places = np.where(wait < limit, np.arange(none), none)
    first = np.minimum.reduceat(places, starts) if len(starts) else starts
    found = wait[np.minimum(first, none - 1)] if none else wait
    return np.where(first < none, found, limit)
