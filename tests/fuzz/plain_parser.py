"""What every line of a raw log is, worked out line by line in plain Python.

Written from docs/data.md and the published formats alone: it shares no code with mbrec, and no
library that mbrec reads with but `csv`. It is slow, and has no options that are not tested.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import NamedTuple

INT64 = range(-(2**63), 2**63)
MAX_SECONDS = 10**11  # of Unix time: the year 5138
SPLITS = ("train", "valid", "test")
_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2})"
    r"((?:\.[0-9]+)?[ \t\n\r\f]*(?:Z|UTC|GMT|([+-])([01][0-9]|2[0-3])(?::?([0-5][0-9]))?)?))?)?"
)
_MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Event(NamedTuple):
    """A sound row; behavior "" is one that is known and not used."""

    user: int | str
    item: int | str
    behavior: str
    timestamp: int | None
    split: str


class Verdict(NamedTuple):
    """A line is an event, or malformed for a reason."""

    line: int
    event: Event | None
    reason: str | None


Parse = Callable[[str], "Event | str"]


@dataclass(frozen=True)
class Rules:
    """A format, as its documentation has it.

    Attributes:
        width: Fields per line.
        user, item, code, time, split: Places of the fields; None where there is no such.
        codes: Code → behavior.
        behavior: Of all rows, where no field says it.
        part: Split of all rows, where no field says it.
        seconds: Text of a time → Unix seconds, or None.
        malformed: The reason for a time that cannot be read.
    """

    width: int
    user: int = 0
    item: int = 1
    code: int | None = None
    time: int | None = None
    split: int | None = None
    codes: Mapping[str, str] = field(default_factory=dict)
    behavior: str = ""
    part: str = "train"
    seconds: Callable[[str], int | None] = lambda text: None
    malformed: str = ""
    separator: str = ","
    blanks: bool = False
    header: bool = False
    quoted: bool = False
    numbers: bool = False
    fallback: str | None = None
    cut: Callable[[str], bool] = lambda line: False


def verdicts(content: bytes, rules: Rules) -> list[Verdict]:
    """The verdict on every line of a file, the header left out."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    lines = content.split(b"\n")
    ended = not lines[-1]
    if ended:
        lines.pop()
    found = []
    for number, raw in enumerate(lines, start=1):
        if number == 1 and rules.header:
            continue
        # The last line feed may be missing; a carriage return before it belongs to the line end.
        line = raw.removesuffix(b"\r")
        last = number == len(lines) and not ended
        outcome = _line(line, rules, last=last)
        reason, event = (outcome, None) if isinstance(outcome, str) else (None, outcome)
        found.append(Verdict(number, event, reason))
    return found


def _line(raw: bytes, rules: Rules, *, last: bool) -> Event | str:
    if b"\0" in raw:
        return "NUL byte"
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        if rules.fallback is None:
            return "not UTF-8"
        text = raw.decode(rules.fallback, errors="replace")
    fields: list[str] | str = _fields(text, rules)
    if isinstance(fields, str):
        return fields
    if last and rules.cut(text):
        return "last line is cut"
    if fields == [""]:
        return "empty line"
    if len(fields) != rules.width:
        return "wrong number of fields"
    if rules.quoted:
        fields = [part.strip(" \t\n\r\v\f") for part in fields]
    return _event(fields, rules)


def _fields(text: str, rules: Rules) -> list[str] | str:
    """The fields of a line, or what is wrong with it as a whole."""
    if rules.blanks:
        text = text if not text else text.strip(" \t\n\r\v\f") or "\0"  # blank is not empty
        return re.split(r"[ \t]*[, \t][ \t]*", text)
    if not rules.quoted:
        return text.split(rules.separator)
    if "\x1f" in text:
        return "control character 0x1F"
    fields = text.split(rules.separator)
    if '"' in text:
        try:
            bare = _quotes_without_blanks(text, rules.separator)
            fields = next(csv.reader([bare], delimiter=rules.separator, strict=True))
        except csv.Error:
            return "unbalanced quote (a quoted field may not span lines)"
    return fields


def _quotes_without_blanks(text: str, separator: str) -> str:
    """The line with every field that begins with a quote moved up to its separators."""
    blanks = " \t\n\r\v\f".replace(separator, "")
    found, rest = "", text
    while True:
        bare = rest.lstrip(blanks)
        if not bare.startswith('"'):
            field, comma, rest = rest.partition(separator)
            found += field + comma
        else:
            end = 1
            while end < len(bare) and (bare[end] != '"' or bare[end : end + 2] == '""'):
                end += 2 if bare[end] == '"' else 1
            field, after = bare[: end + 1], bare[end + 1 :].lstrip(blanks)
            if after and not after.startswith(separator):
                return found + bare  # there is something behind the quote: a broken line
            found += field + after[:1]
            comma, rest = after[:1], after[1:]
        if not comma:
            return found


def _event(fields: list[str], rules: Rules) -> Event | str:
    user, item = (_id(fields[place], rules) for place in (rules.user, rules.item))
    wanted = "is not a whole number" if rules.numbers else "is empty"
    for name, value in (("user_id", user), ("item_id", item)):
        if value is None:
            return f"{name} {wanted}"
    behavior: str | None = rules.behavior
    if rules.code is not None:
        code = fields[rules.code]
        behavior = rules.codes.get(code.removesuffix(".0") if rules.numbers else code)
    if behavior is None:
        return "unknown behavior"
    seconds = None
    if rules.time is not None:
        seconds = rules.seconds(fields[rules.time])
        if seconds is None:
            return rules.malformed
    part = rules.part if rules.split is None else fields[rules.split]
    if part not in SPLITS:
        return "unknown split"
    assert user is not None and item is not None
    return Event(user, item, behavior, seconds, part)


def _id(text: str, rules: Rules) -> int | str | None:
    if rules.numbers:
        return whole(text.removesuffix(".0"))
    return text or None


def whole(text: str) -> int | None:
    """The int64 that `text` writes in the one canonical way."""
    if not _NUMBER.fullmatch(text) or len(text) > 20:
        return None
    number = int(text)
    return number if number in INT64 else None


def unix_seconds(text: str) -> int | None:
    """Unix time in seconds; a trailing ``.0`` is forgiven."""
    number = whole(text.removesuffix(".0"))
    return None if number is None or abs(number) >= MAX_SECONDS else number


def unix_milliseconds(text: str) -> int | None:
    """Unix time in milliseconds, rounded down."""
    number = whole(text.removesuffix(".0"))
    return None if number is None or abs(number // 1000) >= MAX_SECONDS else number // 1000


def iso(offset_hours: int) -> Callable[[str], int | None]:
    """ISO times, which are `offset_hours` ahead of UTC where they do not say."""

    def seconds(text: str) -> int | None:
        match = _ISO.fullmatch(text)
        if match is None:
            return None
        year, month, day, hour, minute, second = (int(match[n] or 0) for n in range(1, 7))
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        if not 1 <= month <= 12 or not 1 <= day <= _MONTHS[month - 1] + (leap and month == 2):
            return None
        if hour > 23 or minute > 59 or second > 59:
            return None
        # datetime begins with year 1; the calendar repeats every 400 years of 146,097 days.
        early = year < 400
        stamp = datetime(year + 400 if early else year, month, day, tzinfo=timezone.utc)
        days = (stamp - datetime(1970, 1, 1, tzinfo=timezone.utc)).days - (146097 if early else 0)
        local = days * 86400 + hour * 3600 + minute * 60 + second
        if match[8]:
            size = int(match[9]) * 3600 + int(match[10] or 0) * 60
            return local - (size if match[8] == "+" else -size)
        if match[7] and match[7].strip(" \t\n\r\f").endswith(("Z", "C", "T")):
            return local
        return local - offset_hours * 3600

    return seconds
