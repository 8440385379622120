"""If these fail, training sees the future, or a pair stands in two splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from mbrec.data_prep.split import Ratios
from mbrec.errors import DataError, UsageError

Prep = Callable[..., Any]
Times = dict[tuple[int, str], list[tuple[int, int, str]]]


def log(times: list[int]) -> str:
    """A purchase of item n by user 1 at the n-th time."""
    return "".join(f"1,{n},1,buy,{time}\n" for n, time in enumerate(times))


def parts(made: Any) -> dict[str, list[int]]:
    """Split → the timestamps in it."""
    found: dict[str, list[int]] = defaultdict(list)
    for row in made.rows:
        found[row[4]].append(row[3])
    return {part: sorted(times) for part, times in found.items()}


def test_a_cut_in_time_takes_the_latest_rows_of_all_behaviors(prep: Prep) -> None:
    text = "".join(f"{n % 3},{n},1,{'buy' if n % 2 else 'pv'},{100 + n}\n" for n in range(20))
    made = prep("ub", {"a.csv": text}, behaviors=("click", "purchase"))
    assert parts(made) == {
        "train": list(range(100, 116)),
        "valid": [116, 117],
        "test": [118, 119],
    }
    assert made.manifest["split"] == {
        "protocol": "temporal",
        "ratios": "8:1:1",
        "cuts": {"valid": 116, "test": 118},
    }


def test_rows_of_one_second_stay_together_on_the_later_side(prep: Prep) -> None:
    made = prep("ub", {"a.csv": log([1, 2, 3, 4, 5, 6, 6, 6, 6, 9])}, behaviors=("purchase",))
    assert parts(made) == {"train": [1, 2, 3, 4, 5], "valid": [6, 6, 6, 6], "test": [9]}


def test_all_rows_of_one_second_cannot_be_cut(prep: Prep) -> None:
    with pytest.raises(DataError, match="too many of the 4 rows have the first timestamp, 7"):
        prep("ub", {"a.csv": log([7, 7, 7, 7])}, behaviors=("purchase",))


def test_ratios_may_leave_a_part_empty(prep: Prep) -> None:
    text = log(list(range(10)))
    no_test = prep("ub", {"a.csv": text}, behaviors=("purchase",), ratios=Ratios.parse("0.9:0.1:0"))
    assert parts(no_test) == {"train": list(range(9)), "valid": [9]}
    assert no_test.manifest["split"]["cuts"] == {"valid": 9, "test": None}
    assert any("No test rows" in note for note in no_test.notes)
    no_valid = prep("ub", {"a.csv": text}, behaviors=("purchase",), ratios=Ratios.parse("8:0:2"))
    assert parts(no_valid) == {"train": list(range(8)), "test": [8, 9]}


@pytest.mark.parametrize("text", ["8:1", "8:1:1:1", "a:b:c", "0:1:1", "8:-1:1", "", "1/0:1:1"])
def test_ratios_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="8:1:1"):
        Ratios.parse(text)


def test_ratios_are_exact() -> None:
    assert Ratios.parse("0.8:0.1:0.1").train == Fraction(4, 5)


def test_leave_one_out_takes_the_last_two_of_each_user_and_behavior(prep: Prep) -> None:
    text = (
        "1,10,1,buy,5\n1,11,1,buy,7\n1,12,1,buy,6\n1,13,1,buy,1\n"  # four purchases
        "1,20,1,pv,9\n1,21,1,pv,9\n1,22,1,pv,9\n"  # three clicks in one second
        "2,10,1,buy,5\n2,11,1,buy,6\n"  # two purchases: too few
    )
    options = {"split": "leave-one-out", "behaviors": ("click", "purchase")}
    made = prep("ub", {"a.csv": text}, **options)
    assert {(row[0], row[1]): row[4] for row in made.rows} == {
        (1, 13): "train",
        (1, 10): "train",
        (1, 12): "valid",
        (1, 11): "test",
        (1, 20): "train",
        (1, 21): "valid",
        (1, 22): "test",
        (2, 10): "train",
        (2, 11): "train",
    }
    backwards = "".join(reversed(text.splitlines(keepends=True)))
    again = prep("ub", {"a.csv": backwards}, **options)
    assert again.dataset.content_hash == made.dataset.content_hash
