"""The raw formats that synthetic logs imitate: codes, windows of time, columns, order of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Order = Literal["user_then_oldest", "user_then_newest", "oldest"]
Array = npt.NDArray[Any]
BEIJING = timezone(timedelta(hours=8))


class Stage(IntEnum):
    """What a user can do with an item, in the order of the funnel."""

    VIEW = 0
    CLICK = 1  # the second row that JData 2016 writes for a view
    FAVORITE = 2
    CART = 3
    REMOVE = 4
    PURCHASE = 5
    COMMENT = 6


@dataclass(frozen=True)
class Rows:
    """Events of a log before they are written, one per position."""

    user_id: Array  # (N,) int64, the shop's
    item_id: Array  # (N,) int64
    category: Array  # (N,) int64, the topic of the item
    stage: Array  # (N,) int8
    second: Array  # (N,) int64, counted from the start of the window
    draw: Array  # (N,) float32 in [0, 1), for what the columns leave to chance


@dataclass(frozen=True)
class LogFormat:
    """One raw format."""

    start: datetime
    """The first moment of the window, in the shop's own time zone."""
    days: int
    codes: Mapping[Stage, str]
    """How the log names each stage; a stage that is not here is not logged."""
    order: Order
    header: str
    columns: Callable[[LogFormat, Rows, bool], pa.Table]
    """Rows to the columns as they are written; the flag asks for the quirks of the real log."""
    cart_from: float = 0.0
    """The share of the window before which carts are not logged."""
    outside: float = 0.0
    """With quirks: the share of events before the window."""
    repeats_exact: float = 0.0
    """With quirks: the share of repeated events that repeat the whole row, time included."""

    @property
    def seconds(self) -> int:
        """The length of the window."""
        return self.days * 86400

    def code(self, stage: Array) -> pa.Array:
        """The log's names (N,) of stages (N,)."""
        names = pa.array([self.codes.get(member, "") for member in Stage])
        return names.take(pa.array(stage))

    def local_time(self, second: Array) -> pa.Array:
        """Seconds of the window (N,) as local date and time, to the second."""
        start = int(self.start.replace(tzinfo=timezone.utc).timestamp())
        return pa.array(second + start).cast(pa.timestamp("s"))


def _user_behavior(log: LogFormat, rows: Rows, quirks: bool) -> pa.Table:
    return pa.table(
        {
            "user_id": rows.user_id,
            "item_id": rows.item_id,
            "category": rows.category + 1_000_003,
            "behavior": log.code(rows.stage),
            "timestamp": rows.second + int(log.start.timestamp()),
        }
    )


def _jdata_2019(log: LogFormat, rows: Rows, quirks: bool) -> pa.Table:
    module = pa.array(6_000_000 + (rows.draw * 97).astype("i8") * 21_557)
    if quirks:
        module = pc.if_else(pa.array(rows.draw % 0.01 < 1e-4), None, module)
    return pa.table(
        {
            "user_id": rows.user_id,
            "sku_id": rows.item_id,
            "action_time": log.local_time(rows.second),
            "module_id": module,
            "type": log.code(rows.stage),
        }
    )


def _jdata_2016(log: LogFormat, rows: Rows, quirks: bool) -> pa.Table:
    models = np.array([0, 0, 0, 216, 217, 218, 26, 27, 211, 111])
    model = pa.array(models[(rows.draw * len(models)).astype("i8")])
    empty = rows.stage != Stage.CLICK
    user_id = pa.array(rows.user_id).cast(pa.string())
    if quirks:
        empty |= rows.draw % 0.1 < 0.003
        user_id = pc.binary_join_element_wise(user_id, ".0", "")
    return pa.table(
        {
            "user_id": user_id,
            "sku_id": rows.item_id,
            "time": log.local_time(rows.second),
            "model_id": pc.if_else(pa.array(empty), None, model),
            "type": log.code(rows.stage),
            "cate": rows.category % 8 + 4,
            "brand": rows.item_id * 7919 % 800 + 1,
        }
    )


FORMATS: Mapping[str, LogFormat] = {
    "ub": LogFormat(
        start=datetime(2017, 11, 25, tzinfo=BEIJING),
        days=9,
        codes={
            Stage.VIEW: "pv",
            Stage.FAVORITE: "fav",
            Stage.CART: "cart",
            Stage.PURCHASE: "buy",
        },
        order="user_then_oldest",
        header="",
        columns=_user_behavior,
        outside=1 / 2500,
    ),
    "jd2019": LogFormat(
        start=datetime(2018, 2, 1, tzinfo=BEIJING),
        days=74,
        codes={
            Stage.VIEW: "1",
            Stage.PURCHASE: "2",
            Stage.FAVORITE: "3",
            Stage.COMMENT: "4",
            Stage.CART: "5",
        },
        order="user_then_newest",
        header="user_id,sku_id,action_time,module_id,type",
        columns=_jdata_2019,
        cart_from=66 / 74,
        repeats_exact=0.2,
    ),
    "jd2016": LogFormat(
        start=datetime(2016, 2, 1, tzinfo=BEIJING),
        days=29,
        codes={
            Stage.VIEW: "1",
            Stage.CART: "2",
            Stage.REMOVE: "3",
            Stage.PURCHASE: "4",
            Stage.FAVORITE: "5",
            Stage.CLICK: "6",
        },
        order="oldest",
        header="user_id,sku_id,time,model_id,type,cate,brand",
        columns=_jdata_2016,
        repeats_exact=0.9,
    ),
}
