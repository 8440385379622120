"""If these fail, an ingredient of BiGEL+ is not what its docstring says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import TrainingError, UsageError
from mbrec.models.bigel_plus.context import ContextualBranch
from mbrec.models.bigel_plus.counts import (
    activities,
    history,
    linear,
    popularities,
    recency,
    unseen,
    walk,
)
from mbrec.models.bigel_plus.model import BigelPlus, BigelPlusConfig
from mbrec.run import Run
from mbrec.scoring import Factors, Sum, Weighted
from mbrec.spread import unit_spread
from mbrec.training import train_run


def matrices(hand_made: Any) -> dict[str, Any]:
    shape = hand_made.users, hand_made.items
    found = {}
    for behavior in hand_made.behaviors:
        found[behavior] = np.zeros(shape)
        for user, item in hand_made.train[behavior]:
            found[behavior][user, item] = 1
    return found


def unit(rows: Any) -> Any:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize("negatives", [3, 10_000])
def test_the_contextual_loss_is_the_softmax_over_the_items_drawn(
    hand_made: Any, negatives: int
) -> None:
    config = BigelPlusConfig(cascade=False, context_size=4, context_negatives=negatives)
    model = hand_made.build(BigelPlus, config)
    branch = model.context
    assert isinstance(branch, ContextualBranch)
    model.begin_epoch(1, torch.Generator().manual_seed(3))
    weights = hand_made.weights(model)
    layers = hand_made.layers("global", weights["context.user_emb"], weights["context.item_emb"], 2)
    nodes = unit(np.mean(layers, axis=0))
    user_emb, item_emb = nodes[: hand_made.users], nodes[hand_made.users :]
    everything = negatives >= hand_made.items
    drawn = (
        np.arange(hand_made.items)
        if everything
        else torch.randint(
            hand_made.items, (negatives,), generator=torch.Generator().manual_seed(3)
        ).numpy()
    )
    batch = hand_made.batch()
    found = model.losses(model.propagate(), batch)
    assert set(found) == {f"task/{behavior}" for behavior in batch}
    for behavior, triples in batch.items():
        losses = []
        for user, item in zip(triples.user_idx, triples.positive, strict=True):
            own = user_emb[user] @ item_emb[item] / config.context_temperature
            others = [
                user_emb[user] @ item_emb[j] / config.context_temperature
                for j in drawn
                if j != int(item)
            ]
            share = 1.0 if everything else hand_made.items / negatives
            losses.append(-own + np.log(np.exp(own) + share * np.sum(np.exp(others))))
        assert found[f"task/{behavior}"].item() == pytest.approx(np.mean(losses), abs=1e-5)


def test_walks_are_products_of_transition_probabilities(hand_made: Any) -> None:
    model = hand_made.build(BigelPlus, BigelPlusConfig(size=2, context_size=2))
    merged = np.sum(list(matrices(hand_made).values()), axis=0)
    by_user = merged / np.maximum(merged.sum(1, keepdims=True), 1)
    sums = merged.sum(0)
    power = {e: np.where(sums > 0, np.maximum(sums, 1e-9) ** e, 0.0) for e in (-0.7, -0.3)}
    ends = power[-0.7][:, None] * (by_user.T @ merged) * power[-0.3][None, :]
    np.fill_diagonal(ends, 0)
    scorer = walk(model._context, neighbors=100, discount=0.3)
    found = scorer.scores(torch.arange(hand_made.users), 0, hand_made.items).numpy()
    np.testing.assert_allclose(found, merged @ ends, atol=1e-5)
    one = walk(model._context, neighbors=1, discount=0.3).neighbors
    assert int(one.indptr.diff().max()) == 1
    for item in range(hand_made.items):
        _, end, value = one.rows(torch.tensor([item]))
        assert value.tolist() == pytest.approx([ends[item].max()][: len(end)])


def test_the_linear_part_is_ease_among_the_items_of_most_users(hand_made: Any) -> None:
    context = hand_made.build(BigelPlus, BigelPlusConfig(size=2, context_size=2))._context
    merged = np.sum(list(matrices(hand_made).values()), axis=0)
    users = (merged > 0).sum(0)
    everyone = torch.arange(hand_made.users)
    for num_items in (hand_made.items, 3):
        kept = np.sort(np.argsort(-users, kind="stable")[:num_items])
        history = merged[:, kept]
        inverse = np.linalg.inv(history.T @ history + 2.0 * np.eye(len(kept)))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0.3)
        expected = np.zeros_like(merged)
        expected[:, kept] = history @ weights
        found = linear(context, num_items, l2=2.0, neighbors=100)
        scores = found.scores(everyone, 0, hand_made.items).numpy()
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    one = linear(context, 3, l2=2.0, neighbors=1).neighbors
    assert sorted(one.indptr.diff().tolist()) == [0] * (hand_made.items - 3) + [1] * 3


def test_a_linear_part_that_does_not_fit_is_refused(
    hand_made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = hand_made.build(BigelPlus, BigelPlusConfig(size=2, context_size=2))._context
    monkeypatch.setattr("mbrec.memory.free_memory", lambda device: 8 * 9 - 1)
    with pytest.raises(TrainingError, match="3 items") as refusal:
        linear(context, 3, l2=2.0, neighbors=1)
    assert "model.linear_items" in refusal.value.remedy
    config = BigelPlusConfig(size=2, context_size=2, linear_items=3)
    with pytest.raises(TrainingError, match="3 items"):  # before any training
        hand_made.build(BigelPlus, config)
    monkeypatch.setattr("mbrec.memory.free_memory", lambda device: 8 * 9)
    linear(context, 3, l2=2.0, neighbors=1)


def test_similar_users_are_a_part_for_every_behavior_that_they_did(hand_made: Any) -> None:
    config = BigelPlusConfig(size=2, context_size=2, userknn_neighbors=3, userknn_shrink=0.5)
    model = hand_made.build(BigelPlus, config)
    merged = np.sum(list(matrices(hand_made).values()), axis=0)
    weights = merged / np.sqrt(np.maximum((merged > 0).sum(0), 1))
    norms = np.linalg.norm(weights, axis=1)
    alike = weights @ weights.T / (np.outer(norms, norms) + 0.5)
    np.fill_diagonal(alike, 0)
    for row in alike:
        row[np.argsort(-row, kind="stable")[3:]] = 0
    everyone = torch.arange(hand_made.users)
    for name, done in matrices(hand_made).items():
        scores = model.similarities[f"userknn/{name}"].scorer.scores(everyone, 0, hand_made.items)
        expected = alike @ done
        spread = expected.std(1, keepdims=True)
        expected = np.where(spread > 0, expected / np.where(spread > 0, spread, 1), expected)
        np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5, err_msg=name)
    off = hand_made.build(BigelPlus, config.model_copy(update={"userknn": False}))
    assert set(off.similarities) == {"walk", "linear"}


def test_similar_users_that_do_not_fit_are_refused(
    hand_made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbrec.memory.free_memory", lambda *device: 1000)
    config = BigelPlusConfig(size=2, context_size=2)
    with pytest.raises(TrainingError, match=f"for each of {hand_made.users} users") as refusal:
        hand_made.build(BigelPlus, config)
    assert "model.userknn=false" in refusal.value.remedy
    hand_made.build(BigelPlus, config.model_copy(update={"userknn": False}))


def test_counts_are_the_training_pairs(hand_made: Any) -> None:
    context = hand_made.build(BigelPlus, BigelPlusConfig(size=2, context_size=2))._context
    everyone = torch.arange(hand_made.users)
    for behavior, matrix in matrices(hand_made).items():
        done = history(context, behavior).scores(everyone, 0, hand_made.items)
        np.testing.assert_array_equal(done.numpy(), matrix)


@pytest.mark.parametrize(("kind", "axis"), [("popularity", 0), ("activity", 1)])
def test_counts_are_standardized_over_the_training_pairs(
    hand_made: Any, kind: str, axis: int
) -> None:
    context = hand_made.build(BigelPlus, BigelPlusConfig(size=2, context_size=2))._context
    counts = {name: matrix.sum(axis) for name, matrix in matrices(hand_made).items()}
    weights = sum(counts.values())
    found = {"popularity": popularities, "activity": activities}[kind](context)
    assert list(found) == [f"{kind}/{name}" for name in counts]
    for name, count in counts.items():
        values = np.log1p(count)
        mean = np.average(values, weights=weights)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=weights))
        expected = (values - mean) / max(deviation, 1e-6)
        np.testing.assert_allclose(found[f"{kind}/{name}"].numpy(), expected, rtol=1e-5)


def test_items_that_nobody_has_done_a_behavior_to_are_known(hand_made: Any) -> None:
    context = hand_made.build(BigelPlus, BigelPlusConfig(size=2, context_size=2))._context
    for name, matrix in matrices(hand_made).items():
        nobody = unseen(context)[f"unseen/{name}"]
        np.testing.assert_array_equal(nobody.numpy(), matrix.sum(0) == 0)


def test_the_latest_item_that_may_still_be_ranked_is_the_most_recent(hand_made: Any) -> None:
    context = hand_made.build(BigelPlus, BigelPlusConfig(size=2, context_size=2))._context
    asked, behavior = hand_made.behaviors[0], hand_made.behaviors[-1]
    rows = list(zip(context.train[asked].user_idx, context.train[asked].item_idx, strict=True))
    times = np.random.default_rng(2).permutation(len(rows)).astype(np.int64)
    times[0] = np.iinfo(np.int64).min  # a row without a time
    context = replace(context, times={asked: times})
    done = set(map(tuple, hand_made.train[behavior]))
    expected = np.zeros((hand_made.users, hand_made.items))
    for user in range(hand_made.users):
        mine = [(-float(t), i) for (u, i), t in zip(rows, times, strict=True) if u == user]
        left = [item for _, item in sorted(mine) if (user, item) not in done]
        for place, item in enumerate(left, start=1):
            expected[user, item] = 1 / place
    found = recency(context, asked, behavior).scores(
        torch.arange(hand_made.users), 0, hand_made.items
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert (expected > 0).sum() > 2


def test_the_blend_is_chosen_on_validation_and_noted(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    values = {
        "method": "bigel-plus",
        "device": "cpu",
        "model": {"size": 4, "context_size": 4},
        "train": {"epochs": 2, "lr": 0.01},
    }
    run = train_run(tiny_dataset.path, tmp_path / "blend", from_dict(values))
    noted = json.loads((tmp_path / "blend" / "run.json").read_text())["calibration"]
    assert set(noted) == set(tiny_dataset.behaviors)
    for behavior, row in noted.items():
        measured = run.info["valid"]["behaviors"][behavior]["ndcg@5"]
        assert row["cross_fitted"] == pytest.approx(measured, abs=1e-6)
        scorer = Run(tmp_path / "blend").scorer(behavior)
        assert isinstance(scorer, Sum)
        assert len(scorer.parts) == len(row["weights"]) + 1  # and popularity
        for part, weight, name in zip(scorer.parts, scorer.weights, row["weights"], strict=False):
            varies = isinstance(part, Weighted)
            assert varies == (name in row["by_item"]) == (name in row["by_user"])
            assert weight == (1.0 if varies else row["weights"][name])


def test_without_the_blend_the_branches_rank_by_one_pair_of_embeddings(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    model = {"size": 4, "context_size": 3, "blend": False}
    values = {"method": "bigel-plus", "device": "cpu", "model": model, "train": {"epochs": 1}}
    run = train_run(tiny_dataset.path, tmp_path / "run", from_dict(values))
    assert "calibration" not in run.info
    scorer = run.scorer("purchase")
    assert isinstance(scorer, Factors)
    assert scorer.item_emb.shape[1] == 2 * 4 + 3


@pytest.mark.parametrize("off", ["cascade", "context"])
def test_a_branch_that_is_off_has_no_weights(hand_made: Any, off: str) -> None:
    config = BigelPlusConfig(size=2, context_size=2, **{off: False})
    names = [name for name, _ in hand_made.build(BigelPlus, config).named_parameters()]
    assert names and not any(name.startswith(off) for name in names)


def test_members_start_apart_and_their_scores_are_added_up(hand_made: Any) -> None:
    config = BigelPlusConfig(size=2, context=False, members=2, blend=False)
    first, second = BigelPlus(config, hand_made.context()).cascades
    assert not torch.equal(first.user_emb, second.user_emb)
    model = hand_made.build(BigelPlus, config)
    everyone = torch.arange(hand_made.users)
    for behavior, scorer in model.scorers().items():
        parts = [
            unit_spread(member.scorers()[behavior]).scores(everyone, 0, hand_made.items)
            for member in model.cascades
        ]
        found = unit_spread(scorer).scores(everyone, 0, hand_made.items)
        total = sum(parts)
        expected = total / total.std(1, correction=0, keepdim=True).clamp(min=1e-30)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_both_branches_off_are_refused() -> None:
    with pytest.raises(UsageError, match=r"one of model\.cascade"):
        from_dict({"method": "bigel-plus", "model": {"cascade": False, "context": False}})
