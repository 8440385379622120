"""UserBehavior.csv of Taobao, as published.

No header; ``user,item,category,behavior,timestamp`` with behaviors pv, fav, cart, buy and Unix
seconds. The shop's days are Beijing days (UTC+8).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mbrec.data_prep.clock import Clock
from mbrec.data_prep.layout import Layout, Log
from mbrec.data_prep.lines import first_line
from mbrec.errors import DataError

CODES = {"pv": "click", "fav": "favorite", "cart": "cart", "buy": "purchase"}
BEHAVIORS = ("click", "favorite", "cart", "purchase")
ZONE = "+08:00"

_WIDTH = 5
_TIME_DIGITS = 10  # all of 2001 to 2286


def describe(paths: Sequence[Path]) -> Log:
    """Describe UserBehavior files.

    Raises:
        DataError: A file is empty, or begins with a header.
    """
    for path in paths:
        _refuse_header(path)
    layouts = [
        Layout(
            path,
            user=0,
            item=1,
            behavior=3,
            time=4,
            clock=Clock("s"),
            codes=CODES,
            width=_WIDTH,
            ids="integer",
            complete=_is_complete,
        )
        for path in paths
    ]
    return Log(tuple(layouts), BEHAVIORS, ZONE, known=BEHAVIORS)


def _is_complete(line: str) -> bool:
    """A cut timestamp would still be a number, and put the row into 1970."""
    return len(line.rsplit(",", 1)[-1]) >= _TIME_DIGITS


def _refuse_header(path: Path) -> None:
    head = first_line(path)
    fields = [field.strip().strip('"').lower() for field in head.split(",")]
    if not any("user" in field for field in fields):
        return
    if "sku_id" in fields:
        raise DataError(f"{path} is a JData log (its header is {head!r}).", "Use --source jd.")
    raise DataError(
        f"{path} line 1 is a header ({head!r}), but UserBehavior.csv has none.",
        "Remove that line, or use --source csv and name the columns.",
    )
