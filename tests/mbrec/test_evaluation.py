"""Evaluation per behavior: who counts, what is masked, what is averaged, what is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mbrec import metrics
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError, DeviceError, LeakageError, UsageError
from mbrec.evaluation import evaluate, evaluate_run
from mbrec.results import HeldOut
from mbrec.run import Run
from mbrec.sampled import evaluate_sampled
from mbrec.scoring import Factors
from mbrec.slices import slice_results


def random_factors(dataset: PreparedDataset, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    # Small integers: many ties, and products that are exact in any order.
    return Factors(
        torch.randint(-2, 3, (dataset.num_users, 3), generator=generator).float(),
        torch.randint(-2, 3, (dataset.num_items, 3), generator=generator).float(),
    )


def brute_force(
    factors: Factors, dataset: PreparedDataset, behavior: str, split: HeldOut, k: int
) -> dict[str, float]:
    """NDCG, recall and the number of users, one user at a time."""
    scores = (factors.user_emb @ factors.item_emb.T).numpy()
    train, held_out = (dataset.pairs(behavior, part) for part in ("train", split))
    ndcg, recall = [], []
    for user in sorted(set(held_out.user_idx.tolist())):
        seen = set(train.item_idx[train.user_idx == user].tolist())
        wanted = set(held_out.item_idx[held_out.user_idx == user].tolist())
        items = [item for item in range(dataset.num_items) if item not in seen]
        items.sort(key=lambda item, row=scores[user]: (-row[item], item))  # type: ignore[misc]
        hits = [item in wanted for item in items[:k]]
        gain = sum(1 / np.log2(rank + 2) for rank, hit in enumerate(hits) if hit)
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, len(wanted))))
        ndcg.append(gain / ideal)
        recall.append(sum(hits) / len(wanted))
    return {"users": len(ndcg), "ndcg": float(np.mean(ndcg)), "recall": float(np.mean(recall))}


@pytest.mark.parametrize("split", ["valid", "test"])
def test_figures_are_those_of_a_loop_over_users(
    tiny_dataset: PreparedDataset, split: HeldOut
) -> None:
    factors = random_factors(tiny_dataset)
    summary = evaluate({"click": factors, "purchase": factors}, tiny_dataset, split).summary()
    assert summary["split"] == split
    for behavior in ("click", "purchase"):
        row = summary["behaviors"][behavior]
        for k in (5, 10, 20):
            expected = brute_force(factors, tiny_dataset, behavior, split, k)
            assert row["users"] == expected["users"]
            assert row[f"ndcg@{k}"] == pytest.approx(expected["ndcg"], abs=1e-12)
            assert row[f"recall@{k}"] == pytest.approx(expected["recall"], abs=1e-12)


def test_lists_longer_than_the_catalog_cost_no_more_than_all_of_it(
    tiny_dataset: PreparedDataset,
) -> None:
    """K items per user were kept, most of them none: memory ran out for a K without any use."""
    scorers, items = {"click": random_factors(tiny_dataset)}, tiny_dataset.num_items
    all_of_it = evaluate(scorers, tiny_dataset, "test", ks=[items]).summary()["macro"]
    found = evaluate(scorers, tiny_dataset, "test", ks=[10**12], keep_lists=True)
    assert found.results["click"].lists is not None
    assert found.results["click"].lists.shape[1] == items
    far = found.summary()["macro"]
    assert far.pop("precision@1000000000000") == pytest.approx(
        all_of_it.pop(f"precision@{items}") * items / 10**12
    )
    assert list(far.values()) == pytest.approx(list(all_of_it.values()), abs=1e-12)
    sliced = slice_results(found.results, tiny_dataset, "test", [10**12])["behaviors"]["click"]
    assert sliced["beyond"]["coverage@1000000000000"] > 0
    sampled = evaluate_sampled(scorers, tiny_dataset, "test", count=5, ks=[10**12]).summary()
    assert sampled["macro"]["sampled5_hr@1000000000000"] == 1


def test_only_training_items_of_the_same_behavior_are_masked(
    make_dataset: Callable[..., PreparedDataset],
) -> None:
    rows = [
        (0, 0, "click", "train"),
        (0, 1, "purchase", "train"),
        (0, 2, "purchase", "valid"),
        (0, 3, "purchase", "test"),
    ]
    dataset = make_dataset(rows, users=1, items=5)
    # Item 0 (clicked) and item 2 (bought in valid) stay and outrank 3; item 1 is left out.
    factors = Factors(torch.ones(1, 1), torch.tensor([[5.0], [4.0], [3.0], [2.0], [1.0]]))
    row = evaluate({"purchase": factors}, dataset, "test", ks=[2, 3]).summary()["behaviors"]
    assert row["purchase"]["mrr@3"] == pytest.approx(1 / 3)
    assert row["purchase"]["hr@2"] == 0


def test_an_item_without_training_rows_is_ranked_and_counts(
    make_dataset: Callable[..., PreparedDataset],
) -> None:
    dataset = make_dataset(
        [(0, 0, "purchase", "train"), (1, 4, "purchase", "test")], users=2, items=5
    )
    factors = Factors(torch.ones(2, 1), torch.arange(5.0)[:, None])
    summary = evaluate({"purchase": factors}, dataset, "test", ks=[1]).summary()
    assert summary["behaviors"]["purchase"] == {"users": 1, **dict.fromkeys(metrics.names([1]), 1)}


def test_a_behavior_without_held_out_rows_has_null_metrics_and_no_say_in_the_macro(
    tiny_dataset: PreparedDataset,
) -> None:
    factors = random_factors(tiny_dataset)
    evaluation = evaluate(dict.fromkeys(tiny_dataset.behaviors, factors), tiny_dataset, "test")
    summary = evaluation.summary()
    assert evaluation.missing == ["favorite"]
    rows = summary["behaviors"]
    assert list(rows) == ["click", "favorite", "purchase"]
    assert rows["favorite"] == {"users": 0, **dict.fromkeys(metrics.names([5, 10, 20]))}
    for name, value in summary["macro"].items():
        assert value == pytest.approx((rows["click"][name] + rows["purchase"][name]) / 2)
    json.dumps(summary, allow_nan=False)


def test_per_user_values_average_to_the_summary_and_bear_raw_ids(
    tiny_dataset: PreparedDataset,
) -> None:
    factors = random_factors(tiny_dataset)
    evaluation = evaluate(dict.fromkeys(tiny_dataset.behaviors, factors), tiny_dataset, "valid")
    table = evaluation.per_user
    assert table.column_names == ["user_id", "behavior", *metrics.names([5, 10, 20])]
    frame = table.to_pandas()
    assert set(frame[frame.behavior == "favorite"].user_id) == {f"u{u}" for u in range(1, 24, 2)}
    for behavior, row in evaluation.summary()["behaviors"].items():
        mine = frame[frame.behavior == behavior]
        assert len(mine) == row["users"]
        assert mine["ndcg@10"].mean() == pytest.approx(row["ndcg@10"], abs=1e-12)


def test_the_number_of_users_ranked_at_a_time_changes_nothing(
    tiny_dataset: PreparedDataset,
) -> None:
    scorers = {"click": random_factors(tiny_dataset)}
    first, second = (
        evaluate(scorers, tiny_dataset, "valid", user_batch=size).per_user for size in (1, 10_000)
    )
    assert first.equals(second)


def test_progress_reaches_the_number_of_users(tiny_dataset: PreparedDataset) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(
        {"click": random_factors(tiny_dataset)},
        tiny_dataset,
        "valid",
        progress=lambda *step: seen.append(step),
    )
    assert seen[-1] == ("click", 23, 23)


def test_code_that_must_not_see_test_rows_cannot_evaluate_on_them(
    tiny_dataset: PreparedDataset,
) -> None:
    blind = PreparedDataset(tiny_dataset.path, splits=("train", "valid"))
    with pytest.raises(LeakageError):
        evaluate({"click": random_factors(blind)}, blind, "test")


def test_scores_of_other_users_or_behaviors_are_refused(tiny_dataset: PreparedDataset) -> None:
    with pytest.raises(DataError, match="5 users × 30 items"):
        evaluate({"click": Factors(torch.ones(5, 1), torch.ones(30, 1))}, tiny_dataset, "valid")
    with pytest.raises(DataError, match="no behavior 'buy'"):
        evaluate({"buy": random_factors(tiny_dataset)}, tiny_dataset, "valid")


@pytest.mark.parametrize("ks", [(), (0,), (5, -1)])
def test_impossible_list_lengths_are_refused(tiny_dataset: PreparedDataset, ks: list[int]) -> None:
    with pytest.raises(UsageError, match="K is"):
        evaluate({"click": random_factors(tiny_dataset)}, tiny_dataset, "valid", ks=ks)


def test_a_run_is_evaluated_into_its_own_folder(
    tiny_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mbrec"):
        evaluation = evaluate_run(tiny_run.path, ks=[5])
    assert "'favorite' has no test rows" in caplog.text
    written = json.loads((tiny_run.path / "evaluation.test.json").read_text())
    assert written == evaluation.summary()
    assert written["behaviors"]["click"]["users"] == 23
    table = pq.read_table(tiny_run.path / "per_user.test.parquet")
    assert table.equals(evaluation.per_user)
    assert [p.name for p in tiny_run.path.iterdir() if p.name.startswith(".")] == []


def test_the_planted_taste_is_found(tiny_run: Run) -> None:
    macro = evaluate_run(tiny_run.path, split="valid").summary()["macro"]
    assert macro["recall@10"] > 0.95


def test_a_dataset_without_test_rows_points_to_valid(
    make_dataset: Callable[..., PreparedDataset], make_run: Callable[..., Run]
) -> None:
    dataset = make_dataset(
        [(0, 0, "purchase", "train"), (0, 1, "purchase", "valid")], users=1, items=2
    )
    run = make_run(dataset, dict.fromkeys(dataset.behaviors, random_factors(dataset)))
    with pytest.raises(DataError, match=r"no test rows.*--split valid"):
        evaluate_run(run.path)
    assert evaluate_run(run.path, split="valid").summary()["macro"]["hr@5"] == 1


def test_a_dataset_that_moved_is_found_by_data_and_another_one_is_refused(
    tiny_run: Run,
    tiny_dataset: PreparedDataset,
    make_dataset: Callable[..., PreparedDataset],
    tmp_path: Path,
) -> None:
    other = make_dataset([(0, 0, "purchase", "train")], users=1, items=1, name="other")
    with pytest.raises(ArtefactError, match="is not the dataset"):
        evaluate_run(tiny_run.path, data=other.path)
    with pytest.raises(ArtefactError, match="--data"):
        evaluate_run(tiny_run.path, data=tmp_path / "gone")
    moved = tmp_path / "moved"
    moved.symlink_to(tiny_dataset.path)
    assert evaluate_run(tiny_run.path, data=moved).summary()["split"] == "test"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_asked_for_in_vain_is_said_before_any_work(tiny_run: Run) -> None:
    with pytest.raises(DeviceError, match="--device cpu"):
        evaluate_run(tiny_run.path, device="cuda")
