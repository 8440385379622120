"""If these fail, users and items survive that have too little data, or too many fall."""

from __future__ import annotations

from pathlib import Path

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.kcore import Core, core_filter

Event = tuple[int, int, int]  # user, item, behavior


def survivors(folder: Path, events: list[Event], core: Core) -> tuple[set[Event], list[str]]:
    columns = list(zip(*events, strict=True))
    names = ("user_id", "item_id", "behavior")
    table = pa.table({name: list(column) for name, column in zip(names, columns, strict=True)})
    with DuckEngine(folder) as engine:
        stored = engine.insert("events", table)
        numbered, rounds = core_filter(engine, stored, core)
        kept = engine.fetch(numbered.filter(numbered["filter"] == len(rounds)))
        every = engine.fetch(numbered.agg(n=ibis._.count(), top=ibis._["filter"].max()))
    assert every[0]["n"] == len(events)
    return {(row["user_id"], row["item_id"], row["behavior"]) for row in kept}, rounds


def oracle(events: set[Event], core: Core) -> set[Event]:
    """Take out one user or item at a time, in no clever order, until all have enough."""
    while True:
        pairs = {(u, i) for u, i, b in events if core.target in (None, b)}
        users = {u for u, _, _ in events if sum(p[0] == u for p in pairs) < core.min_user}
        items = {i for _, i, _ in events if sum(p[1] == i for p in pairs) < core.min_item}
        if not users and not items:
            return events
        drop = sorted([("u", u) for u in users] + [("i", i) for i in items])[0]
        events = {e for e in events if e[0 if drop[0] == "u" else 1] != drop[1]}


event_sets = st.sets(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=60
)


@settings(max_examples=20, deadline=None)
@given(
    events=event_sets,
    min_user=st.integers(0, 3),
    min_item=st.integers(0, 3),
    target=st.sampled_from([None, 1]),
    data=st.data(),
)
def test_the_core_is_the_largest_one_in_any_order_of_rows(
    tmp_path_factory: pytest.TempPathFactory,
    events: set[Event],
    min_user: int,
    min_item: int,
    target: int | None,
    data: st.DataObject,
) -> None:
    core = Core(min_user, min_item, target)
    shuffled = data.draw(st.permutations(sorted(events)))
    kept, _ = survivors(tmp_path_factory.mktemp("core"), shuffled, core)
    assert kept == oracle(events, core)
    if kept:  # and it is a fixed point: nothing more falls out of it
        again, rounds = survivors(tmp_path_factory.mktemp("core"), sorted(kept), core)
        assert again == kept
        assert rounds == []


def test_rounds_are_told_apart(tmp_path: Path) -> None:
    # Item 3 has one pair and falls first; with it user 2 has one pair left and falls; with her
    # item 2 has one pair and falls in the second round, and user 1 keeps item 1 only … and so on.
    events = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0), (2, 2, 0), (2, 3, 0)]
    kept, rounds = survivors(tmp_path, events, Core(2, 2, None))
    assert kept == {(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)}
    assert rounds == ["k-core round 1", "k-core round 2"]


def test_counting_the_target_drops_a_buyer_less_item_with_all_its_clicks(tmp_path: Path) -> None:
    events = [(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 1), (1, 1, 0)]
    kept, _ = survivors(tmp_path, events, Core(0, 1, target=1))
    assert kept == {(0, 1, 1), (1, 1, 1), (1, 1, 0)}
