"""If these fail, tomorrow's log of a shop cannot be given to the run of today's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mbrec.data_prep.events import OTHER, read_events
from mbrec.errors import DataError

SHOP = {"user": "who", "item": "what", "behavior": "did", "time": "at", "time_format": "iso"}
CSV: dict[str, Any] = {
    "source": "csv",
    "options": {"mapping": {**SHOP, "map": {"zz": "buy", "undo": ""}}},
}
PLACES = {"user": 2, "item": 1, "behavior": 3, "header": False}
BY_PLACE: dict[str, Any] = {"source": "csv", "options": {"mapping": PLACES}}
UB = {"source": "ub"}
OWN = "user_id,item_id,behavior,timestamp\n1,2,buy,3\n"


def rows(path: Path, behaviors: tuple[str, ...], manifest: dict[str, Any]) -> tuple[Any, ...]:
    """What was read, and what of it was not used."""
    events = read_events(path, behaviors, manifest)
    return sorted(map(tuple, events.table.to_pandas().values.tolist())), events.rejected


def test_a_log_is_read_as_that_of_the_dataset_was(tmp_path: Path) -> None:
    log = tmp_path / "next.csv"
    log.write_text("at,who,did,what\n1970-01-01T00:01:00Z,ann,zz,shoe\n,bob,view,hat\n")
    assert rows(log, ("buy",), CSV) == (
        [("ann", "shoe", "buy", 60)],
        {"unknown behavior": 1},
    )
    log.write_text("7,8,5,pv,1511540875\n7,8,5,buy,1511540876\n")
    assert rows(log, ("click", "purchase"), UB) == (
        [("7", "8", "click", 1511540875), ("7", "8", "purchase", 1511540876)],
        {},
    )


@pytest.mark.parametrize(
    ("options", "second"), [({}, 5), ({"keep": "first"}, 5), ({"keep": "last"}, 9)]
)
def test_of_repeated_events_the_time_that_the_dataset_keeps_counts(
    tmp_path: Path, options: dict[str, str], second: int
) -> None:
    log = tmp_path / "next.csv"
    log.write_text("7,8,1,pv,7\n7,8,1,pv,5\n7,8,1,buy,6\n7,8,1,pv,9\n")
    found = [("7", "8", "click", second), ("7", "8", "purchase", 6)]
    manifest = {"source": "ub", "options": options}
    assert rows(log, ("click", "purchase"), manifest) == (found, {})


def test_behaviors_that_are_not_ranked_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "next.csv"
    log.write_text("7,8,5,pv,1511540875\n7,8,5,buy,1511540876\n7,8,5,cart,1511540876\n")
    found = [("7", "8", "purchase", 1511540876)]
    assert rows(log, ("purchase",), UB) == (found, {OTHER: 2})
    shop = tmp_path / "shop.csv"
    shop.write_text("at,who,did,what\n1970-01-01,ann,zz,shoe\n1970-01-01,ann,undo,shoe\n")
    assert rows(shop, ("buy",), CSV) == ([("ann", "shoe", "buy", 0)], {OTHER: 1})
    with pytest.raises(DataError, match=rf"no row to use: 3 × {OTHER}.*rows of favorite"):
        read_events(log, ("favorite",), UB)


def test_columns_by_position_are_read_where_no_names_are(tmp_path: Path) -> None:
    log = tmp_path / "next.csv"
    log.write_text("shoe,ann,buy\n")
    ((user, item, behavior, _),), unused = rows(log, ("buy",), BY_PLACE)
    assert (user, item, behavior, unused) == ("ann", "shoe", "buy", {})


@pytest.mark.parametrize("manifest", [CSV, BY_PLACE, UB, {"source": "given"}, {}])
def test_the_columns_of_mbrec_will_do_whatever_the_dataset_was(
    manifest: dict[str, Any], tmp_path: Path
) -> None:
    log = tmp_path / "next.csv"
    log.write_text(OWN)
    assert rows(log, ("buy",), manifest) == ([("1", "2", "buy", 3)], {})


def test_a_log_that_is_neither_says_what_it_lacks_of_both(tmp_path: Path) -> None:
    log = tmp_path / "next.csv"
    log.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no column 'who'.*no column 'user_id'.*name its columns"):
        read_events(log, ("buy",), CSV)
    log.write_text("")
    with pytest.raises(DataError, match=r"^[^ ]*next.csv is empty\. Give a log"):
        read_events(log, ("buy",), CSV)
