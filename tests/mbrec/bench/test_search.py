"""If these fail, one method gets more chances than another."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.bench.search import Point, candidates

DEFAULTS = {"a": 1, "b": 10}
GRIDS = st.fixed_dictionaries(
    {},
    optional={
        "a": st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True),
        "b": st.lists(st.integers(8, 12), min_size=1, max_size=4, unique=True),
    },
)


def resolve(point: Point) -> Point:
    return {**DEFAULTS, **point}


@settings(max_examples=60, deadline=None)
@given(grid=GRIDS, trials=st.integers(1, 30))
def test_the_budget_is_used_and_kept(grid: dict[str, list[int]], trials: int) -> None:
    found = candidates(grid, trials, "seed 1", resolve)
    reached = [tuple(resolve(point).values()) for point in found]
    possible = {(a, b) for a in grid.get("a", [1]) for b in grid.get("b", [10])}
    assert found[0] == {}
    assert len(set(reached)) == len(reached) == min(trials, len(possible | {(1, 10)}))
    assert set(reached[1:]) <= possible


@settings(max_examples=30, deadline=None)
@given(trials=st.integers(1, 24))
def test_a_larger_budget_only_adds_trials(trials: int) -> None:
    grid = {"a": list(range(2, 8)), "b": [8, 9, 11, 12]}
    fewer = candidates(grid, trials, "seed 1", resolve)
    assert candidates(grid, trials + 1, "seed 1", resolve)[: len(fewer)] == fewer or trials == 24


def test_a_huge_grid_is_not_written_out() -> None:
    grid = {f"k{n}": list(range(10)) for n in range(12)}  # 10^12 points
    found = candidates(grid, 5, "seed 1", lambda point: point)
    assert len(found) == 5
    assert found == candidates(grid, 5, "seed 1", lambda point: point)
    assert found != candidates(grid, 5, "seed 2", lambda point: point)
