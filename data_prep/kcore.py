"""The k-core: users and items with enough pairs, iterated until nothing more falls out."""

from __future__ import annotations

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from mbrec.columns import ITEM_ID, USER_ID
from mbrec.data_prep.cleaning import FILTER
from mbrec.data_prep.engine import Engine

# Share of ids that fell in a round from which a smaller copy of the pairs pays off; below it, the
# next rounds are quicker in passing over them.
_WORTH_A_COPY = 0.05


@dataclass(frozen=True)
class Core:
    """What a k-core asks for.

    Attributes:
        min_user: Pairs a user must have; 0: any number will do.
        min_item: Pairs an item must have; 0: any number will do.
        target: Number of the behavior whose pairs count; None: the distinct (user, item) pairs
            of all behaviors together, a pair with several behaviors counting once.
    """

    min_user: int
    min_item: int
    target: int | None


def round_name(number: int) -> str:
    """What the funnel calls a round, counted from 0."""
    return f"k-core round {number + 1}"


def core_filter(engine: Engine, events: ir.Table, core: Core) -> tuple[ir.Table, list[str]]:
    """Number every row by the round of the k-core that drops it.

    A round drops the items with too few pairs, then the users with too few of what is left. The
    last one, in which nothing falls, is not counted. What remains is the largest set in which
    every user and item has enough, so it depends neither on the order of rows nor of rounds.

    Args:
        engine: Where to compute.
        events: Distinct (user_id, item_id, behavior) rows.
        core: The thresholds.

    Returns:
        `events` with the column `FILTER`, and the names of the rounds. A row falls with its user
        or its item, whatever its behavior.
    """
    counted = events if core.target is None else events.filter(events.behavior == core.target)
    pairs = engine.store(counted.select(USER_ID, ITEM_ID).distinct())
    limits = {ITEM_ID: core.min_item, USER_ID: core.min_user}
    limits = {column: minimum for column, minimum in limits.items() if minimum > 0}
    alive = {column: engine.store(events.select(column).distinct()) for column in limits}
    rounds = 0
    while True:
        fallen = [_peel(engine, pairs, alive, *limit, rounds) for limit in limits.items()]
        if not any(fallen):
            break
        rounds += 1
        if max(fallen) > _WORTH_A_COPY:
            pairs = _copied(engine, pairs, alive)
    names = [round_name(number) for number in range(rounds)]
    return _numbered(engine, events, list(limits), rounds), names


def _peel(
    engine: Engine,
    pairs: ir.Table,
    alive: dict[str, ir.Table],
    column: str,
    minimum: int,
    number: int,
) -> float:
    """Take the ids of `column` with too few pairs out of `alive`; give the share that fell."""
    left = _left(pairs, alive)
    counts = left.group_by(column).agg(pairs=left.count())
    enough = engine.store(counts.filter(counts.pairs >= minimum).select(column))
    lost = alive[column].anti_join(enough, column)
    engine.append(f"fallen_{column}", lost.mutate(round=ibis.literal(number, "int32")))
    before, after = (
        engine.fetch(table.agg(ids=table.count()))[0]["ids"] for table in (alive[column], enough)
    )
    engine.drop(alive[column])
    alive[column] = enough
    return 1 - after / before if before else 0.0


def _left(pairs: ir.Table, alive: dict[str, ir.Table]) -> ir.Table:
    """The pairs whose user and item are both still there."""
    for column, ids in alive.items():
        pairs = pairs.semi_join(ids, column)
    return pairs


def _copied(engine: Engine, pairs: ir.Table, alive: dict[str, ir.Table]) -> ir.Table:
    """Only what is left of `pairs`, in their place."""
    fewer = engine.store(_left(pairs, alive))
    engine.drop(pairs)
    return fewer


def _numbered(engine: Engine, events: ir.Table, columns: list[str], rounds: int) -> ir.Table:
    """Join the rounds in which users and items fell to the rows; the earlier one counts."""
    number: ir.IntegerValue = ibis.literal(rounds, "int32")
    for column in columns:
        fallen = engine.table(f"fallen_{column}").rename({f"{column}_fell": "round"})
        events = events.left_join(fallen, column).drop(f"{column}_right")
        number = ibis.least(number, events[f"{column}_fell"].fill_null(rounds))
    return events.mutate(**{FILTER: number}).drop(*[f"{column}_fell" for column in columns])
