"""Numbering users and items, and writing the tables of a dataset in their order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir

from mbrec.columns import (
    BEHAVIOR,
    ITEM_ID,
    ITEM_IDX,
    SPLIT,
    SPLITS,
    TIMESTAMP,
    USER_ID,
    USER_IDX,
)
from mbrec.data_prep.engine import DuckEngine
from mbrec.dataset import INTERACTIONS, ITEMS, USERS


def write_tables(engine: DuckEngine, events: ir.Table, names: Sequence[str], folder: Path) -> None:
    """Write users, items and interactions of a dataset into `folder`.

    Args:
        engine: Where to compute.
        events: user_id, item_id, behavior, timestamp, split; each pair once per behavior.
        names: Name of each behavior code; codes ascend along the cascade.
        folder: Where `mbrec.dataset.DatasetWriter` expects the files.
    """
    users = _numbered(engine, events, USER_ID, USER_IDX)
    items = _numbered(engine, events, ITEM_ID, ITEM_IDX)
    engine.write(users.order_by(USER_IDX), folder / USERS)
    engine.write(items.order_by(ITEM_IDX), folder / ITEMS)
    joined = events.join(users, USER_ID).join(items, ITEM_ID)
    ordered = joined.order_by([BEHAVIOR, SPLIT, USER_IDX, ITEM_IDX])
    table = ordered.select(
        USER_IDX,
        ITEM_IDX,
        behavior=_named(ordered[BEHAVIOR], names),
        timestamp=ordered[TIMESTAMP].cast("int64"),
        split=_named(ordered[SPLIT], SPLITS),
    )
    engine.write(table, folder / INTERACTIONS)


def _numbered(engine: DuckEngine, events: ir.Table, column: str, index: str) -> ir.Table:
    """Every id of `column` and its place in the order of ids, from 0."""
    ids = events.select(column).distinct()
    place = ibis.row_number().over(ibis.window(order_by=column)).cast("int32")
    return engine.store(ids.select(ids[column], **{index: place}).relocate(index))


def _named(codes: ir.IntegerColumn, names: Sequence[str]) -> ir.StringColumn:
    return codes.cases(*[(code, ibis.literal(name)) for code, name in enumerate(names)])
