"""If these fail, a cascade that is to be read from the log follows how somebody named it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from mbrec import precedence as module
from mbrec.arrangement import arrange
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.precedence import learned_order, precedence
from mbrec.training import train_run

Row = tuple[int, int, str, str]
LEARNED = from_dict({"method": "mostpop", "order": "learned"})


def shop(sizes: Mapping[str, int]) -> list[Row]:
    """For every behavior the first so many of the pairs of 10 users × 10 items."""
    pairs = [(user, item) for user in range(10) for item in range(10)]
    return [(u, i, name, "train") for name, size in sizes.items() for u, i in pairs[:size]]


@pytest.fixture
def make(make_dataset: Callable[..., PreparedDataset]) -> Callable[..., PreparedDataset]:
    def make(behaviors: Sequence[str], sizes: Mapping[str, int], name: str) -> PreparedDataset:
        return make_dataset(shop(sizes), users=10, items=10, behaviors=behaviors, name=name)

    return make


class Timed:
    """A dataset whose common pairs have given times."""

    def __init__(self, base: PreparedDataset, times: Mapping[str, list[int | None]]) -> None:
        self._times = times
        self.behaviors, self.target = base.behaviors, base.target
        self.num_items, self.pairs = base.num_items, base.pairs

    def timestamps(self, behavior: str, split: str) -> pa.Array:
        return pa.array(self._times[behavior], pa.int64())


def test_without_times_the_larger_behavior_comes_first_whatever_the_names_say(
    make: Callable[..., PreparedDataset],
) -> None:
    sizes = {"view": 90, "cart": 30, "wish": 60, "buy": 99}
    for place, named in enumerate((("cart", "wish", "view"), ("view", "cart", "wish"))):
        dataset = make((*named, "buy"), sizes, f"order-{place}")
        assert learned_order(dataset) == ("view", "wish", "cart", "buy")
        assert arrange(dataset, LEARNED).behaviors == ("view", "wish", "cart", "buy")


def test_times_speak_louder_than_counts(
    make: Callable[..., PreparedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST", 4)
    base = make(("view", "cart", "buy"), {"view": 8, "cart": 4, "buy": 2}, "timed")
    times = {"view": [5, 5, 5, 5, 9, 9, 9, 9], "cart": [1, 2, 3, 5], "buy": [7, 7]}
    dataset = Timed(base, times)
    assert precedence(dataset, "cart", "view") == (3 + 0.5) / 4  # type: ignore[arg-type]
    assert precedence(dataset, "view", "cart") == 0.5 / 4  # type: ignore[arg-type]
    assert learned_order(dataset) == ("cart", "view", "buy")  # type: ignore[arg-type]
    missing = Timed(base, {**times, "cart": [1, 2, 3, None]})
    assert precedence(missing, "cart", "view") == 4 / 12  # type: ignore[arg-type]


def test_more_behaviors_than_can_be_permuted_are_ordered_too(
    make: Callable[..., PreparedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EXHAUSTIVE", 1)
    dataset = make(("c", "a", "b", "buy"), {"a": 80, "b": 40, "c": 20, "buy": 9}, "many")
    assert learned_order(dataset) == ("a", "b", "c", "buy")


def test_validation_rows_do_not_decide_the_order(
    make_dataset: Callable[..., PreparedDataset],
) -> None:
    held_out = [(9, item, "cart", "valid") for item in range(10)]
    rows = shop({"view": 12, "cart": 8, "buy": 5}) + held_out
    dataset = make_dataset(rows, users=10, items=10, behaviors=("cart", "view", "buy"))
    assert learned_order(dataset) == ("view", "cart", "buy")


def test_a_run_notes_the_order_that_it_learned(
    make: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    dataset = make(("cart", "view", "buy"), {"view": 50, "cart": 20, "buy": 9}, "noted")
    run = train_run(dataset.path, tmp_path / "run", LEARNED)
    assert run.behaviors == ("view", "cart", "buy")
