"""If these fail, a dataset depends on the engine that happened to prepare it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbrec.data_prep import reading
from mbrec.data_prep.dedupe import deduplicate
from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.parsing import Parser, _Plain, widened
from mbrec.data_prep.sources import describe
from mbrec.data_prep.sources.csv import Mapping
from mbrec.errors import UsageError

Prep = Callable[..., Any]
few = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

numbers = st.sampled_from(["1", "2", "3", "12", "07", "0", "-4", " 5", "9.0", "x", "", "9" * 20])
codes = st.sampled_from(["pv", "buy", "fav", "view"])
times = st.sampled_from(["1511544000", "1511544001", "1511999999", "-5", "9" * 12, "0x1f"])
odd_rows = st.tuples(numbers, numbers, codes, times).map(lambda r: f"{r[0]},{r[1]},7,{r[2]},{r[3]}")
plain_rows = st.tuples(st.integers(1, 6), st.integers(1, 9), codes, st.integers(10**9, 10**9 + 9))
sound = plain_rows.map(lambda r: f"{r[0]},{r[1]},7,{r[2].replace('view', 'cart')},{r[3]}")


@few
@given(
    rows=st.lists(odd_rows | sound, min_size=1, max_size=40),
    minimum=st.integers(0, 2),
    core_on=st.sampled_from(["target", "any"]),
    split=st.sampled_from(["temporal", "leave-one-out"]),
    keep=st.sampled_from(["first", "last"]),
)
def test_memory_and_duckdb_give_the_same_bytes(
    assert_same: Prep, rows: list[str], minimum: int, core_on: str, split: str, keep: str
) -> None:
    options: dict[str, Any] = {"min_user": minimum, "min_item": minimum, "core_on": core_on}
    options |= {"split": split, "keep": keep, "behaviors": ("click", "purchase")}
    files = {"a.csv": "\n".join(rows) + "\n"}
    assert_same(("auto", "duckdb"), "ub", files, max_rejects=1.0, **options)


@few
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["7", "70", "007", "ü", "a b"]),
            st.sampled_from(["-4", "3", "12"]),
            st.sampled_from(["view", "buy"]),
            st.integers(1, 6),
            st.sampled_from(["train", "valid", "test"]),
        ),
        min_size=1,
        max_size=30,
    ),
    keep=st.sampled_from(["first", "last"]),
)
def test_texts_as_ids_and_given_splits_are_the_same_too(
    assert_same: Prep, rows: list[Any], keep: str
) -> None:
    mapping = Mapping(split="part", behaviors=["view", "buy"])
    head = "user_id,item_id,behavior,timestamp,part\n"
    text = head + "".join(",".join(map(str, row)) + "\n" for row in rows)
    assert_same(("auto", "duckdb"), "csv", {"a.csv": text}, mapping=mapping, keep=keep)


def test_blanks_around_quotes_make_no_other_id(assert_same: Prep) -> None:
    head = 'user_id, "item_id" ,behavior,timestamp\n'
    text = head + 'a,"x",click,1\na, "x",click,2\na,"x" ,click,3\na, "x,click,4\nb,y,click,5\n'
    options: dict[str, Any] = {"behaviors": ("click",), "max_rejects": 0.5}
    made = assert_same(("auto", "duckdb"), "csv", {"a.csv": text}, **options)
    assert [row[:4] for row in made.rows] == [("a", "x", "click", 1), ("b", "y", "click", 5)]
    assert made.dropped == {"rejected": 1, "duplicates": 2}
    assert [(line, reason.split(" (")[0]) for line, reason, _ in made.rejects] == [
        (5, "unbalanced quote")
    ]


@pytest.mark.parametrize("count", [44, 130])
def test_no_row_of_the_last_of_many_behaviors_is_lost(assert_same: Prep, count: int) -> None:
    head = "user_id,item_id,behavior,timestamp\n"
    rows = [f"{n},{item},b{n},{item}\n" for n in range(count) for item in range(3)]
    # The first file has small codes alone, so that codes of both widths come together.
    files = {"a.csv": head + "".join(rows[:60]), "b.csv": head + "".join(rows[60:])}
    behaviors = tuple(f"b{n}" for n in range(count))
    made = assert_same(("auto", "duckdb"), "csv", files, behaviors=behaviors)
    assert [row[:4] for row in made.rows] == sorted(
        (n, item, f"b{n}", item) for n in range(count) for item in range(3)
    )


def test_a_log_that_outgrows_the_memory_goes_on_in_duckdb(
    prep: Prep, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"{n % 997},{n % 1009},1,buy,{10**9 + n % 60}\n" for n in range(30_000))
    files = {f"{name}.csv": text for name in "ab"}
    roomy = prep("ub", files, behaviors=("purchase",))
    inserts: list[int] = []
    insert = DuckEngine.insert

    def counted(self: DuckEngine, name: str, rows: Any) -> Any:
        inserts.append(len(rows))
        return insert(self, name, rows)

    monkeypatch.setattr(DuckEngine, "insert", counted)
    monkeypatch.setattr(reading, "_AT_ONCE", 1)
    tight = prep("ub", files, behaviors=("purchase",), memory_limit=10**6)
    assert sum(inserts) == 60_000
    assert tight.dataset.content_hash == roomy.dataset.content_hash


@few
@given(rows=st.lists(odd_rows | sound, min_size=1, max_size=30), size=st.integers(1, 60))
def test_plain_lines_are_read_as_duckdb_reads_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], size: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.csv"
    path.write_text("\n".join(["1,1,1,pv,1511544000", *rows]))
    log = describe("ub", [path], Mapping(), None)
    found = []
    for plain in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mbrec.data_prep.parsing._PIECE", size)
            if not plain:
                patch.setattr(_Plain, "can_read", staticmethod(lambda layout: False))
            with Parser(log.layouts[0], log.known, 0, threads=1) as parser:
                tables = [widened(t, parser.schema) for t in parser.tables()]
        found.append([row for table in tables for row in table.to_pylist()])
    assert found[0] == found[1]


def test_the_engine_is_named_right(prep: Prep) -> None:
    with pytest.raises(UsageError, match="Did you mean duckdb"):
        prep("ub", {"a.csv": ""}, engine="duckbd")
    with pytest.raises(UsageError, match="Add --engine spark"):
        prep("ub", {"a.csv": ""}, spark_master="spark://somewhere:7077")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_duplicates_in_buckets_are_those_of_a_dictionary(
    monkeypatch: pytest.MonkeyPatch, last: bool, wide: bool
) -> None:
    monkeypatch.setattr("mbrec.data_prep.dedupe._BUCKET", 40)
    rng = np.random.default_rng(1)
    rows = 400
    users, items = (rng.integers(0, n, rows).astype(np.int32) for n in (30, 8))
    behavior, part = (rng.integers(0, n, rows).astype(np.int8) for n in (3, 3))
    # Times of more than 50 bits leave no room for them in a key.
    time = rng.integers(-5, 5, rows) * (10**15 if wide else 1)
    time[rng.random(rows) < 0.2] = unknown = np.iinfo(np.int64).min
    columns = [column.copy() for column in (users, items, behavior, part, time)]
    found = deduplicate(columns, unknown=unknown, last=last, split_given=True)
    expected: dict[tuple[int, ...], tuple[int, int]] = {}
    pick = max if last else min
    columns = (users, items, behavior)
    for key in sorted(set(zip(*(c.tolist() for c in columns), strict=True))):
        mine = np.all([c == k for c, k in zip(columns, key, strict=True)], axis=0)
        known = [time[mine & (part == p) & (time != unknown)].tolist() for p in range(3)]
        first = next((seconds for seconds in known if seconds), [unknown])
        expected[key] = int(part[mine].min()), pick(first)
    rows_found = list(zip(*(c.tolist() for c in found), strict=True))
    assert rows_found == [(*key, *value) for key, value in expected.items()]
