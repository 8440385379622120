"""Malformed rows: counted, written down, and too many of them refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mbrec.data_prep.cleaning import REASON, UNKNOWN_BEHAVIOR
from mbrec.data_prep.layout import Layout
from mbrec.data_prep.writing import TableWriter
from mbrec.dataset import REJECTS_SCHEMA
from mbrec.errors import DataError

COLUMNS = ("file", "line", REASON, "text")
_SHOWN = 120  # characters of a bad line in a message


class Rejects:
    """Writes the malformed rows to a Parquet file as they come. Use as a context manager.

    Args:
        layouts: The files.
        target: The Parquet file to write (file, line, reason, text).

    Attributes:
        reasons: Reason → rows.
    """

    def __init__(self, layouts: Sequence[Layout], target: Path) -> None:
        self.reasons: Counter[str] = Counter()
        self._layouts = layouts
        self._first: dict[str, Any] | None = None
        self._paths = pa.array([str(layout.path) for layout in layouts], pa.string())
        self._writer = TableWriter(target, REJECTS_SCHEMA)

    def __enter__(self) -> Rejects:
        self._writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def add(self, rows: pa.Table) -> None:
        """Take malformed rows with the columns `COLUMNS`; they come in order of file and line."""
        if not len(rows):
            return
        self._first = self._first or rows.slice(0, 1).to_pylist()[0]
        for group in rows[REASON].value_counts().to_pylist():
            self.reasons[group["values"]] += group["counts"]
        named = rows.select(COLUMNS).set_column(0, "file", self._paths.take(rows["file"]))
        self._writer.write(named.cast(REJECTS_SCHEMA))

    def sorted_reasons(self) -> dict[str, int]:
        """Reason → rows, the most frequent first."""
        return dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0])))

    def refuse(self, total: int, share: float) -> None:
        """Refuse a log of `total` rows that has too many malformed ones.

        Raises:
            DataError: They are more than `share` of all; the message has the counts and the first.
        """
        reasons = self.sorted_reasons()
        bad = sum(reasons.values())
        if bad <= share * total or self._first is None:
            return
        first = self._first
        layout = self._layouts[first["file"]]
        counts = ", ".join(f"{count:,} × {reason}" for reason, count in reasons.items())
        text = first["text"][:_SHOWN] + ("…" if len(first["text"]) > _SHOWN else "")
        raise DataError(
            f"{bad:,} of {total:,} rows are malformed ({bad / total:.2%}, {share:.2%} are "
            f"allowed): {counts}. The first is {layout.path}:{first['line']}, {first['reason']}: "
            f"{text!r}.",
            f"{_remedy(next(iter(reasons)), layout)} Or raise --max-rejects.",
        )


def malformed(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The sound and the malformed rows of what `mbrec.data_prep.parsing.Parser` gave."""
    if REASON not in table.column_names:
        return table, table.slice(0, 0)
    sound = pc.is_null(table[REASON])
    rows = table.filter(sound).drop_columns(list(COLUMNS))
    return rows, table.filter(pc.invert(sound))


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
