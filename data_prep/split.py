"""Splitting events into train, valid and test.

Both protocols look at nothing but time and ids, so a log gives the same split in any row order.
A pair of one behavior stands in one split; a pair may well be a purchase in the test split and a
click in the training split. That is the task, not a leak, but see `docs/data.md` for what a
split does not protect from.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction

import ibis
import ibis.expr.types as ir

from mbrec.columns import BEHAVIOR, ITEM_ID, TIMESTAMP, USER_ID
from mbrec.data_prep.engine import Engine
from mbrec.errors import DataError, UsageError

TRAIN, VALID, TEST = range(3)  # positions in `mbrec.columns.SPLITS`

MIN_HISTORY = 3  # rows of a user and behavior from which leave-one-out takes two away


@dataclass(frozen=True)
class Ratios:
    """Shares of the training, validation and test part, e.g. 8:1:1."""

    train: Fraction
    valid: Fraction
    test: Fraction

    @classmethod
    def parse(cls, text: str) -> Ratios:
        """Read ``8:1:1``.

        Raises:
            UsageError: Not three numbers, one negative, or no training part.
        """
        try:
            train, valid, test = (Fraction(part.strip()) for part in text.split(":"))
        except (ValueError, ZeroDivisionError) as error:
            raise UsageError(
                f"The ratios {text!r} are no three numbers.", "Write train:valid:test, e.g. 8:1:1."
            ) from error
        if train <= 0 or valid < 0 or test < 0:
            raise UsageError(
                f"The ratios {text!r} leave no training part, or one is negative.",
                "Write train:valid:test, e.g. 8:1:1.",
            )
        return cls(train, valid, test)

    def __str__(self) -> str:
        return f"{self.train}:{self.valid}:{self.test}"


@dataclass(frozen=True)
class Cuts:
    """The first second (Unix, UTC) of the validation and of the test part; None: it is empty."""

    valid: int | None
    test: int | None


def temporal_cuts(engine: Engine, events: ir.Table, ratios: Ratios) -> Cuts:
    """Find the two global cuts in time.

    The validation part begins with the second of the row at ``floor(n · train share)`` in order
    of time, counted from 0, the test part likewise; rows of one second are never torn apart.

    Raises:
        DataError: Too many rows share the first second to leave a training part.
    """
    [row] = engine.fetch(events.agg(rows=events.count(), first=events.timestamp.min()))
    valid_at, test_at = places(ratios, row["rows"])
    seconds = events.group_by(TIMESTAMP).agg(rows=events.count())
    upto = seconds.rows.sum().over(ibis.cumulative_window(order_by=seconds.timestamp))
    seconds = seconds.mutate(upto=upto)
    [cuts] = engine.fetch(
        seconds.agg(
            valid=seconds.timestamp.min(where=seconds.upto > valid_at),
            test=seconds.timestamp.min(where=seconds.upto > test_at),
        )
    )
    found = Cuts(**cuts)
    check_cuts(found, ratios, row["first"], row["rows"])
    return found


def places(ratios: Ratios, rows: int) -> tuple[int, int]:
    """Which of `rows` rows in order of time, from 0, begins the validation and the test part."""
    total = ratios.train + ratios.valid + ratios.test
    valid_at = math.floor(rows * ratios.train / total)
    return valid_at, math.floor(rows * (ratios.train + ratios.valid) / total)


def check_cuts(cuts: Cuts, ratios: Ratios, first: int, rows: int) -> None:
    """Refuse cuts before which there is nothing.

    Raises:
        DataError: Too many rows share the first second to leave a training part.
    """
    if cuts.valid is not None and cuts.valid <= first:
        raise DataError(
            f"A cut in time at {ratios} leaves no training rows: too many of the {rows:,} "
            f"rows have the first timestamp, {first}.",
            "Check the time column, or choose other --ratios or --split leave-one-out.",
        )


def temporal(events: ir.Table, cuts: Cuts) -> ir.Table:
    """Give every row its split by the two cuts."""
    branches = [
        (events.timestamp >= cut, part)
        for cut, part in ((cuts.test, TEST), (cuts.valid, VALID))
        if cut is not None
    ]
    part = ibis.cases(*branches, else_=TRAIN) if branches else ibis.literal(TRAIN)
    return events.mutate(split=part.cast("int8"))


def leave_one_out(events: ir.Table) -> ir.Table:
    """Per user and behavior, the last row is test, the last but one valid, the rest train.

    Of rows of one second the greater item id is the later. A user with fewer than three rows of
    a behavior keeps them all in training.
    """
    mine = ibis.window(group_by=[USER_ID, BEHAVIOR])
    latest = ibis.window(
        group_by=[USER_ID, BEHAVIOR],
        order_by=[ibis.desc(events[TIMESTAMP]), ibis.desc(events[ITEM_ID])],
    )
    place, history = ibis.row_number().over(latest), events.count().over(mine)
    part = ibis.cases(
        (history < MIN_HISTORY, TRAIN), (place == 0, TEST), (place == 1, VALID), else_=TRAIN
    )
    return events.mutate(split=part.cast("int8"))


def describe(protocol: str, ratios: Ratios, cuts: Cuts | None) -> dict[str, object]:
    """What the manifest says of the split."""
    found: dict[str, object] = {"protocol": protocol}
    if cuts is not None:
        found |= {"ratios": str(ratios), "cuts": asdict(cuts)}
    return found
