"""Malformed rows: counted, written down, and too many of them refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ibis.expr.types as ir

from mbrec.data_prep.cleaning import UNKNOWN_BEHAVIOR
from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.layout import Layout
from mbrec.errors import DataError

_SHOWN = 120  # characters of a bad line in a message


def write_rejects(
    engine: DuckEngine, events: ir.Table, paths: Sequence[Path], target: Path
) -> None:
    """Write every malformed row (file, line, reason, text) to a Parquet file, in order."""
    bad = events.filter(events.reason.notnull())
    name = bad.file.cases(*[(number, str(path)) for number, path in enumerate(paths)])
    named = bad.mutate(name=name.cast("string"))
    ordered = named.order_by(["file", "line"])
    engine.write(ordered.select("line", "reason", "text", file="name").relocate("file"), target)


def refuse_rejects(
    engine: DuckEngine, events: ir.Table, layouts: Sequence[Layout], share: float
) -> dict[str, int]:
    """Count the malformed rows by reason.

    Raises:
        DataError: They are more than `share` of all; the message has the counts and the first.
    """
    groups = engine.fetch(events.group_by("reason").agg(rows=events.count()))
    reasons = {row["reason"]: row["rows"] for row in groups if row["reason"] is not None}
    reasons = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    total, bad = sum(row["rows"] for row in groups), sum(reasons.values())
    if bad <= share * total:
        return reasons
    rows = events.filter(events.reason.notnull()).order_by(["file", "line"])
    [first] = engine.fetch(rows.select("file", "line", "reason", "text").limit(1))
    layout = layouts[first["file"]]
    counts = ", ".join(f"{count:,} × {reason}" for reason, count in reasons.items())
    text = first["text"][:_SHOWN] + ("…" if len(first["text"]) > _SHOWN else "")
    raise DataError(
        f"{bad:,} of {total:,} rows are malformed ({bad / total:.2%}, {share:.2%} are allowed): "
        f"{counts}. The first is {layout.path}:{first['line']}, {first['reason']}: {text!r}.",
        f"{_remedy(next(iter(reasons)), layout)} Or raise --max-rejects.",
    )


def _remedy(reason: str, layout: Layout) -> str:
    """What to do about the most frequent reason."""
    if reason == UNKNOWN_BEHAVIOR:
        known = ", ".join(layout.codes)
        return f"The known codes are {known}; with --source csv, --map CODE=NAME adds one."
    if reason.startswith("timestamp") and layout.ids == "text":
        return "Check --time-col and --time-format."
    if reason == "not UTF-8":
        return "With --source csv, name the --encoding."
    return "Check --source and mend the log."
