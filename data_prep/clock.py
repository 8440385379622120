"""How a log writes time, as expressions over a text column, and time windows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from mbrec.errors import UsageError

# Above this, a number cannot be Unix seconds (it is the year 5138); it is milliseconds. Likewise,
# from a thousand times this on milliseconds are microseconds.
MAX_SECONDS = 10**11
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})")
# Fraction and zone after the 19 characters of a full ISO time.
_ISO_TAIL = r"^(?:\.\d+)?\s*(?:Z|UTC|GMT|([+-](?:[01]\d|2[0-3]))(?::?([0-5]\d))?)?$"
# The cast takes 2-08-15 02:14:30 too, in the year 2, and 24:00:00, on the next day.
_ISO_HEAD = r"^\d{4}-\d{2}-\d{2}(?:[ T](?:[01]\d|2[0-3]):\d{2}(?::\d{2})?)?$"


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def try_strptime(text: str, form: str) -> dt.timestamp:
    """The engine's parser of times in a given form; null where it does not fit."""


@ibis.udf.scalar.builtin(name="timezone")  # type: ignore[untyped-decorator]
def at_zone(zone: str, local: dt.timestamp) -> dt.timestamp:
    """The instant at which clocks in `zone` show `local`."""


@dataclass(frozen=True)
class Clock:
    """How a column writes time.

    Attributes:
        form: ``s`` or ``ms`` (Unix time), ``iso`` (``2019-10-01``, ``2019-10-01 08:30``,
            ``2019-10-01T08:30:00.5``, each full time with an optional ``Z``, ``UTC`` or
            ``+08:00``), or a strptime format.
        zone: IANA name or offset, for times that do not name theirs.
    """

    form: str = "s"
    zone: str = "UTC"

    def __post_init__(self) -> None:
        parse_zone(self.zone)
        if self.form not in ("s", "ms", "iso") and "%" not in self.form:
            raise UsageError(
                f"The time format {self.form!r} is none.",
                "Use s, ms, iso, or a strptime format such as '%d.%m.%Y %H:%M'.",
            )
        if "%" in self.form:
            try:
                duckdb.execute("SELECT try_strptime('', ?)", [self.form])
            except duckdb.Error as error:
                raise UsageError(
                    f"The time format {self.form!r} is none: {_reason(error)}",
                    "Use a strptime format such as '%d.%m.%Y %H:%M'.",
                ) from error

    def seconds(self, text: ir.StringColumn) -> ir.IntegerColumn:
        """Unix seconds (int64, UTC) of `text`; null where it cannot be read."""
        if self.form in ("s", "ms"):
            number = whole_number(without_zero_fraction(text))
            if self.form == "ms":
                number = (number.cast("float64") / 1000).floor().cast("int64")
            near = (number > -MAX_SECONDS) & (number < MAX_SECONDS)
            return ibis.ifelse(near, number, ibis.null("int64"))
        if self.form == "iso":
            return self._iso(text)
        stamp = try_strptime(text, self.form)
        return _epoch(stamp) if "%z" in self.form else self._to_utc(stamp)

    @property
    def malformed(self) -> str:
        """The reason given for a row whose time cannot be read."""
        if self.form in ("s", "ms"):
            return f"timestamp is not Unix time in {'milli' if self.form == 'ms' else ''}seconds"
        return f"timestamp is not of the form {'ISO' if self.form == 'iso' else self.form}"

    def _iso(self, text: ir.StringColumn) -> ir.IntegerColumn:
        """The engine's own cast reads an offset and ignores it, so it never sees one here."""
        head, tail = text.left(19), text.substr(19)
        plain = head.re_search(_ISO_HEAD)
        stamp = ibis.ifelse(plain, head, ibis.null("string")).try_cast("timestamp")
        hours = tail.re_extract(_ISO_TAIL, 1)
        minutes = tail.re_extract(_ISO_TAIL, 2).nullif("").try_cast("int64").fill_null(0)
        sign = ibis.ifelse(hours.startswith("-"), -1, 1)
        offset = hours.try_cast("int64") * 3600 + sign * minutes * 60
        return ibis.cases(
            (tail == "", self._to_utc(stamp)),
            (tail.isin(("Z", " UTC")), _epoch(stamp)),
            (~tail.re_search(_ISO_TAIL), ibis.null("int64")),
            (hours != "", _epoch(stamp) - offset),
            (tail.re_search("[A-Z]"), _epoch(stamp)),
            else_=self._to_utc(stamp),
        )

    def _to_utc(self, local: ir.TimestampColumn) -> ir.IntegerColumn:
        offset = _fixed_offset(self.zone)
        if offset is None:
            return _epoch(at_zone(self.zone, local))
        return _epoch(local) - int(offset.total_seconds())


def window(start: str | None, end: str | None, zone: str) -> tuple[int | None, int | None]:
    """Unix seconds of a time window: from the first, up to but without the second.

    Args:
        start: Date or ISO time, inclusive; None: from the beginning.
        end: Date (the whole day belongs to the window) or ISO time (that second does).
        zone: Time zone of both, unless they carry an offset.

    Raises:
        UsageError: One cannot be read, or the window is empty.
    """
    first = None if start is None else _instant(start, zone, "--start")
    last = None
    if end is not None:
        last = _instant(end, zone, "--end", whole=True)
    if first is not None and last is not None and first >= last:
        raise UsageError(f"The time window from {start} to {end} is empty.", "Swap the two?")
    return first, last


def parse_zone(zone: str) -> tzinfo:
    """The time zone called `zone`.

    Raises:
        UsageError: There is none.
    """
    offset = _fixed_offset(zone)
    if offset is not None:
        return timezone(offset)
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(
            f"There is no time zone {zone!r}.", "Use a name such as Asia/Shanghai, or +08:00."
        ) from error


def whole_number(text: ir.StringColumn) -> ir.IntegerColumn:
    """The int64 that `text` writes in the one canonical way; null for anything else.

    A bare cast also takes `` 12``, ``1e3``, ``1_2`` and ``0x1f``, and ``007`` would come back as 7.
    """
    number = text.try_cast("int64")
    return ibis.ifelse(number.cast("string") == text, number, ibis.null("int64"))


def without_zero_fraction(text: ir.StringColumn) -> ir.StringColumn:
    """`text` without a trailing ``.0``, which a number gets on its way through a float column."""
    return ibis.ifelse(text.endswith(".0"), text.left(text.length() - 2), text)


def _epoch(stamp: ir.TimestampColumn) -> ir.IntegerColumn:
    # DuckDB's EPOCH is a double and its cast to an integer rounds; Ibis takes it for an integer.
    return stamp.epoch_seconds().cast("float64").floor().cast("int64")


def _fixed_offset(zone: str) -> timedelta | None:
    if zone.upper() in ("UTC", "Z", "GMT"):
        return timedelta(0)
    match = _OFFSET.fullmatch(zone)
    if match is None:
        return None
    size = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return -size if match[1] == "-" else size


def _instant(text: str, zone: str, option: str, *, whole: bool = False) -> int:
    try:
        day = re.fullmatch(r"\d{4}-\d{2}-\d{2}", text)
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if whole and day:
            moment = datetime.combine(
                date.fromisoformat(text) + timedelta(days=1), datetime.min.time()
            )
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option} {text!r} is no date or time.", "Write 2017-11-25 or 2017-11-25T08:00:00."
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=parse_zone(zone))
    seconds = int(moment.timestamp())
    return seconds + 1 if whole and not day else seconds


def _reason(error: duckdb.Error) -> str:
    """What DuckDB says is wrong with a format."""
    return str(error).splitlines()[0].rpartition(": ")[2]
