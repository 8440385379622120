"""The logs of the JData contests of 2016 and 2019, told apart by their headers.

Times are Beijing time (UTC+8). 2016 writes user ids as floats (``266079.0``), leaves fields
empty and repeats whole rows; some copies are GBK. Lines are UTF-8 or, failing that, GB 18030,
of which GBK is a part; none of the fields that are used holds anything but ASCII.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mbrec.data_prep.clock import Clock
from mbrec.data_prep.layout import Layout, Log
from mbrec.data_prep.lines import first_line
from mbrec.errors import DataError

BEHAVIORS = ("click", "favorite", "purchase")
ZONE = "+08:00"


@dataclass(frozen=True)
class Edition:
    """One of the two formats."""

    year: int
    header: tuple[str, ...]
    time: str
    codes: dict[str, str]


EDITIONS = (
    Edition(
        2019,
        ("user_id", "sku_id", "action_time", "module_id", "type"),
        "action_time",
        {"1": "click", "2": "purchase", "3": "favorite", "4": "comment", "5": "cart"},
    ),
    Edition(
        2016,
        ("user_id", "sku_id", "time", "model_id", "type", "cate", "brand"),
        "time",
        # 3 takes an item out of the cart again: known, and no behavior.
        {"1": "click", "2": "cart", "3": "", "4": "purchase", "5": "favorite", "6": "click"},
    ),
)


def describe(paths: Sequence[Path]) -> Log:
    """Describe JData files of one edition.

    Raises:
        DataError: A file is empty, has neither header, or the files are of both editions.
    """
    editions = [_edition(path) for path in paths]
    if len({edition.year for edition in editions}) > 1:
        listed = ", ".join(f"{p} ({e.year})" for p, e in zip(paths, editions, strict=True))
        raise DataError(
            f"The inputs are of two JData contests: {listed}.",
            "Their ids have nothing to do with each other: prepare them one by one.",
        )
    layouts = [_layout(path, edition) for path, edition in zip(paths, editions, strict=True)]
    known = [name for name in editions[0].codes.values() if name]
    return Log(tuple(layouts), BEHAVIORS, ZONE, known=tuple(dict.fromkeys(known)))


def _layout(path: Path, edition: Edition) -> Layout:
    return Layout(
        path,
        user=edition.header.index("user_id"),
        item=edition.header.index("sku_id"),
        behavior=edition.header.index("type"),
        time=edition.header.index(edition.time),
        clock=Clock("iso", ZONE),
        codes=edition.codes,
        width=len(edition.header),
        header=True,
        ids="integer",
        fallback="gb18030",
    )


def _edition(path: Path) -> Edition:
    head = first_line(path)
    fields = tuple(field.strip().strip('"') for field in head.split(","))
    for edition in EDITIONS:
        if fields == edition.header:
            return edition
    expected = " or ".join(",".join(edition.header) for edition in EDITIONS)
    raise DataError(
        f"{path} line 1 is no JData header: {head[:120]!r}, expected {expected}.",
        "Restore the header, or use another --source (ub: UserBehavior.csv; csv: any other).",
    )
