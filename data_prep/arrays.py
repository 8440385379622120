"""The stages of a preparation in memory, on NumPy arrays of small whole numbers.

Users and items are numbered once; a row is then one 64-bit key (user, item, behavior), and sorting
those is all there is to finding duplicates. Memory: 14 bytes per row, 22 while they are regrouped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mbrec.columns import BEHAVIOR, ITEM_ID, ITEM_IDX, SPLIT, SPLITS, TIMESTAMP, USER_ID, USER_IDX
from mbrec.data_prep import ids, split
from mbrec.data_prep.cleaning import FILTERS, WINDOW
from mbrec.data_prep.dedupe import deduplicate
from mbrec.data_prep.funnel import FunnelStep, by_behavior
from mbrec.data_prep.kcore import Core, round_name
from mbrec.data_prep.peeling import rounds_of_fall
from mbrec.data_prep.split import Cuts, Ratios
from mbrec.data_prep.writing import NUMBERED, write_ids, write_interactions
from mbrec.dataset import ITEMS, USERS

_SLICE = 1 << 20  # rows that are worked on at a time
_UNKNOWN = np.iinfo(np.int64).min  # a time that the log does not tell

Numbers = npt.NDArray[Any]


class ArrayStages:
    """See `mbrec.data_prep.stages.Stages`.

    Args:
        tables: What `mbrec.data_prep.reading.compact` gave, of all files; emptied on the way.
    """

    def __init__(self, tables: list[pa.Table]) -> None:
        columns = {name: [table[name] for table in tables] for name in tables[0].column_names}
        tables.clear()

        def take(name: str) -> list[pa.ChunkedArray]:
            """A column, after which those that were taken before are let go."""
            pa.default_memory_pool().release_unused()  # Arrow would keep it for some time
            return columns.pop(name)

        self._user_ids, self._users = ids.encode(take(USER_ID))
        self._item_ids, self._items = ids.encode(take(ITEM_ID))
        self._behavior: Numbers = _joined(take(BEHAVIOR))  # (N,) int8 or int16
        self._split: Numbers = _joined(take(SPLIT))  # (N,) int8
        self._time = _times(take(TIMESTAMP))  # (N,) int32 or int64
        self._complete = True  # every id has a row
        pa.default_memory_pool().release_unused()

    def filter(
        self, names: Sequence[str], asked: int, start: int | None, end: int | None
    ) -> list[FunnelStep]:
        """See `Stages.filter`."""
        number = np.full(len(self._behavior), 2, dtype=np.int8)
        filters = list(FILTERS)
        if start is not None or end is not None:
            known = self._time != _UNKNOWN
            number[:] = 3
            filters.append(WINDOW)
            if start is not None:
                number[known & (self._time < start)] = 2
            if end is not None:
                number[known & (self._time >= end)] = 2
        number[(self._behavior < 0) | (self._behavior >= asked)] = 1
        steps = self._measure(number, filters, names)
        self._keep(number == len(filters))
        self._renumber(as_numbers=True)
        return steps

    def deduplicate(self, keep: str, *, split_given: bool) -> dict[int, int]:
        """See `Stages.deduplicate`."""
        columns: list[Numbers] = [
            self._users,
            self._items,
            self._behavior,
            self._split,
            self._time,
        ]
        # Only the list may hold them: what is regrouped is let go column by column.
        self._users = self._items = np.empty(0, dtype=np.int32)
        self._behavior = self._split = self._time = np.empty(0, dtype=np.int8)
        found = deduplicate(columns, unknown=_UNKNOWN, last=keep == "last", split_given=split_given)
        self._users, self._items, self._behavior, self._split, self._time = found
        counts = np.bincount(self._behavior)
        return {code: int(rows) for code, rows in enumerate(counts) if rows}

    def core(self, core: Core, names: Sequence[str]) -> list[FunnelStep]:
        """See `Stages.core`."""
        counted = self._counted(core.target)
        pairs = self._users[counted], self._items[counted]
        sizes = len(self._user_ids), len(self._item_ids)
        users, items, rounds = rounds_of_fall(pairs, sizes, (core.min_user, core.min_item))
        if not rounds:
            return []
        number = np.empty(len(self._users), dtype=np.int32)
        for rows in _slices(len(number)):
            number[rows] = np.minimum(users[self._users[rows]], items[self._items[rows]])
        steps = self._measure(number, [round_name(place) for place in range(rounds)], names)
        kept = number == rounds
        del number, counted, pairs
        self._keep(kept)
        return steps

    def split_by_time(self, ratios: Ratios) -> Cuts:
        """See `Stages.split_by_time`."""
        valid_at, test_at = split.places(ratios, len(self._time))
        ordered = np.sort(self._time)

        def second(place: int) -> int | None:
            return int(ordered[place]) if place < len(ordered) else None

        cuts = Cuts(second(valid_at), second(test_at))
        split.check_cuts(cuts, ratios, int(ordered[0]), len(ordered))
        self._split = np.zeros(len(self._time), dtype=np.int8)
        for cut, part in ((cuts.valid, split.VALID), (cuts.test, split.TEST)):
            if cut is not None:
                self._split[self._time >= cut] = part
        return cuts

    def split_last_two(self) -> None:
        """See `Stages.split_last_two`."""
        order = np.lexsort((self._items, self._time, self._behavior, self._users))
        users, behavior = self._users[order], self._behavior[order]
        last = np.append((users[1:] != users[:-1]) | (behavior[1:] != behavior[:-1]), True)
        ends = np.flatnonzero(last)
        lengths = np.diff(ends, prepend=-1)
        ends = ends[lengths >= split.MIN_HISTORY]
        self._split = np.zeros(len(order), dtype=np.int8)
        self._split[order[ends]] = split.TEST
        self._split[order[ends - 1]] = split.VALID

    def write(self, names: Mapping[int, str], folder: Path) -> None:
        """See `Stages.write`."""
        self._renumber()
        write_ids(folder / USERS, USER_IDX, USER_ID, [self._user_ids])
        write_ids(folder / ITEMS, ITEM_IDX, ITEM_ID, [self._item_ids])
        write_interactions(folder, self._parts(names), names)

    def _parts(self, behaviors: Iterable[int]) -> Iterator[pa.Table]:
        """The rows, which are in order of user and item, behavior by behavior, split by split."""
        part = self._behavior.astype(np.int16)  # as int8 it would overflow from code 42 on
        part *= len(SPLITS)
        part += self._split
        places = range(len(SPLITS))
        for number in (code * len(SPLITS) + place for code in behaviors for place in places):
            for rows in _slices(len(part)):
                chosen = np.flatnonzero(part[rows] == number) + rows.start
                if not len(chosen):
                    continue
                time = self._time[chosen].astype(np.int64)
                columns = {
                    USER_IDX: self._users[chosen],
                    ITEM_IDX: self._items[chosen],
                    BEHAVIOR: self._behavior[chosen],
                    TIMESTAMP: pa.array(time, mask=time == _UNKNOWN),
                    SPLIT: self._split[chosen],
                }
                yield pa.table(columns, schema=NUMBERED)

    def _counted(self, target: int | None) -> npt.NDArray[np.bool_]:
        """The rows that stand for the pairs that a k-core counts, each pair once."""
        if target is not None:
            return np.asarray(self._behavior == target)
        new = np.ones(len(self._users), dtype=bool)
        new[1:] = self._users[1:] != self._users[:-1]
        new[1:] |= self._items[1:] != self._items[:-1]
        return new

    def _renumber(self, *, as_numbers: bool = False) -> None:
        """Leave out the users and items of whom no row is left."""
        texts = any(pa.types.is_string(known.type) for known in (self._user_ids, self._item_ids))
        if self._complete and not (texts and as_numbers):
            return
        self._complete = True
        self._user_ids, self._users = ids.renumbered(
            self._user_ids, self._users, as_numbers=as_numbers
        )
        self._item_ids, self._items = ids.renumbered(
            self._item_ids, self._items, as_numbers=as_numbers
        )

    def _keep(self, kept: npt.NDArray[np.bool_]) -> None:
        if kept.all():
            return
        self._complete = False
        # One at a time: what is filtered is let go.
        self._users = self._users[kept]
        self._items = self._items[kept]
        self._behavior = self._behavior[kept]
        self._split = self._split[kept]
        self._time = self._time[kept]

    def _measure(
        self, number: Numbers, filters: Sequence[str], names: Sequence[str]
    ) -> list[FunnelStep]:
        """What each of `filters` drops and leaves; see `mbrec.data_prep.funnel.measure`."""
        width = len(names) + 1  # the codes from -1 on
        cells = np.zeros((len(filters) + 1) * width, dtype=np.int64)
        for rows in _slices(len(number)):
            cell = number[rows].astype(np.int64) * width + self._behavior[rows] + 1
            cells += np.bincount(cell, minlength=len(cells))
        table = cells.reshape(-1, width)
        last = [
            _last(number, codes, len(found), len(filters))
            for codes, found in (
                (self._users, self._user_ids),
                (self._items, self._item_ids),
            )
        ]
        steps = []
        for place, name in enumerate(filters):
            gone, left = table[place], table[place + 1 :].sum(axis=0)
            users, items = (int(reached[place + 1 :].sum()) for reached in last)
            steps.append(
                FunnelStep(
                    name,
                    dropped=int(gone.sum()),
                    rows=int(left.sum()),
                    users=users,
                    items=items,
                    behaviors=_named(left, names),
                    detail=_named(gone, names),
                )
            )
        return steps


def _named(cells: Numbers, names: Sequence[str]) -> dict[str, int]:
    return by_behavior(names, ((code - 1, int(rows)) for code, rows in enumerate(cells)))


def _last(number: Numbers, codes: ids.IntArray, count: int, filters: int) -> Numbers:
    """How many ids got to filter 0, 1 …, and no further; the last: through all."""
    reached = np.full(count, -1, dtype=np.int32)
    for place in range(filters + 1):
        for rows in _slices(len(number)):
            there: Numbers = codes[rows][number[rows] == place]
            reached[there] = place
    return np.bincount(reached[reached >= 0], minlength=filters + 1)


def _slices(rows: int) -> Iterator[slice]:
    """All rows, a slice at a time: what is made of them on the way takes several times as much."""
    for start in range(0, rows, _SLICE):
        yield slice(start, min(start + _SLICE, rows))


def _joined(columns: Sequence[pa.ChunkedArray]) -> Numbers:
    return np.concatenate([column.to_numpy() for column in columns])


def _times(columns: list[pa.ChunkedArray]) -> Numbers:
    """Seconds; `_UNKNOWN` where the log tells none."""
    if any(column.null_count for column in columns):
        columns = [column.cast(pa.int64()).fill_null(_UNKNOWN) for column in columns]
    return _joined(columns)
