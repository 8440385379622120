"""Metrics per user, against fractions worked out by hand and a brute-force oracle."""

from __future__ import annotations

import re
from fractions import Fraction
from math import log2
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec import metrics
from mbrec.errors import DataError, UsageError
from mbrec.graph import Pairs

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def relevant(*sets: set[int]) -> Pairs:
    flat = [(row, item) for row, wanted in enumerate(sets) for item in sorted(wanted)]
    rows, items = np.array(flat, dtype=np.int32).reshape(-1, 2).T
    return Pairs(rows.copy(), items.copy())


def one_user(ranked: list[int], wanted: set[int], k: int) -> dict[str, float]:
    """Every metric of one list, straight from the definitions."""
    hits = [item in wanted for item in ranked[:k]]
    ranks = [rank for rank, hit in enumerate(hits, start=1) if hit]
    dcg = sum(1 / log2(rank + 1) for rank in ranks)
    idcg = sum(1 / log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
    precisions = [Fraction(sum(hits[:rank]), rank) for rank in ranks]
    return {
        "hr": float(any(hits)),
        "ndcg": dcg / idcg,
        "recall": float(Fraction(sum(hits), len(wanted))),
        "precision": float(Fraction(sum(hits), k)),
        "mrr": float(Fraction(1, ranks[0])) if ranks else 0.0,
        "map": float(sum(precisions, Fraction(0)) / min(k, len(wanted))),
    }


def test_a_list_with_hits_at_ranks_two_and_four() -> None:
    found = metrics.per_user(np.array([[5, 1, 7, 3, 9]]), relevant({1, 3, 8}), ks=[5])
    expected = {
        "hr@5": 1,
        "ndcg@5": (1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / 2),
        "recall@5": Fraction(2, 3),
        "precision@5": Fraction(2, 5),
        "mrr@5": Fraction(1, 2),
        "map@5": (Fraction(1, 2) + Fraction(2, 4)) / 3,
    }
    assert {name: values[0] for name, values in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, abs=1e-12
    )


def test_a_shorter_length_counts_only_its_own_ranks() -> None:
    found = metrics.per_user(np.array([[5, 1, 7, 3, 9]]), relevant({1, 3, 8}), ks=[1, 2])
    assert [found[f"{name}@1"][0] for name in metrics.METRICS] == [0] * 6
    assert found["map@2"][0] == float(Fraction(1, 2) / 2)
    assert found["recall@2"][0] == float(Fraction(1, 3))
    assert list(found) == metrics.names([1, 2])


def test_the_ideal_list_reaches_one_even_with_more_held_out_items_than_ranks() -> None:
    found = metrics.per_user(np.array([[2, 0]]), relevant({0, 1, 2}), ks=[2])
    assert {name: values[0] for name, values in found.items()} == {
        "hr@2": 1,
        "ndcg@2": 1,
        "recall@2": float(Fraction(2, 3)),
        "precision@2": 1,
        "mrr@2": 1,
        "map@2": 1,
    }


def test_empty_places_are_no_hits() -> None:
    found = metrics.per_user(np.array([[-1, -1], [3, -1]]), relevant({0, 9}, {9}), ks=[2])
    assert all(values.tolist() == [0, 0] for values in found.values())


def test_a_length_far_beyond_whole_lists_costs_no_memory_and_counts_empty_places() -> None:
    lists, wanted = np.array([[5, 1, 7], [2, -1, -1]]), relevant({1, 3, 7, 8}, {2})
    padded = np.pad(lists, ((0, 0), (0, 97)), constant_values=-1)
    ks, far = [2, 3, 4, 100], 10**15
    found = metrics.per_user(lists, wanted, [*ks, far], whole=True)
    for name, values in metrics.per_user(padded, wanted, ks).items():
        assert found[name] == pytest.approx(values, abs=1e-12), name
    assert found[f"precision@{far}"].tolist() == [2 / far, 1 / far]
    assert found[f"ndcg@{far}"].tolist() == found["ndcg@4"].tolist()


@given(
    seed=st.integers(0, 10_000),
    users=st.integers(1, 8),
    items=st.integers(1, 15),
    length=st.integers(1, 12),
)
@settings(max_examples=80, deadline=None)
def test_every_metric_agrees_with_its_definition(
    seed: int, users: int, items: int, length: int
) -> None:
    rng = np.random.default_rng(seed)
    ranked = np.full((users, length), -1)
    for row in ranked:
        some = rng.permutation(items)[: rng.integers(0, length + 1)]
        row[: len(some)] = some
    wanted = [set(rng.permutation(items)[: rng.integers(1, items + 1)].tolist()) for _ in ranked]
    ks = sorted({1, length, int(rng.integers(1, length + 1))})
    found = metrics.per_user(torch.from_numpy(ranked), relevant(*wanted), ks)
    assert list(found) == metrics.names(ks)
    for row, (items_of, wants) in enumerate(zip(ranked.tolist(), wanted, strict=True)):
        for k in ks:
            for name, value in one_user(items_of, wants, k).items():
                assert found[f"{name}@{k}"][row] == pytest.approx(value, abs=1e-12)


def test_no_users_give_empty_columns() -> None:
    found = metrics.per_user(np.empty((0, 5), dtype=np.int64), relevant(), ks=[5])
    assert all(values.shape == (0,) for values in found.values())


def test_a_length_beyond_the_lists_is_refused() -> None:
    with pytest.raises(UsageError, match="at 6 cannot be taken of lists of length 5"):
        metrics.per_user(np.zeros((1, 5), dtype=np.int64), relevant({0}), ks=[6])


def test_a_user_without_held_out_items_is_refused() -> None:
    with pytest.raises(DataError, match="needs a held-out item"):
        metrics.per_user(np.zeros((2, 1), dtype=np.int64), relevant({0}), ks=[1])


def test_the_example_in_the_docs_is_right() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (ann|bob|mean) \| (.*?) \| (.*?) \| (\d.*) \|$", text, re.M)
    assert [row[0] for row in rows] == ["ann", "bob", "mean"]
    lists = np.array([[ord(letter) for letter in row[1].strip("`").split()] for row in rows[:2]])
    held_out = [{ord(letter) for letter in row[2].strip("`").split()} for row in rows[:2]]
    found = np.stack(list(metrics.per_user(lists, relevant(*held_out), ks=[4]).values()), axis=1)
    shown = [[float(Fraction(cell)) for cell in row[3].split(" | ")] for row in rows]
    np.testing.assert_allclose([*found, found.mean(axis=0)], shown, atol=5e-5)
