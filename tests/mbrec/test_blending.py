"""If these fail, a blend ranks by weights that nobody chose, or that noise chose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mbrec.blending import Part, blended, choose, rescaled, unit_spread
from mbrec.graph import Pairs
from mbrec.ranking import Exclusion
from mbrec.scoring import Factors, ItemNeighbors, ItemToItem, Scorer, Sparse, Sum

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


def test_a_part_that_holds_the_truth_is_found_and_noise_is_left_out() -> None:
    first, useful, noise = unit_spread(factors(1)), unit_spread(factors(2)), unit_spread(factors(3))
    truth = held_out(dense(first) + 0.7 * dense(useful), 5)
    grid = (0.1, 0.3, 0.7, 1.5)
    parts = {"first": Part(first, ()), "useful": Part(useful, grid), "noise": Part(noise, grid)}
    blend = choose(parts, truth, NOTHING, metric="ndcg", k=5, depth=ITEMS)
    assert blend.weights == {"first": 1.0, "useful": 0.7, "noise": 0.0}
    assert blend.value == pytest.approx(1.0)
    assert blend.cross_fitted == pytest.approx(1.0)
    assert blend.first < 0.9
    expected = dense(first) + 0.7 * dense(useful)
    torch.testing.assert_close(dense(blended(parts, blend.weights)), expected)


def test_weights_that_only_noise_speaks_for_stay_at_zero() -> None:
    first = unit_spread(factors(1))
    anything = np.random.default_rng(0).integers(0, ITEMS, USERS).astype(np.int32)
    rows = Pairs(np.arange(USERS, dtype=np.int32), anything)
    parts = {"first": Part(first, ())} | {
        f"noise {n}": Part(unit_spread(factors(10 + n)), (0.02, 0.05)) for n in range(4)
    }
    blend = choose(parts, rows, NOTHING, metric="ndcg", k=5)
    moved = [weight for name, weight in blend.weights.items() if name != "first" and weight]
    assert len(moved) <= 1  # at one standard error, one of many tries may still pass


def test_items_of_training_are_not_ranked_while_choosing() -> None:
    first = unit_spread(factors(1))
    best = held_out(dense(first), 1)
    indptr = torch.arange(USERS + 1)
    exclude = Exclusion(indptr, torch.from_numpy(best.item_idx))
    rest = dense(first).clone()
    rest[torch.arange(USERS), torch.from_numpy(best.item_idx).long()] = -torch.inf
    blend = choose({"first": Part(first, ())}, held_out(rest, 1), exclude, metric="hr", k=1)
    assert blend.value == 1.0


def test_one_user_is_enough() -> None:
    rows = Pairs(np.array([7], np.int32), np.array([3], np.int32))
    parts = {"first": Part(factors(1), ()), "other": Part(factors(2), (1.0,))}
    blend = choose(parts, rows, NOTHING, metric="ndcg", k=5)
    assert 0.0 <= blend.cross_fitted <= 1.0
