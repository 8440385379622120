"""If these fail, OwnHistory is a weaker rival than it should be, and others look better for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mbrec.errors import UsageError
from mbrec.graph import Pairs
from mbrec.models.base import Context
from mbrec.models.ownhistory import OwnHistory, OwnHistoryConfig

BEHAVIORS = ("page.view", "favorite", "cart", "buy")
USERS, ITEMS = 4, 6
TRAIN: dict[str, list[tuple[int, int, int]]] = {  # user, item, time
    "page.view": [(0, 0, 10), (0, 1, 20), (0, 2, 30), (0, 3, 5), (1, 1, 1), (1, 4, 3)],
    "favorite": [],
    "cart": [(0, 0, 40), (0, 4, 15), (1, 5, 2)],
    "buy": [(0, 4, 50), (1, 3, 9), (2, 3, 9), (2, 0, 8)],
}


def context(times: bool = True) -> Context:
    columns = {name: np.array(rows, np.int64).reshape(-1, 3).T for name, rows in TRAIN.items()}
    pairs = {
        name: Pairs(c[0].astype(np.int32), c[1].astype(np.int32)) for name, c in columns.items()
    }
    known = {name: c[2] for name, c in columns.items()} if times else {}
    random, cpu = torch.Generator(), torch.device("cpu")
    return Context(BEHAVIORS, USERS, ITEMS, pairs, None, random, cpu, known)


def scores(times: bool = True, **settings: Any) -> dict[str, torch.Tensor]:
    method = OwnHistory(OwnHistoryConfig(**settings), context(times))
    everyone = torch.arange(USERS)
    return {name: s.scores(everyone, 0, ITEMS) for name, s in method.scorers().items()}


def dense(behavior: str, asked: list[str], recency: bool) -> np.ndarray:
    """The rule, cell by cell."""
    popularity = np.zeros(ITEMS)
    for _, item, _ in TRAIN[behavior]:
        popularity[item] += 1
    found = np.tile(popularity / (popularity.max() + 1), (USERS, 1))
    for user in range(USERS):
        own: dict[int, tuple[float, ...]] = {}
        for level, name in enumerate(reversed(asked), start=1):
            for _, item, time in (row for row in TRAIN[name] if row[0] == user):
                before = own.get(item, (0, -np.inf, 0, 0))[1]
                last = max(before, time) if recency else 0
                own[item] = (level, last, popularity[item], -item)
        for rank, item in enumerate(sorted(own, key=lambda item: own[item]), start=1):
            found[user, item] += rank
    return found


ASKED = {
    "page.view": ["favorite", "cart", "buy"],
    "favorite": ["page.view", "cart", "buy"],
    "cart": ["favorite", "page.view", "buy"],
    "buy": ["cart", "favorite", "page.view"],
}


@pytest.mark.parametrize("recency", [True, False])
def test_scores_are_those_of_the_rule(recency: bool) -> None:
    found = scores(recency=recency)
    for behavior, asked in ASKED.items():
        expected = dense(behavior, asked, recency)
        np.testing.assert_allclose(found[behavior], expected, atol=1e-5, err_msg=behavior)


def test_what_lies_in_the_cart_comes_first_and_the_last_touched_among_it() -> None:
    buy = scores()["buy"]
    # cart: 0 (at 40), then 4; viewed only: 2 (at 30), 1, 3; then what others buy
    assert buy[0].argsort(descending=True).tolist() == [0, 4, 2, 1, 3, 5]
    assert buy[3].argsort(descending=True)[0] == 3, "without a history: the most popular"


def test_without_times_the_popular_of_the_own_items_come_first() -> None:
    for settings in ({"times": False}, {"recency": False}):
        buy = scores(**settings)["buy"]
        assert buy[0].argsort(descending=True).tolist() == [0, 4, 3, 1, 2, 5]


def test_the_first_behavior_knows_only_popularity_if_later_ones_are_not_asked() -> None:
    view = scores(later=False)["page.view"]
    assert torch.equal(view[0], view[3])
    assert view[0].argmax() == 1
    assert scores()["page.view"][2].argsort(descending=True)[:2].tolist() == [3, 0]


def test_an_order_of_ones_own_serves_all_lists() -> None:
    found = scores(order=("page.view", "buy"))
    np.testing.assert_allclose(found["buy"], dense("buy", ["page.view"], True), atol=1e-5)
    np.testing.assert_allclose(found["cart"], dense("cart", ["page.view", "buy"], True), atol=1e-5)
    for wrong in (("view",), ("buy", "buy")):
        with pytest.raises(UsageError, match="no order of behaviors"):
            scores(order=wrong)
