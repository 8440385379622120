"""From fields to typed rows: what is malformed, what is not asked for, what is there twice."""

from __future__ import annotations

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from mbrec.columns import BEHAVIOR, ITEM_ID, SPLITS, TIMESTAMP, USER_ID
from mbrec.data_prep.clock import whole_number, without_zero_fraction
from mbrec.data_prep.layout import Column, Layout
from mbrec.data_prep.lines import FIELD_SEPARATOR

REASON = "reason"
FILTERS = ("rejected", "other behaviors")
WINDOW = "outside the time window"
UNKNOWN_BEHAVIOR = "unknown behavior"
FILTER = "filter"
"""Number of the filter that dropped a row; the number of filters if none did."""

_UNUSED = -1  # code of a behavior that is known, but has no name


def fields_of_lines(lines: ir.Table, layout: Layout) -> ir.Table:
    """Split lines into the fields that `layout` names, as text; null where it names none."""
    if layout.blanks:
        parts = lines.text.strip().re_split(r"[ \t]*[, \t][ \t]*")
    else:
        parts = lines.text.split(layout.separator)
        if layout.quoted:
            resolved = lines.text.split(FIELD_SEPARATOR)
            parts = ibis.ifelse(lines.text.contains(FIELD_SEPARATOR), resolved, parts)
    table = lines.mutate(parts=parts)
    text = table.text
    if layout.quoted:
        text = text.replace(FIELD_SEPARATOR, layout.separator)

    def field(column: Column | None) -> ir.StringColumn:
        if column is None:
            return ibis.null("string")
        value = table.parts[int(column)]
        return value.strip() if layout.quoted else value

    return table.select(
        line=table.line,
        text=text,
        flaw=ibis.cases(
            (table.flaw.notnull(), table.flaw),
            (table.text == "", "empty line"),
            (table.parts.length() != layout.width, "wrong number of fields"),
        ),
        user=field(layout.user),
        item=field(layout.item),
        code=field(layout.behavior),
        time=field(layout.time),
        split=field(layout.split),
    )


def fields_of_parquet(rows: ir.Table, layout: Layout) -> ir.Table:
    """The fields that `layout` names, as the text they would be in a CSV file."""

    def field(column: Column | None) -> ir.StringColumn:
        """One column as text; null where there is none."""
        if column is None:
            return ibis.null("string")
        value = rows[str(column)]
        if value.type().is_timestamp() or value.type().is_date():
            # The engine shows an instant in its own time zone, which is UTC.
            return value.cast("timestamp").strftime("%Y-%m-%d %H:%M:%S")
        text = value.cast("string")
        return without_zero_fraction(text) if value.type().is_floating() else text

    names = (layout.user, layout.item, layout.behavior, layout.time, layout.split)
    values = [field(name) for name in names]
    shown = [value.fill_null("") for name, value in zip(names, values, strict=True) if name]
    user, item, code, time, split = (value.fill_null("") for value in values)
    return rows.select(
        line=rows.file_row_number + 1,
        text=ibis.literal(",").join(shown),
        flaw=ibis.null("string"),
        user=user,
        item=item,
        code=code,
        time=time,
        split=split,
    )


def typed(fields: ir.Table, layout: Layout, names: Sequence[str], file: int) -> ir.Table:
    """Give every field its type, and every malformed row the reason.

    Args:
        fields: What `fields_of_lines` or `fields_of_parquet` gave.
        layout: The file's layout.
        names: Name of every behavior code number; the cascade first.
        file: Number of the file, kept for malformed rows only, as are line and text.

    Returns:
        user_id, item_id (int64 or string, by `layout.ids`), behavior (position in `names`,
        -1 for none), timestamp, split (position in `SPLITS`), reason, file, line, text.
    """
    table = fields.mutate(
        user_id=_identifier(fields.user, layout),
        item_id=_identifier(fields.item, layout),
        behavior=_behavior(fields.code, layout, names).cast("int16"),
        timestamp=layout.clock.seconds(fields.time) if layout.clock else ibis.null("int64"),
        part=_split(fields.split, layout).cast("int8"),
    )
    table = table.mutate(reason=_reason(table, layout))
    bad = table.reason.notnull()
    return table.select(
        USER_ID,
        ITEM_ID,
        BEHAVIOR,
        TIMESTAMP,
        REASON,
        split=table.part,
        file=ibis.ifelse(bad, ibis.literal(file, "int32"), ibis.null("int32")),
        line=ibis.ifelse(bad, table.line, ibis.null("int64")),
        text=ibis.ifelse(bad, table.text, ibis.null("string")),
    )


def filtered(
    events: ir.Table, behaviors: int, start: int | None, end: int | None
) -> tuple[ir.Table, list[str]]:
    """Number every row by the filter that drops it.

    Args:
        events: The sound rows of what `typed` gave, of all files.
        behaviors: Length of the cascade; codes from here on are not asked for.
        start: First second of the time window, if any.
        end: First second after it, if any.

    Returns:
        `events` with the column `FILTER`, and the filters' names in order.
    """
    filters = list(FILTERS)
    other = (events.behavior < 0) | (events.behavior >= behaviors)
    branches = [(other, 1)]
    if start is not None or end is not None:
        early = events.timestamp < start if start is not None else ibis.literal(False)
        late = events.timestamp >= end if end is not None else ibis.literal(False)
        branches.append((early | late, 2))
        filters.append(WINDOW)
    number = ibis.cases(*branches, else_=len(filters)).cast("int8")
    return events.mutate(**{FILTER: number}), filters


def deduplicated(events: ir.Table, keep: str, *, split_given: bool) -> ir.Table:
    """One row per user, item and behavior: that of the first split, then first or last in time.

    Nothing but the time is left to choose, so the result does not depend on the order of rows.
    """

    def pick(**where: ir.BooleanValue) -> ir.IntegerScalar:
        return events.timestamp.min(**where) if keep == "first" else events.timestamp.max(**where)

    keys = [USER_ID, ITEM_ID, BEHAVIOR]
    if not split_given:
        return events.group_by(keys).agg(timestamp=pick(), split=events.split.min())
    # An arg-min over the split would sort every group.
    per_split = [pick(where=events.split == part) for part in range(len(SPLITS))]
    return events.group_by(keys).agg(timestamp=ibis.coalesce(*per_split), split=events.split.min())


def integer_ids(ids: ir.StringColumn) -> ir.BooleanScalar:
    """Whether every id is a whole number in canonical form, so that integers lose nothing."""
    return (whole_number(ids).notnull()).all()


def _identifier(text: ir.StringColumn, layout: Layout) -> ir.Column:
    if layout.ids == "integer":
        return whole_number(without_zero_fraction(text))
    return text.nullif("")


def _behavior(code: ir.StringColumn, layout: Layout, names: Sequence[str]) -> ir.IntegerColumn:
    if layout.behavior is None:
        return ibis.literal(names.index(layout.fixed_behavior))
    value = without_zero_fraction(code) if layout.ids == "integer" else code
    positions = {name: position for position, name in enumerate(names)}
    branches = [(raw, positions.get(name, _UNUSED)) for raw, name in layout.codes.items()]
    return value.cases(*branches)


def _split(value: ir.StringColumn, layout: Layout) -> ir.IntegerColumn:
    if layout.split is not None:
        return value.cases(*[(name, position) for position, name in enumerate(SPLITS)])
    if layout.fixed_split is not None:
        return ibis.literal(SPLITS.index(layout.fixed_split))
    return ibis.literal(0)


def _reason(table: ir.Table, layout: Layout) -> ir.StringColumn:
    kind = "is not a whole number" if layout.ids == "integer" else "is empty"
    branches = [
        (table.flaw.notnull(), table.flaw),
        (table.user_id.isnull(), ibis.literal(f"{USER_ID} {kind}")),
        (table.item_id.isnull(), ibis.literal(f"{ITEM_ID} {kind}")),
        (table.behavior.isnull(), ibis.literal(UNKNOWN_BEHAVIOR)),
    ]
    if layout.clock is not None:
        branches.append((table.timestamp.isnull(), ibis.literal(layout.clock.malformed)))
    branches.append((table.part.isnull(), ibis.literal("unknown split")))
    return ibis.cases(*branches)
