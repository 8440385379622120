"""The funnel: what every step of the preparation dropped, and what it left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ibis
import ibis.expr.types as ir

from mbrec.columns import BEHAVIOR, ITEM_ID, USER_ID
from mbrec.data_prep.cleaning import FILTER
from mbrec.data_prep.engine import Engine
from mbrec.errors import DataError

READ = "read"
_UNNAMED = "unnamed"  # codes that are known and not used, or not known

_REMEDIES = {
    "rejected": "Check --source and the first lines of the log.",
    "other behaviors": "Check --behaviors.",
    "outside the time window": "Check --start and --end.",
    "k-core": "Lower --min-user and --min-item, or count all behaviors with --core-on any.",
}


@dataclass(frozen=True)
class FunnelStep:
    """One step, and what was left after it."""

    name: str
    dropped: int
    rows: int
    users: int | None = None
    """None while rows are not yet understood."""
    items: int | None = None
    behaviors: Mapping[str, int] = field(default_factory=dict)
    detail: Mapping[str, int] = field(default_factory=dict)
    """Where one name is not enough: reason, or behavior → rows dropped."""


@dataclass
class Funnel:
    """Collects the steps, tells each as it comes, and keeps their sum right.

    Args:
        tell: Called with every step.
    """

    tell: Callable[[FunnelStep], None]
    steps: list[FunnelStep] = field(default_factory=list)

    def add(self, step: FunnelStep) -> None:
        """Take one step more.

        Raises:
            DataError: It emptied the data; the message names it.
        """
        if self.steps and step.rows + step.dropped != self.steps[-1].rows:
            raise RuntimeError(
                f"{step.name}: {step.dropped} dropped and {step.rows} left do not "
                f"add up to {self.steps[-1].rows}"
            )
        self.steps.append(step)
        self.tell(step)
        if step.rows == 0:
            before = self.steps[-2].rows if len(self.steps) > 1 else 0
            raise DataError(
                f"The step {step.name!r} dropped all of the {before:,} rows that were left.",
                next((text for key, text in _REMEDIES.items() if step.name.startswith(key)), ""),
            )

    def records(self) -> list[dict[str, Any]]:
        """The steps as the manifest has them."""
        return [asdict(step) for step in self.steps]

    def totals(self) -> dict[str, Any]:
        """Rows read, dropped by each kind of step, and kept; they add up."""
        dropped: dict[str, int] = {}
        for step in self.steps[1:]:
            kind = "k-core" if step.name.startswith("k-core") else step.name
            dropped[kind] = dropped.get(kind, 0) + step.dropped
        return {
            "rows_read": self.steps[0].rows,
            "rejected": dropped.pop("rejected", 0),
            "duplicates": dropped.pop("duplicates", 0),
            "dropped": dropped,
            "kept": self.steps[-1].rows,
        }


def measure(
    engine: Engine, events: ir.Table, filters: Sequence[str], names: Sequence[str]
) -> list[FunnelStep]:
    """What each of `filters` drops and leaves, in three passes over `events`.

    Args:
        engine: Where to compute.
        events: Rows numbered by the filter that drops them in `FILTER`.
        filters: The filters' names.
        names: Name of each behavior code.

    Returns:
        One step per filter.
    """
    groups = engine.fetch(events.group_by(FILTER, BEHAVIOR).agg(rows=events.count()))
    users, items = (_reached(engine, events, column) for column in (USER_ID, ITEM_ID))
    steps = []
    for number, name in enumerate(filters):
        left, gone = (
            by_behavior(names, ((g[BEHAVIOR], g["rows"]) for g in groups if among(g[FILTER])))
            for among in (number.__lt__, number.__eq__)
        )
        steps.append(
            FunnelStep(
                name,
                dropped=sum(gone.values()),
                rows=sum(left.values()),
                users=sum(count for last, count in users.items() if last > number),
                items=sum(count for last, count in items.items() if last > number),
                behaviors=left,
                detail=gone,
            )
        )
    return steps


def by_behavior(names: Sequence[str], counts: Iterable[tuple[int, int]]) -> dict[str, int]:
    """Behavior → rows, in the order of the codes; behaviors without any are left out.

    Args:
        names: Name of each behavior code.
        counts: Codes, -1 for one without a name, and numbers of rows.
    """
    rows = dict.fromkeys((*names, _UNNAMED), 0)
    for code, count in counts:
        rows[_UNNAMED if code < 0 else names[code]] += count
    return {name: count for name, count in rows.items() if count}


def _reached(engine: Engine, events: ir.Table, column: str) -> dict[int, int]:
    """Number of the last filter that a user or item reached → how many users or items."""
    last = events.group_by(column).agg(last=events[FILTER].max())
    rows = engine.fetch(last.group_by("last").agg(ids=ibis._.count()))
    return {row["last"]: row["ids"] for row in rows}
