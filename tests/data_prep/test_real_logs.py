"""If these fail, the figures that mbrec gives for real logs are not those of the logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

Prep = Callable[..., Any]

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data does not lie beside the project"),
]

UB_NAMES = {"pv": "click", "fav": "favorite", "cart": "cart", "buy": "purchase"}


def ub(folder: str) -> pd.DataFrame:
    """The rows of UserBehavior files, read by pandas."""
    columns = ["user", "item", "category", "code", "time"]
    files = [pd.read_csv(path, names=columns) for path in sorted((DATA / folder).iterdir())]
    rows = pd.concat(files, ignore_index=True)
    return rows.assign(behavior=rows.code.map(UB_NAMES))


def once(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("time", kind="stable").drop_duplicates(["user", "item", "behavior"])


def parts(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Split → behavior → rows of a cut at 8:1:1."""
    times = rows.time.sort_values().to_numpy()
    valid, test = times[len(times) * 8 // 10], times[len(times) * 9 // 10]
    split = (rows.time >= valid).astype(int) + (rows.time >= test)
    names = split.map({0: "train", 1: "valid", 2: "test"})
    table = pd.crosstab(names, rows.behavior)
    return {part: {str(b): int(n) for b, n in table.loc[part].items()} for part in table.index}


def core(rows: pd.DataFrame, on: str | None, minimum: int) -> pd.DataFrame:
    while True:
        size = len(rows)
        counted = rows if on is None else rows[rows.behavior == on]
        pairs = counted[["user", "item"]].drop_duplicates()
        items = pairs.item.value_counts()
        rows = rows[rows.item.isin(items.index[items >= minimum])]
        pairs = pairs[pairs.item.isin(items.index[items >= minimum])]
        users = pairs.user.value_counts()
        rows = rows[rows.user.isin(users.index[users >= minimum])]
        if len(rows) == size:
            return rows


def prepare(prep: Prep, source: str, folder: str, **options: Any) -> Any:
    return prep(source, {}, inputs=(str(DATA / folder),), **options)


def assert_counts(made: Any, read: int, kept: pd.DataFrame) -> None:
    counts = made.manifest["counts"]
    assert counts["rows_read"] == read
    assert counts["kept"] == len(kept)
    assert (counts["users"], counts["items"]) == (kept.user.nunique(), kept.item.nunique())
    assert counts["splits"] == parts(kept)


def test_raw_user_behavior(prep: Prep) -> None:
    rows = ub("ub_raw")
    made = prepare(prep, "ub", "ub_raw")
    assert_counts(made, len(rows), once(rows))
    assert made.dropped == {"duplicates": len(rows) - len(once(rows))}
    window = rows[rows.time.between(1511539200, 1512316799)]
    made = prepare(prep, "ub", "ub_raw", start="2017-11-25", end="2017-12-03")
    assert_counts(made, len(rows), once(window))


@pytest.mark.parametrize("core_on", ["target", "any"])
def test_user_behavior_with_a_core_of_five(prep: Prep, core_on: str) -> None:
    rows = ub("ub_log")
    options: dict[str, Any] = {"min_user": 5, "min_item": 5, "core_on": core_on}
    made = prepare(prep, "ub", "ub_log", behaviors=("favorite", "cart", "purchase"), **options)
    kept = core(once(rows), "purchase" if core_on == "target" else None, 5)
    assert_counts(made, len(rows), kept)


def test_jdata_2016(prep: Prep) -> None:
    rows = pd.read_csv(next((DATA / "jdata2016").iterdir()))
    made = prepare(prep, "jd", "jdata2016", split="leave-one-out")
    names = {1: "click", 6: "click", 4: "purchase", 5: "favorite"}
    time = (pd.to_datetime(rows.time) - pd.Timestamp("1970-01-01 08:00")) // pd.Timedelta(1, "s")
    clean = pd.DataFrame(
        {
            "user": rows.user_id.astype(int),
            "item": rows.sku_id,
            "behavior": rows.type.map(names),
            "time": time,
        }
    )
    used = clean.dropna(subset="behavior")
    kept = once(used)
    counts = made.manifest["counts"]
    assert (counts["rows_read"], counts["rejected"]) == (len(rows), 0)
    assert counts["dropped"]["other behaviors"] == len(rows) - len(used)
    assert counts["duplicates"] == len(used) - len(kept)
    assert {row[:4] for row in made.rows} == set(kept.itertuples(index=False, name=None))


def test_given_splits(prep: Prep) -> None:
    for folder, names in (("jd", {"favourite": "favorite"}), ("ub_loo", UB_NAMES)):
        made = prepare(prep, "given", folder)
        for path in sorted((DATA / folder).iterdir()):
            behavior, part, _ = path.name.split(".", 2)
            pairs = pd.read_csv(path, sep=" ", header=None)
            behavior = names.get(behavior, behavior)
            assert made.manifest["counts"]["splits"][part][behavior] == len(pairs)
            found = {row[:2] for row in made.rows if row[2] == behavior and row[4] == part}
            assert found == set(pairs.itertuples(index=False, name=None))
