"""If these fail, a stack ranks by weights that nobody chose, or that noise chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mbrec import stacking
from mbrec.candidates import find_candidates
from mbrec.cross_fitting import FOLDS
from mbrec.graph import Pairs
from mbrec.logit import PENALTY
from mbrec.ranking import Exclusion
from mbrec.scoring import (
    Factors,
    ItemNeighbors,
    ItemToItem,
    Scorer,
    Sparse,
    Sum,
    UserNeighbors,
    Weighted,
)
from mbrec.spread import rescaled, unit_spread
from mbrec.stacking import Known, Part, Stack, learn_stack

USERS, ITEMS = 60, 80


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse(rows: int, seed: int) -> Sparse:
    dense = torch.randn(rows, ITEMS, generator=random(seed))
    dense *= torch.rand(rows, ITEMS, generator=random(seed + 1)) < 0.1
    dense[0] = 0
    row, item = dense.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=rows)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return Sparse.of(indptr, item, dense[row, item], ITEMS)


def factors(seed: int) -> Factors:
    return Factors(
        torch.randn(USERS, 4, generator=random(seed)), torch.randn(ITEMS, 4, generator=random(seed))
    )


def dense(scorer: Scorer) -> torch.Tensor:
    return scorer.scores(torch.arange(USERS), 0, ITEMS)


KINDS: dict[str, Scorer] = {
    "factors": factors(1),
    "sparse": sparse(USERS, 2),
    "item to item": ItemToItem(sparse(USERS, 3), torch.randn(ITEMS, ITEMS, generator=random(4))),
    "item neighbors": ItemNeighbors(sparse(USERS, 5), sparse(ITEMS, 6)),
    "user neighbors": UserNeighbors(sparse(USERS, 12), sparse(ITEMS, 6)),
    "weighted": Weighted(
        factors(9),
        torch.rand(USERS, generator=random(10)),
        torch.rand(ITEMS, generator=random(11)),
    ),
    "sum": Sum((factors(7), sparse(USERS, 8)), (2.0, -1.0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_unit_spread_have_it_and_rank_as_before(kind: str) -> None:
    before, after = dense(KINDS[kind]), dense(unit_spread(KINDS[kind]))
    spread = before.std(1, correction=0)
    expected = torch.where(spread[:, None] > 0, before / spread[:, None], before)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rescaling_multiplies_the_scores_of_each_user(kind: str) -> None:
    factor = torch.rand(USERS, generator=random(9))
    expected = dense(KINDS[kind]) * factor[:, None]
    torch.testing.assert_close(dense(rescaled(KINDS[kind], factor)), expected)


def held_out(scores: torch.Tensor, count: int) -> Pairs:
    """For every user the items that score best."""
    items = scores.topk(count, dim=1).indices.sort(dim=1).values.numpy().astype(np.int32)
    return Pairs(np.repeat(np.arange(USERS, dtype=np.int32), count), items.ravel())


NOTHING = Exclusion(torch.zeros(USERS + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int32))
POPULAR = torch.randn(ITEMS, generator=random(20))


def learned(
    parts: Mapping[str, Part],
    rows: Pairs,
    known: Known | None = None,
    exclude: Exclusion = NOTHING,
) -> Stack:
    return learn_stack(parts, known or Known(), rows, exclude, metric="ndcg", k=5).stack


def test_a_part_that_holds_the_truth_is_found_and_noise_is_left_out() -> None:
    first, useful, noise = (Part(unit_spread(factors(seed))) for seed in (1, 2, 3))
    truth = held_out(dense(first.scorer) + 0.7 * dense(useful.scorer), 5)
    parts = {"first": first, "useful": useful, "noise": noise}
    stack = learned(parts, truth)
    weights = stack.weights
    assert weights["useful"] / weights["first"] == pytest.approx(0.7, abs=0.1)
    assert abs(weights["noise"]) < 0.2 * weights["first"]
    assert stack.value > 0.9
    assert stack.cross_fitted > 0.9
    scorer = stack.scorer(parts, Known())
    expected = sum(weights[name] * dense(part.scorer) for name, part in parts.items())
    torch.testing.assert_close(dense(scorer), expected, atol=1e-5, rtol=1e-5)
    assert stack.value > stack.prior  # all prior weights are 0 here: the order of the items


def test_a_weight_may_depend_on_the_item_and_items_have_biases() -> None:
    part = Part(unit_spread(factors(1)), varies=True)
    scores = dense(part.scorer) * (1 + 0.8 * POPULAR) + 1.5 * POPULAR
    rows = held_out(scores, 5)
    known = Known(items={"popularity": POPULAR}, biases={"popularity": POPULAR})
    plain = learned({"part": replace(part, varies=False)}, rows)
    stack = learned({"part": part}, rows, known)
    weight = stack.weights["part"]
    assert stack.by_item["part"]["popularity"] / weight == pytest.approx(0.8, abs=0.5)
    assert stack.biases["popularity"] / weight == pytest.approx(1.5, abs=0.5)
    assert stack.cross_fitted > plain.cross_fitted + 0.2
    found = dense(stack.scorer({"part": part}, known))
    factor = weight + stack.by_item["part"]["popularity"] * POPULAR
    expected = dense(part.scorer) * factor + stack.biases["popularity"] * POPULAR
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert Stack.of(stack.plain()) == stack


def test_a_weight_and_a_bias_may_depend_on_the_user() -> None:
    part = Part(unit_spread(factors(1)), varies=True)
    active = torch.randn(USERS, generator=random(21))
    scores = dense(part.scorer) * (1.5 + active[:, None]) + 2 * (1 - active[:, None]) * POPULAR
    rows = held_out(scores, 5)
    biases = {"popularity": POPULAR}
    plain = learned({"part": replace(part, varies=False)}, rows, Known(biases=biases))
    known = Known(users={"activity": active}, biases=biases)
    stack = learned({"part": part}, rows, known)
    weight, bias = stack.weights["part"], stack.biases["popularity"]
    slope, of_bias = (
        stack.by_user["part"]["activity"],
        stack.biases_by_user["popularity"]["activity"],
    )
    assert slope / weight == pytest.approx(1 / 1.5, abs=0.4)
    assert of_bias / bias == pytest.approx(-1.0, abs=0.4)
    assert stack.cross_fitted > plain.cross_fitted + 0.1
    found = dense(stack.scorer({"part": part}, known))
    expected = dense(part.scorer) * (weight + slope * active[:, None])
    expected += (bias + of_bias * active[:, None]) * POPULAR
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert Stack.of(stack.plain()) == stack


def test_the_weights_are_those_of_the_smallest_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the loss of the docstring, written out in NumPy, a step aside in every direction."""
    monkeypatch.setattr("mbrec.logit._STEPS", ())
    parts = {"a": Part(factors(1), prior=0.3, varies=True), "b": Part(factors(2))}
    active = torch.randn(USERS, generator=random(22))
    known = Known({"x": POPULAR}, {"z": active}, {"y": POPULAR.square()})
    random_rows = np.random.default_rng(4).random((USERS, ITEMS)) < 0.05
    user, item = (a.astype(np.int32) for a in np.nonzero(random_rows))
    pool = find_candidates(
        [part.scorer for part in parts.values()],
        Pairs(user, item),
        NOTHING,
        depth=ITEMS,
        others=1,
        most_users=USERS,
    )
    stack = stacking._weights(stacking._Design(parts, known), pool, "ndcg", 5).stack
    a, b = (dense(part.scorer).double().numpy() for part in parts.values())
    x, y = (t.double().numpy() for t in (POPULAR, POPULAR.square()))
    z = active.double().numpy()[:, None]
    counts = random_rows.sum(1)
    weight = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0)
    n_users = (counts > 0).sum()

    def loss(theta: np.ndarray) -> float:
        scores = (theta[0] + theta[2] * x + theta[3] * z) * a + theta[1] * b
        scores += (theta[4] + theta[5] * z) * y
        logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        likelihood = (weight[:, None] * random_rows * logs).sum() / (weight * counts).sum()
        away = theta - np.array([0.3, 0, 0, 0, 0, 0])
        return float(-likelihood + PENALTY / n_users * (away @ away))

    best = np.array(
        [
            stack.weights["a"],
            stack.weights["b"],
            stack.by_item["a"]["x"],
            stack.by_user["a"]["z"],
            stack.biases["y"],
            stack.biases_by_user["y"]["z"],
        ]
    )
    for step in np.vstack([np.eye(6), -np.eye(6)]) * 0.02:
        assert loss(best + step) > loss(best)


def test_what_users_did_comes_first_where_lists_are_better_for_it() -> None:
    """Half of the users go on with items of theirs; the rows of the others come from elsewhere."""
    taste, done = unit_spread(factors(1)), sparse(USERS, 2)
    rows = dense(taste) + torch.randn(USERS, ITEMS, generator=random(3))
    mine = dense(done).abs() > 0
    ranked = Sparse.of(done.indptr, done.items, torch.ones(len(done.values)), ITEMS)
    first = mine & (torch.arange(USERS) % 2 == 0)[:, None]
    truth = held_out(torch.where(first, 100.0, rows), 6)
    parts = {"taste": Part(taste, varies=True), "done": Part(ranked)}
    stack = learned(parts, truth)
    lists = dense(stack.scorer(parts, Known()))
    bare = stack.weights["taste"] * dense(taste)
    lifted = lists - bare
    assert float(lifted[mine].min()) > 0.5
    assert stack.value > stack.prior


def test_without_a_held_out_row_among_the_candidates_the_prior_stands() -> None:
    rows = Pairs(np.array([7], np.int32), np.array([3], np.int32))
    hidden = Exclusion(
        torch.cat([torch.zeros(8), torch.ones(USERS - 7)]).long(),
        torch.tensor([3], dtype=torch.int32),
    )
    stack = learned({"a": Part(factors(1), prior=0.5), "b": Part(factors(2))}, rows, exclude=hidden)
    assert stack.weights == {"a": 0.5, "b": 0.0}
    assert stack.value == 0.0


def test_one_user_is_enough() -> None:
    rows = Pairs(np.array([7], np.int32), np.array([3], np.int32))
    stack = learned({"a": Part(factors(1), prior=1.0), "b": Part(factors(2))}, rows)
    assert 0.0 <= stack.cross_fitted <= 1.0
    assert all(np.isfinite(list(stack.weights.values())))


def test_lists_that_are_longer_than_the_catalog_are_measured() -> None:
    parts = {"a": Part(factors(1), prior=1.0), "done": Part(sparse(USERS, 2))}
    rows = held_out(dense(parts["a"].scorer), 2)
    stack = learn_stack(parts, Known(), rows, NOTHING, metric="ndcg", k=ITEMS).stack
    assert stack.value > 0.5


def test_what_ranks_the_rows_learned_from_does_not_know_the_users_own() -> None:
    """Other rows of one user: she and her fold are ranked as before, all others otherwise."""
    part = Part(unit_spread(factors(1)), varies=True)
    parts = {"part": part, "done": Part(sparse(USERS, 2))}
    active = torch.randn(USERS, generator=random(21))
    known = Known({"x": POPULAR}, {"z": active}, {"y": POPULAR})
    scores = dense(part.scorer) + 0.5 * POPULAR
    before, after = held_out(scores, 5), held_out(scores, 5)
    after.item_idx[7 * 5 : 8 * 5] = (-scores[7]).topk(5).indices.sort().values.numpy()

    def crossed(rows: Pairs) -> torch.Tensor:
        learned = learn_stack(parts, known, rows, NOTHING, metric="ndcg", k=5)
        return dense(learned.cross_fitted(parts, known))

    moved = (crossed(before) - crossed(after)).abs().amax(1)
    mine = torch.arange(USERS) % FOLDS == 7 % FOLDS
    # Not to the bit: a fold's search begins where that of all users has ended.
    assert moved[mine].max() < 0.01 < 0.1 * moved[~mine].min()


def test_the_cross_fitted_value_is_that_of_the_cross_fitted_lists() -> None:
    parts = {"first": Part(unit_spread(factors(1))), "noise": Part(unit_spread(factors(3)))}
    noisy = dense(parts["first"].scorer) + torch.randn(USERS, ITEMS, generator=random(4))
    rows = held_out(noisy, 5)
    learned = learn_stack(parts, Known(), rows, NOTHING, metric="hr", k=5)
    best = dense(learned.cross_fitted(parts, Known())).topk(5, dim=1).indices
    wanted = torch.from_numpy(rows.item_idx.reshape(USERS, 5)).long()
    hits = (best[:, :, None] == wanted[:, None]).any((1, 2))
    assert learned.stack.cross_fitted == pytest.approx(float(hits.float().mean()))


def test_candidates_are_the_best_of_every_part_without_what_is_not_ranked() -> None:
    scorers = [factors(1), sparse(USERS, 2), factors(3)]
    rows = held_out(dense(factors(5)), 2)
    best = held_out(dense(scorers[0]), 1)
    exclude = Exclusion(torch.arange(USERS + 1), torch.from_numpy(best.item_idx))
    found = find_candidates(
        scorers, rows, exclude, depth=4, others=3, most_users=50, also=[POPULAR]
    )
    popular = set(POPULAR.topk(4).indices.tolist())
    asked = np.linspace(0, USERS - 1, 50).astype(int).tolist()
    assert found.asked == 50
    assert set(found.users.tolist()) < set(asked)
    for user in set(asked) - set(found.users.tolist()):  # nothing of theirs is a candidate
        wanted = set(rows.item_idx[rows.user_idx == user].tolist()) - {int(best.item_idx[user])}
        ranked = (dense(scorers[n])[user].topk(4).indices.tolist() for n in (0, 2))
        assert not wanted & set().union(*ranked)
    for place, user in enumerate(found.users.tolist()):
        mine = [i for i in found.items[place].tolist() if i >= 0]
        assert mine == sorted(set(mine))
        hidden = int(best.item_idx[user])
        assert hidden not in mine
        for scorer in (scorers[0], scorers[2]):
            scores = dense(scorer)[user].clone()
            scores[hidden] = -torch.inf
            assert set(scores.topk(4).indices.tolist()) <= set(mine)
        stored = set(dense(scorers[1])[user].nonzero().flatten().tolist())
        assert stored - {hidden} <= set(mine)
        assert popular - {hidden} <= set(mine)
        assert len(mine) <= 4 + 4 + 4 + 3 + len(stored)
        for part, scorer in enumerate(scorers):
            expected = dense(scorer)[user][mine]
            torch.testing.assert_close(found.scores[part, place, : len(mine)], expected)
        wanted = set(rows.item_idx[rows.user_idx == user].tolist())
        held = [i for i, h in zip(mine, found.held_out[place].tolist(), strict=False) if h]
        assert held == sorted(wanted & set(mine)) != []
    assert not found.held_out[found.items < 0].any()


def test_candidates_of_many_parts_do_not_hold_the_scores_of_all(held: Any) -> None:
    rows = held_out(dense(factors(5)), 1)
    few = find_candidates([factors(1)] * 2, rows, NOTHING, depth=1, others=1, most_users=USERS)
    with held:
        many = find_candidates(
            [factors(1)] * 40, rows, NOTHING, depth=1, others=1, most_users=USERS
        )
    assert torch.equal(many.items, few.items)
    assert torch.equal(many.scores[:2], few.scores)
    block = USERS * ITEMS * 4
    assert held.most < 10 * block + 3 * many.scores.nbytes
    assert 40 * block > 2 * (10 * block + 3 * many.scores.nbytes)


def test_what_is_not_ranked_leaves_no_trace_in_the_scores_of_others() -> None:
    """Users with fewer candidates than others, and item 0, which stands for none, left out."""
    hidden = Exclusion(torch.arange(USERS + 1), torch.zeros(USERS, dtype=torch.int32))
    rows = held_out(dense(factors(5)), 1)
    found = find_candidates(
        [factors(1), sparse(USERS, 2)], rows, hidden, depth=3, others=2, most_users=USERS
    )
    missing = found.items < 0
    assert missing.any()
    assert not found.scores[:, missing].any()
    assert found.scores.isfinite().all()
