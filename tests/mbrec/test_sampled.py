"""Sampled metrics: only on request, exact draws, and never to be taken for the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mbrec import metrics
from mbrec.dataset import PreparedDataset
from mbrec.errors import TrainingError, UsageError
from mbrec.evaluation import evaluate, evaluate_run
from mbrec.graph import merge
from mbrec.randomness import generator
from mbrec.run import Run
from mbrec.sampled import evaluate_sampled
from mbrec.sampling import NegativeSampler
from mbrec.scoring import Factors

MakeDataset = Callable[..., PreparedDataset]


def some_factors(dataset: PreparedDataset, seed: int = 0) -> Factors:
    draws = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randint(-2, 3, (dataset.num_users, 3), generator=draws).float(),
        torch.randint(-2, 3, (dataset.num_items, 3), generator=draws).float(),
    )


class Watched:
    """Scores that only depend on the item, and a record of what was asked."""

    def __init__(self, dataset: PreparedDataset, values: Tensor) -> None:
        self.num_users, self.num_items = dataset.num_users, dataset.num_items
        self.device = torch.device("cpu")
        self.values = values
        self.asked: list[tuple[int, int, int]] = []

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        self.asked.append((len(user_idx), start, stop))
        return self.values[start:stop].expand(len(user_idx), -1)

    def to(self, device: torch.device | str) -> Watched:
        return self


def test_figures_are_those_of_a_loop_over_users(tiny_dataset: PreparedDataset) -> None:
    factors, count, k = some_factors(tiny_dataset), 7, 4
    found = evaluate_sampled({"purchase": factors}, tiny_dataset, "test", count=count, ks=[k])
    scores = (factors.user_emb @ factors.item_emb.T).numpy()
    train, test = (tiny_dataset.pairs("purchase", split) for split in ("train", "test"))
    taken = merge({"train": train, "test": test}, tiny_dataset.num_items)
    users = np.unique(test.user_idx)
    sampler = NegativeSampler(taken, tiny_dataset.num_users, tiny_dataset.num_items)
    draws = generator(0, "sampled/purchase")
    negatives = sampler.sample(torch.from_numpy(users).long(), count, draws).numpy()
    recall, ndcg = [], []
    for user, others in zip(users, negatives, strict=True):
        wanted = test.item_idx[test.user_idx == user].tolist()
        ranked = sorted([*wanted, *others.tolist()], key=lambda i: (-scores[user, i], i))
        hits = [item in wanted for item in ranked[:k]]
        recall.append(sum(hits) / len(wanted))
        gain = sum(1 / np.log2(rank + 2) for rank, hit in enumerate(hits) if hit)
        ndcg.append(gain / sum(1 / np.log2(r + 2) for r in range(min(k, len(wanted)))))
    values = found.results["purchase"].values
    assert values["sampled7_recall@4"].tolist() == pytest.approx(recall)
    assert values["sampled7_ndcg@4"].tolist() == pytest.approx(ndcg)
    assert found.results["purchase"].user_idx.tolist() == users.tolist()


def test_negatives_are_drawn_evenly_from_what_a_user_neither_has_nor_is_held_out(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        (0, 1, "purchase", "train"),
        (0, 3, "purchase", "valid"),
        (0, 5, "purchase", "test"),
        (0, 4, "click", "train"),
    ]
    dataset = make_dataset(rows, users=1, items=6)
    drawn: list[int] = []
    sample = NegativeSampler.sample

    def kept(self: NegativeSampler, *arguments: object) -> Tensor:
        items = sample(self, *arguments)  # type: ignore[arg-type]
        drawn.extend(items.flatten().tolist())
        return items

    monkeypatch.setattr(NegativeSampler, "sample", kept)
    evaluate_sampled({"purchase": some_factors(dataset)}, dataset, "test", count=4000, ks=[1])
    counts = Counter(drawn)
    assert set(counts) == {0, 2, 3, 4}  # neither 1 nor 5; valid rows are not looked at
    assert all(count == pytest.approx(1000, abs=120) for count in counts.values())


def test_a_rank_is_one_more_than_the_negatives_that_beat_it(make_dataset: MakeDataset) -> None:
    rows = [(0, 0, "purchase", "train"), (0, 2, "purchase", "test")]
    dataset = make_dataset(rows, users=1, items=4, behaviors=("purchase",))
    for values, expected in (
        ([9.0, 5.0, 3.0, 1.0], None),  # item 1 beats it, 3 does not
        ([9.0, 3.0, 3.0, 3.0], None),  # of equals, the lower index ranks first: the same
        ([9.0, 2.0, 3.0, 1.0], 1.0),
        ([9.0, 2.0, -np.inf, 1.0], 0.0),  # what cannot be ranked is no hit
    ):
        scorer = Watched(dataset, torch.tensor(values))
        found = evaluate_sampled({"purchase": scorer}, dataset, "test", count=10, ks=[20])
        rank = found.results["purchase"].values["sampled10_mrr@20"][0]
        if expected is None:
            taken = merge({"a": dataset.pairs("purchase", "train")}, 4)
            taken = merge({"a": taken, "b": dataset.pairs("purchase", "test")}, 4)
            draws = generator(0, "sampled/purchase")
            others = NegativeSampler(taken, 1, 4).sample(torch.tensor([0]), 10, draws)
            expected = 1 / (1 + int((others == 1).sum()))
        assert rank == pytest.approx(expected)


def test_all_models_face_the_same_negatives_and_another_seed_gives_others(
    tiny_dataset: PreparedDataset,
) -> None:
    factors = some_factors(tiny_dataset)

    def figures(seed: int) -> list[float]:
        found = evaluate_sampled(
            {"click": factors}, tiny_dataset, "valid", count=5, ks=[3], seed=seed
        )
        return found.results["click"].values["sampled5_ndcg@3"].tolist()

    assert figures(1) == figures(1)
    assert figures(1) != figures(2)
    both = evaluate_sampled(
        {"click": factors, "purchase": factors}, tiny_dataset, "valid", count=5, ks=[3], seed=1
    )
    assert both.results["click"].values["sampled5_ndcg@3"].tolist() == figures(1)


def test_scores_are_asked_for_in_blocks_whose_size_changes_nothing(
    tiny_dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.randn(tiny_dataset.num_items, generator=torch.Generator().manual_seed(0))

    def measured() -> tuple[list[float], Watched]:
        scorer, seen = Watched(tiny_dataset, values), []
        found = evaluate_sampled(
            {"click": scorer},
            tiny_dataset,
            "test",
            count=6,
            ks=[5],
            progress=lambda *step: seen.append(step),
        )
        assert seen[-1] == ("click", 23, 23)
        return found.results["click"].values["sampled6_map@5"].tolist(), scorer

    whole, _ = measured()
    monkeypatch.setattr("mbrec.sampled._ITEMS", 7)
    monkeypatch.setattr("mbrec.sampled._MAX_USERS", 4)
    parts, scorer = measured()
    assert parts == whole
    assert max(users for users, _, _ in scorer.asked) == 4
    assert max(stop - start for _, start, stop in scorer.asked) == 7


def test_a_user_who_has_everything_is_ranked_without_negatives(make_dataset: MakeDataset) -> None:
    rows = [(0, i, "purchase", "train") for i in range(3)]
    rows += [(0, 3, "purchase", "test"), (1, 0, "purchase", "test")]
    dataset = make_dataset(rows, users=2, items=4, behaviors=("purchase",))
    scorer = Watched(dataset, torch.arange(4.0))
    found = evaluate_sampled({"purchase": scorer}, dataset, "test", count=30, ks=[2])
    assert found.results["purchase"].values["sampled30_hr@2"].tolist() == [1, 0]


def test_a_behavior_without_held_out_rows_has_null_metrics(tiny_dataset: PreparedDataset) -> None:
    found = evaluate_sampled(
        {"favorite": some_factors(tiny_dataset)}, tiny_dataset, "test", count=3, ks=[2]
    ).summary()
    row = found["behaviors"]["favorite"]
    assert row == {"users": 0, **{f"sampled3_{name}": None for name in metrics.names([2])}}


def test_no_negatives_and_no_numbers_are_refused(tiny_dataset: PreparedDataset) -> None:
    with pytest.raises(UsageError, match="0 negatives"):
        evaluate_sampled({}, tiny_dataset, "test", count=0, ks=[5])
    nans = Watched(tiny_dataset, torch.full((tiny_dataset.num_items,), torch.nan))
    with pytest.raises(TrainingError, match="NaN"):
        evaluate_sampled({"click": nans}, tiny_dataset, "test", count=3, ks=[5])


def test_sampled_figures_have_names_and_a_file_of_their_own(tiny_run: Run) -> None:
    evaluation = evaluate_run(tiny_run.path, sampled=9, ks=[5])
    plain = json.loads((tiny_run.path / "evaluation.test.json").read_text())
    written = json.loads((tiny_run.path / "evaluation.test.sampled9.json").read_text())
    assert evaluation.sampled is not None
    assert written.pop("source") == tiny_run.source
    assert written == evaluation.sampled.summary()
    assert plain == evaluation.summary()
    assert written["comparable"] is False
    assert written["note"].startswith("Not comparable")
    names = {name for row in (*plain["behaviors"].values(), plain["macro"]) for name in row}
    others = {name for row in (*written["behaviors"].values(), written["macro"]) for name in row}
    assert names & others == {"users"}
    assert not any("sampled" in name for name in evaluation.per_user.column_names)


def test_sampling_flatters(tiny_run: Run) -> None:
    evaluation = evaluate_run(tiny_run.path, sampled=3, ks=[2])
    assert evaluation.sampled is not None
    full = evaluation.summary()["macro"]["recall@2"]
    assert evaluation.sampled.summary()["macro"]["sampled3_recall@2"] > full


def test_sampling_does_not_happen_unasked(
    tiny_dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NegativeSampler, "sample", None)
    evaluation = evaluate({"click": some_factors(tiny_dataset)}, tiny_dataset, "test")
    assert evaluation.sampled is None
