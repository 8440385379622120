"""Slices and beyond accuracy: an average must not hide whom a model serves, and with what."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec import metrics
from mbrec.beyond import beyond_accuracy, self_information
from mbrec.dataset import PreparedDataset
from mbrec.evaluation import evaluate, evaluate_run
from mbrec.run import Run
from mbrec.scoring import Factors
from mbrec.slices import slice_results

MakeDataset = Callable[..., PreparedDataset]


def sliced(factors: Factors, dataset: PreparedDataset, ks: list[int]) -> dict[str, Any]:
    scorers = dict.fromkeys(dataset.behaviors, factors)
    evaluation = evaluate(scorers, dataset, "test", ks=ks, keep_lists=True)
    behaviors: dict[str, Any] = slice_results(evaluation.results, dataset, "test", ks)["behaviors"]
    return behaviors


@pytest.fixture
def shop(make_dataset: MakeDataset) -> PreparedDataset:
    """Three users, seven items; everyone is shown the same order 0, 1, … 6 by `in_order`.

    Item 5 has no training row, item 6 none of a purchase.
    """
    clicks = [(0, 1), (0, 2), (1, 2), (1, 6), (2, 3), (2, 4)]
    purchases = [(0, 0), (1, 0), (2, 0), (2, 3)]
    held_out = [(0, 1), (0, 3), (0, 5), (1, 2), (1, 6), (2, 1)]
    rows = [(u, i, "click", "train") for u, i in clicks]
    rows += [(u, i, "purchase", "train") for u, i in purchases]
    rows += [(u, i, "purchase", "test") for u, i in held_out]
    return make_dataset(rows, users=3, items=7, behaviors=("click", "purchase"))


def in_order(dataset: PreparedDataset) -> Factors:
    return Factors(
        torch.ones(dataset.num_users, 1), -torch.arange(float(dataset.num_items))[:, None]
    )


def test_explored_and_new_items_are_told_apart_by_the_users_own_earlier_behavior(
    shop: PreparedDataset,
) -> None:
    # Lists of 3: user 0 and 1 get 1 2 3, user 2 gets 1 2 4. Explored: (0, 1), (1, 2), (1, 6).
    found = sliced(in_order(shop), shop, [3])["purchase"]["history"]
    explored, new = found["explored"], found["new"]
    assert (explored["users"], explored["held_out"]) == (2, 3)
    assert explored["recall@3"] == pytest.approx((1 + 1 / 2) / 2)
    assert explored["mrr@3"] == pytest.approx((1 + 1 / 2) / 2)
    # User 1: a hit at rank 2 of two possible ones.
    assert explored["ndcg@3"] == pytest.approx((1 + 1 / log2(3) / (1 + 1 / log2(3))) / 2)
    # New: (0, 3) at rank 3, (0, 5) not listed, (2, 1) at rank 1. Rank 1 of user 0 stays taken.
    assert (new["users"], new["held_out"]) == (2, 3)
    assert new["recall@3"] == pytest.approx((1 / 2 + 1) / 2)
    assert new["mrr@3"] == pytest.approx((1 / 3 + 1) / 2)
    assert new["precision@3"] == pytest.approx((1 / 3 + 1 / 3) / 2)


def test_a_later_behavior_explores_nothing(make_dataset: MakeDataset) -> None:
    rows = [
        (0, 0, "purchase", "train"),
        (0, 1, "click", "train"),
        (0, 0, "click", "test"),
        (0, 1, "purchase", "test"),
    ]
    dataset = make_dataset(rows, users=1, items=3, behaviors=("click", "purchase"))
    found = sliced(in_order(dataset), dataset, [1])
    assert found["click"]["history"]["explored"] == {
        "users": 0,
        "held_out": 0,
        **dict.fromkeys(metrics.names([1])),
    }
    assert found["click"]["history"]["new"]["hr@1"] == 1
    assert found["purchase"]["history"]["explored"]["hr@1"] == 1


def test_cold_items_are_those_without_training_rows_anywhere_or_in_the_behavior(
    shop: PreparedDataset,
) -> None:
    found = sliced(in_order(shop), shop, [6])["purchase"]
    # Cold: (0, 5), at rank 5 of the list 1 2 3 4 5 6. Warm are the other five.
    assert found["item"]["cold"]["held_out"] == 1
    assert found["item"]["cold"]["mrr@6"] == pytest.approx(1 / 5)
    assert (found["item"]["warm"]["users"], found["item"]["warm"]["held_out"]) == (3, 5)
    assert found["item"]["warm"]["map@6"] == pytest.approx(
        ((1 / 1 + 2 / 3) / 2 + (1 / 2 + 2 / 6) / 2 + 1) / 3
    )
    # Nobody bought 1, 2, 5 or 6 in training.
    assert found["item_in_behavior"]["cold"]["held_out"] == 5
    assert found["item_in_behavior"]["warm"]["users"] == 1
    assert found["item_in_behavior"]["warm"]["mrr@6"] == pytest.approx(1 / 3)


def test_users_are_cut_into_quartiles_by_all_their_training_pairs(
    make_dataset: MakeDataset,
) -> None:
    # User u has u + 1 training pairs, one of them a purchase; all are held out the best item left.
    rows = [(u, i, "click", "train") for u in range(8) for i in range(1, u + 1)]
    rows += [(u, 9, "purchase", "train") for u in range(8)]
    rows += [(u, 0 if u < 3 else 5, "purchase", "test") for u in range(8)]
    dataset = make_dataset(rows, users=8, items=10, behaviors=("click", "purchase"))
    found = sliced(in_order(dataset), dataset, [1])["purchase"]["activity"]
    assert [(row["low"], row["high"], row["users"]) for row in found.values()] == [
        (1, 2, 2),
        (3, 4, 2),
        (5, 6, 2),
        (7, 8, 2),
    ]
    assert [row["hr@1"] for row in found.values()] == [1, 1 / 2, 0, 0]


def test_users_of_equal_activity_stay_together(make_dataset: MakeDataset) -> None:
    rows = [(u, 1, "purchase", "train") for u in range(5)]
    rows += [(u, 0, "purchase", "test") for u in range(5)]
    dataset = make_dataset(rows, users=5, items=2, behaviors=("purchase",))
    found = sliced(in_order(dataset), dataset, [1])["purchase"]["activity"]
    assert [row["users"] for row in found.values()] == [5, 0, 0, 0]
    assert (found["q1"]["low"], found["q1"]["high"]) == (1, 1)
    assert (found["q2"]["low"], found["q2"]["hr@1"]) == (None, None)


def brute_force_slice(
    factors: Factors, dataset: PreparedDataset, kept: set[tuple[int, int]], k: int
) -> dict[str, float]:
    """Recall and NDCG of purchases when only `kept` pairs count, one user at a time."""
    scores = (factors.user_emb @ factors.item_emb.T).numpy()
    train, test = (dataset.pairs("purchase", split) for split in ("train", "test"))
    recall, ndcg = [], []
    for user in sorted(set(test.user_idx.tolist())):
        wanted = {item for owner, item in kept if owner == user}
        if not wanted:
            continue
        seen = set(train.item_idx[train.user_idx == user].tolist())
        items = [item for item in range(dataset.num_items) if item not in seen]
        items.sort(key=lambda item, row=scores[user]: (-row[item], item))  # type: ignore[misc]
        hits = [item in wanted for item in items[:k]]
        recall.append(sum(hits) / len(wanted))
        gain = sum(1 / log2(rank + 2) for rank, hit in enumerate(hits) if hit)
        ndcg.append(gain / sum(1 / log2(rank + 2) for rank in range(min(k, len(wanted)))))
    return {"users": len(recall), "recall": float(np.mean(recall)), "ndcg": float(np.mean(ndcg))}


@pytest.mark.parametrize("seed", range(3))
def test_slices_are_those_of_a_loop_over_users(make_dataset: MakeDataset, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = []
    for behavior, share in (("click", 0.25), ("favorite", 0.1), ("purchase", 0.3)):
        for user, item in zip(*np.nonzero(rng.random((15, 20)) < share), strict=True):
            split = "test" if rng.random() < 0.4 and behavior == "purchase" else "train"
            rows.append((int(user), int(item), behavior, split))
    dataset = make_dataset(rows, users=15, items=20)
    factors = Factors(  # small integers: many ties
        torch.from_numpy(rng.integers(-2, 3, (15, 2))).float(),
        torch.from_numpy(rng.integers(-2, 3, (20, 2))).float(),
    )
    found = sliced(factors, dataset, [4])["purchase"]
    held_out = {(u, i) for u, i, _, split in rows if split == "test"}
    touched = {(u, i) for u, i, name, split in rows if split == "train" and name != "purchase"}
    bought = {i for _, i, name, split in rows if split == "train" and name == "purchase"}
    activity = Counter(u for u, _, _, split in rows if split == "train")
    expected = {
        ("history", "explored"): held_out & touched,
        ("history", "new"): held_out - touched,
        ("item_in_behavior", "warm"): {pair for pair in held_out if pair[1] in bought},
        ("item_in_behavior", "cold"): {pair for pair in held_out if pair[1] not in bought},
    }
    for name, row in found["activity"].items():
        if row["users"]:
            mine = {p for p in held_out if row["low"] <= activity[p[0]] <= row["high"]}
            expected["activity", name] = mine
    for (group, name), kept in expected.items():
        row = found[group][name]
        assert row["held_out"] == len(kept), (group, name)
        if kept:
            looped = brute_force_slice(factors, dataset, kept, 4)
            assert row["users"] == looped["users"]
            assert row["recall@4"] == pytest.approx(looped["recall"])
            assert row["ndcg@4"] == pytest.approx(looped["ndcg"])
    users = sum(row["users"] for row in found["activity"].values())
    assert users == len({user for user, _ in held_out})


def test_coverage_novelty_and_gini_of_a_list_worked_out_by_hand() -> None:
    # Four items with 3, 1, 0 and 0 training pairs: (c + 1) / (4 + 4) is 1/2, 1/4, 1/8, 1/8.
    counts = np.array([3, 1, 0, 0])
    assert self_information(counts).tolist() == [1, 2, 3, 3]
    lists = np.array([[0, 1], [0, 2], [0, -1]])
    found = beyond_accuracy(lists, counts, [1, 2])
    assert found["coverage@1"] == 1 / 4
    assert found["coverage@2"] == 3 / 4
    assert found["novelty@1"] == 1
    assert found["novelty@2"] == (1 + 1 + 1 + 2 + 3) / 5
    assert found["gini@1"] == 3 / 4  # all three places go to one of four items
    # Exposures 0, 1, 1, 3: (-3 · 0 - 1 · 1 + 1 · 1 + 3 · 3) / (4 · 5)
    assert found["gini@2"] == pytest.approx(9 / 20)


def test_lists_that_show_all_items_equally_have_a_gini_of_zero() -> None:
    found = beyond_accuracy(np.array([[0, 1], [2, 3]]), np.zeros(4, dtype=np.int64), [2])
    assert found == {"coverage@2": 1, "novelty@2": 2, "gini@2": 0}
    nothing = beyond_accuracy(np.empty((0, 2), dtype=np.int64), np.zeros(4, dtype=np.int64), [2])
    assert set(nothing.values()) == {None}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.permutations(range(6)), min_size=1, max_size=8), st.data())
def test_beyond_accuracy_is_that_of_its_definition(lists: list[list[int]], data: Any) -> None:
    counts = data.draw(st.lists(st.integers(0, 9), min_size=6, max_size=6))
    found = beyond_accuracy(np.array(lists), np.array(counts), [3])
    shown = Counter(item for items in lists for item in items[:3])
    exposure = [shown[item] for item in range(6)]
    # Gini as the mean absolute difference over twice the mean.
    apart = sum(abs(a - b) for a in exposure for b in exposure) / 36
    assert found["gini@3"] == pytest.approx(apart / (2 * sum(exposure) / 6))
    bits = [-log2((counts[item] + 1) / (sum(counts) + 6)) for i in lists for item in i[:3]]
    assert found["novelty@3"] == pytest.approx(np.mean(bits))
    assert found["coverage@3"] == len(shown) / 6


def test_slices_of_a_run_are_written_beside_its_evaluation(tiny_run: Run) -> None:
    evaluation = evaluate_run(tiny_run.path, slices=True, ks=[5, 10])
    written = json.loads((tiny_run.path / "slices.test.json").read_text())
    assert written.pop("source") == tiny_run.source
    assert written == evaluation.slices
    assert list(written["behaviors"]) == ["click", "favorite", "purchase"]
    empty = written["behaviors"]["favorite"]
    assert empty["activity"]["q4"]["users"] == 0
    assert empty["beyond"]["gini@10"] is None
    for behavior, row in evaluation.summary()["behaviors"].items():
        groups = written["behaviors"][behavior]
        for group in ("history", "item", "item_in_behavior", "activity"):
            held_out = sum(part["held_out"] for part in groups[group].values())
            assert held_out == len(evaluation.dataset.pairs(behavior, "test"))
        if row["users"]:  # quartiles share out the users: their mean is that of all
            parts = groups["activity"].values()
            total = sum(part["users"] * (part["ndcg@5"] or 0) for part in parts)
            assert total / row["users"] == pytest.approx(row["ndcg@5"])


def test_nothing_is_ranked_twice_or_kept_unasked(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []
    scores = Factors.scores

    def counted(self: Factors, user_idx: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        calls.append(len(user_idx))
        return scores(self, user_idx, start, stop)

    monkeypatch.setattr(Factors, "scores", counted)
    plain = evaluate_run(tiny_run.path)
    once = len(calls)
    sliced_too = evaluate_run(tiny_run.path, slices=True)
    assert len(calls) == 2 * once
    assert plain.results["click"].lists is None
    assert plain.slices is None
    assert sliced_too.per_user.equals(plain.per_user)
    assert sliced_too.results["click"].lists is not None
