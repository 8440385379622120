"""If these fail, what candidates say of a ranking is not what its lists are worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mbrec import candidates, metrics
from mbrec.candidates import Candidates
from mbrec.graph import Pairs
from mbrec.logit import beyond_noise

USERS, WIDTH, ITEMS = 40, 12, 30


@pytest.fixture
def pool() -> Candidates:
    """Users with 1 to 12 candidates, and held-out rows among them and elsewhere."""
    random = np.random.default_rng(3)
    items = np.full((USERS, WIDTH), -1)
    held_out = np.zeros((USERS, WIDTH), bool)
    relevant = []
    for user in range(USERS):
        count = int(random.integers(1, WIDTH + 1))
        items[user, :count] = np.sort(random.permutation(ITEMS)[:count])
        held_out[user, random.permutation(count)[: random.integers(1, 5)]] = True
        mine = items[user][held_out[user]].tolist()
        others = sorted(set(range(ITEMS)) - set(items[user].tolist()))[: int(user % 3)]
        relevant += [(user, item) for item in sorted(mine + others)]
    users, wanted = np.array(relevant, np.int32).T.copy()
    return Candidates(
        torch.arange(USERS) * 2,
        torch.from_numpy(items),
        torch.zeros(1, USERS, WIDTH),
        torch.from_numpy(held_out),
        Pairs(users, wanted),
        USERS + 10,
    )


@pytest.mark.parametrize("at_a_time", [7, 4096])
def test_metrics_are_those_of_the_sorted_lists(
    pool: Candidates, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "_RANKED", at_a_time)
    random = torch.Generator().manual_seed(2)
    scores = torch.randint(-3, 3, (USERS, WIDTH), generator=random).float()  # with many ties
    lists = np.full((USERS, 20), -1)
    for user in range(USERS):
        both = zip(scores[user].tolist(), pool.items[user].tolist(), strict=True)
        mine = [(-score, item) for score, item in both if item >= 0]
        lists[user, : len(mine)] = [item for _, item in sorted(mine)]
    expected = metrics.per_user(lists, pool.relevant, (3, 20))
    found = pool.metrics(scores, (3, 20))
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    mean = (expected["ndcg@3"] + expected["ndcg@20"]) / 2
    np.testing.assert_allclose(pool.metric(scores, (3, 20), "ndcg"), mean)
    # Ten more were asked, and found nothing.
    assert pool.mean(mean) == pytest.approx(mean.sum() / (USERS + 10))


def test_some_of_the_users_are_measured_as_they_were_among_all(pool: Candidates) -> None:
    scores = torch.rand(USERS, WIDTH, generator=torch.Generator().manual_seed(4))
    some = np.array([1, 5, 6, 30])
    mine = pool.of(some)
    assert mine.users.tolist() == [2, 10, 12, 60]
    assert mine.asked == 4
    whole = pool.metric(scores, (5,), "map")
    np.testing.assert_array_equal(mine.metric(scores[some], (5,), "map"), whole[some])


def test_gains_are_beyond_noise_only_where_many_users_have_them() -> None:
    assert beyond_noise(np.array([0.2, 0.1, 0.3, 0.2]))
    assert beyond_noise(np.array([0.2, 0.1, 0.3, 0.2] + [0.0] * 1000))
    assert not beyond_noise(np.array([0.5, -0.3, 0.2, -0.3]))
    assert not beyond_noise(np.array([1.0]))  # one user is none
    assert not beyond_noise(np.zeros(4))
