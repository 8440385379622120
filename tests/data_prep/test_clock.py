"""If these fail, times are shifted, and with them every temporal split."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import ibis
import pytest

from mbrec.data_prep.clock import Clock, window
from mbrec.data_prep.engine import DuckEngine
from mbrec.errors import UsageError

BEIJING = timezone(timedelta(hours=8))


def seconds(engine: DuckEngine, clock: Clock, texts: list[str]) -> list[int | None]:
    """What the engine makes of each text."""
    numbers = ibis.range(len(texts)).unnest().name("n").as_table()
    text = numbers.n.cases(*[(number, value) for number, value in enumerate(texts)])
    table = numbers.select("n", text=text)
    rows = engine.fetch(table.select("n", s=clock.seconds(table.text)).order_by("n"))
    return [row["s"] for row in rows]


def at(*parts: int, zone: object = timezone.utc) -> int:
    return int(datetime(*parts, tzinfo=zone).timestamp())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2019-10-01", at(2019, 10, 1, zone=BEIJING)),
        ("2019-10-01 08:30", at(2019, 10, 1, 8, 30, zone=BEIJING)),
        ("2019-10-01 08:30:05", at(2019, 10, 1, 8, 30, 5, zone=BEIJING)),
        ("2019-10-01T08:30:05", at(2019, 10, 1, 8, 30, 5, zone=BEIJING)),
        ("2019-10-01 08:30:05.999", at(2019, 10, 1, 8, 30, 5, zone=BEIJING)),
        ("2019-10-01 08:30:05 UTC", at(2019, 10, 1, 8, 30, 5)),
        ("2019-10-01T08:30:05Z", at(2019, 10, 1, 8, 30, 5)),
        ("2019-10-01T08:30:05.5Z", at(2019, 10, 1, 8, 30, 5)),
        ("2019-10-01T08:30:05+02:00", at(2019, 10, 1, 6, 30, 5)),
        ("2019-10-01T08:30:05-0330", at(2019, 10, 1, 12, 0, 5)),
        ("2019-10-01 08:30:05.25 +02", at(2019, 10, 1, 6, 30, 5)),
        ("1969-12-31 23:59:59.5 UTC", -1),
        ("2019-10-01 08:30+02:00", None),
        ("2019-10-01 08+02", None),
        ("2019-02-30 08:30:05", None),
        ("2019-10-01 08:30:05 CEST", None),
        ("1569888000", None),
        ("", None),
    ],
)
def test_iso_times(engine: DuckEngine, text: str, expected: int | None) -> None:
    assert seconds(engine, Clock("iso", "+08:00"), [text]) == [expected]


def test_unix_times(engine: DuckEngine) -> None:
    texts = ["1511544000", "-5", "1511544000.0", "1511544000000", "1e9", " 5", "0x1f", "007", ""]
    assert seconds(engine, Clock("s"), texts) == [1511544000, -5, 1511544000] + [None] * 6
    assert seconds(engine, Clock("ms"), ["1433221332117", "-1", "x"]) == [1433221332, -1, None]


def test_strptime_and_named_zones(engine: DuckEngine) -> None:
    clock = Clock("%d.%m.%Y %H:%M", "Europe/Berlin")
    texts = ["01.07.2019 12:00", "01.12.2019 12:00", "2019-07-01"]
    assert seconds(engine, clock, texts) == [
        at(2019, 7, 1, 12, zone=ZoneInfo("Europe/Berlin")),
        at(2019, 12, 1, 12, zone=ZoneInfo("Europe/Berlin")),
        None,
    ]
    offset = Clock("%Y-%m-%d %H:%M:%S %z", "Europe/Berlin")
    assert seconds(engine, offset, ["2019-07-01 12:00:00 +0800"]) == [at(2019, 7, 1, 4)]


def test_a_window_of_days_holds_all_of_the_last_day() -> None:
    assert window("2017-11-25", "2017-12-03", "+08:00") == (1511539200, 1512316800)
    assert window("2017-11-25T00:00:00Z", "2017-11-25T00:00:01Z", "+08:00") == (
        1511568000,
        1511568002,
    )
    assert window(None, None, "UTC") == (None, None)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [("soon", None, "--start 'soon'"), ("2018-01-02", "2018-01-01", "is empty")],
)
def test_a_window_that_cannot_be(start: str, end: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        window(start, end, "UTC")


def test_zones_and_formats_that_are_none() -> None:
    with pytest.raises(UsageError, match="no time zone 'Peking'"):
        Clock("s", "Peking")
    with pytest.raises(UsageError, match="time format 'seconds' is none"):
        Clock("seconds")
