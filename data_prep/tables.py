"""The stages of a preparation as Ibis expressions, for logs that do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from mbrec.columns import BEHAVIOR, ITEM_ID, ITEM_IDX, SPLIT, TIMESTAMP, USER_ID, USER_IDX
from mbrec.data_prep import cleaning, split
from mbrec.data_prep.engine import Engine
from mbrec.data_prep.funnel import FunnelStep, measure
from mbrec.data_prep.kcore import Core, core_filter
from mbrec.data_prep.split import Cuts, Ratios
from mbrec.data_prep.writing import write_ids, write_interactions
from mbrec.dataset import ITEMS, USERS


class TableStages:
    """See `mbrec.data_prep.stages.Stages`.

    Args:
        engine: Where to compute.
        events: The sound rows: user_id, item_id, behavior, timestamp, split.
    """

    def __init__(self, engine: Engine, events: ir.Table) -> None:
        self._engine = engine
        self._stored = events  # what there is on disk
        self._events = events

    def filter(
        self, names: Sequence[str], asked: int, start: int | None, end: int | None
    ) -> list[FunnelStep]:
        """See `Stages.filter`."""
        numbered, filters = cleaning.filtered(self._events, asked, start, end)
        steps = measure(self._engine, numbered, filters, names)
        self._events = numbered.filter(numbered[cleaning.FILTER] == len(filters))
        return steps

    def deduplicate(self, keep: str, *, split_given: bool) -> dict[int, int]:
        """See `Stages.deduplicate`."""
        single = cleaning.deduplicated(self._with_ids(), keep, split_given=split_given)
        self._store(single)
        groups = self._events.group_by(BEHAVIOR).agg(rows=self._events.count())
        return {row[BEHAVIOR]: row["rows"] for row in self._engine.fetch(groups)}

    def core(self, core: Core, names: Sequence[str]) -> list[FunnelStep]:
        """See `Stages.core`."""
        numbered, rounds = core_filter(self._engine, self._events, core)
        if not rounds:
            return []
        self._store(numbered)
        numbered = self._events
        self._events = numbered.filter(numbered[cleaning.FILTER] == len(rounds))
        return measure(self._engine, numbered, rounds, names)

    def split_by_time(self, ratios: Ratios) -> Cuts:
        """See `Stages.split_by_time`."""
        cuts = split.temporal_cuts(self._engine, self._events, ratios)
        self._events = split.temporal(self._events, cuts)
        return cuts

    def split_last_two(self) -> None:
        """See `Stages.split_last_two`."""
        self._events = split.leave_one_out(self._events)

    def write(self, names: Mapping[int, str], folder: Path) -> None:
        """See `Stages.write`."""
        users = self._numbered(USER_ID, USER_IDX)
        items = self._numbered(ITEM_ID, ITEM_IDX)
        write_ids(folder / USERS, USER_IDX, USER_ID, self._ids(users, USER_IDX, USER_ID))
        write_ids(folder / ITEMS, ITEM_IDX, ITEM_ID, self._ids(items, ITEM_IDX, ITEM_ID))
        joined = self._events.join(users, USER_ID).join(items, ITEM_ID)
        ordered = joined.order_by([BEHAVIOR, SPLIT, USER_IDX, ITEM_IDX])
        rows = ordered.select(USER_IDX, ITEM_IDX, BEHAVIOR, TIMESTAMP, SPLIT)
        write_interactions(folder, self._engine.ordered(rows), names)

    def _store(self, table: ir.Table) -> None:
        """Compute `table` into the place of what there was."""
        before = self._stored
        self._stored = self._events = self._engine.store(table)
        self._engine.drop(before)

    def _with_ids(self) -> ir.Table:
        """Make integers of text ids where that loses nothing."""
        events = self._events
        texts = [column for column in (USER_ID, ITEM_ID) if events[column].type().is_string()]
        if not texts:
            return events
        checks = {column: cleaning.integer_ids(events[column]) for column in texts}
        [whole] = self._engine.fetch(events.agg(**checks))
        return events.mutate(
            **{column: events[column].cast("int64") for column in texts if whole[column]}
        )

    def _numbered(self, column: str, index: str) -> ir.Table:
        """Every id of `column` and its place in the order of ids, from 0."""
        ids = self._events.select(column).distinct()
        place = ibis.row_number().over(ibis.window(order_by=column)).cast("int32")
        return self._engine.store(ids.select(ids[column], **{index: place}).relocate(index))

    def _ids(self, table: ir.Table, index: str, column: str) -> Iterator[pa.Array]:
        rows = self._engine.ordered(table.order_by(index))
        for found in rows:
            yield from found[column].chunks
