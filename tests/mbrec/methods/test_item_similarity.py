"""If these fail, EASE, ItemKNN, UserKNN are not their papers', or end the process on a big shop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mbrec import memory, nearest, similar_users
from mbrec.errors import TrainingError, UsageError
from mbrec.graph import Pairs
from mbrec.models import ease
from mbrec.models.base import Context, Method
from mbrec.models.ease import Ease, EaseConfig
from mbrec.models.itemknn import ItemKnn, ItemKnnConfig
from mbrec.models.userknn import UserKnn, UserKnnConfig

BEHAVIORS = ("page.view", "favorite", "buy")
USERS, ITEMS = 6, 7
TRAIN: dict[str, list[tuple[int, int]]] = {
    "page.view": [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4), (4, 0)],
    "favorite": [],
    "buy": [(0, 1), (0, 3), (2, 3), (3, 5), (4, 5)],  # user 5 has nothing, item 6 nobody
}
WEIGHTS = {"page.view": 0.5, "buy": 3.0}


def matrix(behavior: str) -> np.ndarray:
    found = np.zeros((USERS, ITEMS))
    for pair in TRAIN[behavior]:
        found[pair] = 1
    return found


def merged() -> np.ndarray:
    return sum(WEIGHTS.get(name, 1.0) * matrix(name) for name in BEHAVIORS)


def make(kind: str, **settings: Any) -> Method:
    train = {
        name: Pairs(*np.array(pairs, np.int32).reshape(-1, 2).T) for name, pairs in TRAIN.items()
    }
    context = Context(BEHAVIORS, USERS, ITEMS, train, None, torch.Generator(), torch.device("cpu"))
    if kind == "ease":
        return Ease(EaseConfig(**settings), context)
    if kind == "userknn":
        return UserKnn(UserKnnConfig(**settings), context)
    return ItemKnn(ItemKnnConfig(**settings), context)


def scores(kind: str, **settings: Any) -> dict[str, torch.Tensor]:
    everyone = torch.arange(USERS)
    scorers = make(kind, **settings).scorers()
    assert tuple(scorers) == BEHAVIORS
    return {name: scorer.scores(everyone, 0, ITEMS) for name, scorer in scorers.items()}


def dense_ease(history: np.ndarray, l2: float) -> np.ndarray:
    """Every column by itself: ridge regression of an item on all others."""
    weights = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        others = [other for other in range(ITEMS) if other != item]
        x = history[:, others]
        solved = np.linalg.solve(x.T @ x + l2 * np.eye(ITEMS - 1), x.T @ history[:, item])
        weights[others, item] = solved
    return weights


def dense_knn(history: np.ndarray, count: int, shrink: float, itself: float) -> np.ndarray:
    norms = np.sqrt((history**2).sum(0))
    similar = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        found = {
            other: history[:, item] @ history[:, other] / (norms[item] * norms[other] + shrink)
            for other in range(ITEMS)
            if other != item and history[:, item] @ history[:, other] > 0
        }
        for other in sorted(found, key=lambda other: (-found[other], other))[:count]:
            similar[item, other] = found[other]
        similar[item, item] = itself * (norms[item] > 0)
    return similar


def test_ease_is_the_ridge_regression_of_every_item_on_the_others() -> None:
    history = merged()
    for itself in (0.0, 0.3):
        expected = history @ (dense_ease(history, 2.0) + itself * np.eye(ITEMS))
        for found in scores("ease", weights=WEIGHTS, l2=2.0, itself=itself).values():
            np.testing.assert_allclose(found, expected, atol=1e-5)
    for name, found in scores("ease", history="behavior", l2=0.5).items():
        own = matrix(name)
        np.testing.assert_allclose(found, own @ dense_ease(own, 0.5), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("rows", [1, 2, 512])
def test_ease_may_tell_every_behavior_from_all_of_them(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease, "_CELLS", rows * USERS)  # how many at a time changes nothing
    history = merged()
    gram = history.T @ history + 2.0 * np.eye(ITEMS)
    found = scores("ease", weights=WEIGHTS, l2=2.0, target="behavior")
    for name, told in found.items():
        expected = history @ np.linalg.solve(gram, history.T @ matrix(name))
        np.testing.assert_allclose(told, expected, atol=1e-5, err_msg=name)
    assert not torch.equal(found["page.view"], found["buy"])


def test_own_histories_tell_themselves_whatever_merged_ones_would() -> None:
    found = scores("ease", history="behavior", target="behavior", l2=2.0)
    for name, expected in scores("ease", history="behavior", l2=2.0).items():
        assert torch.equal(found[name], expected), name


def test_ease_keeps_the_weights_of_largest_size() -> None:
    history = merged()
    weights = dense_ease(history, 2.0)
    cut = np.zeros_like(weights)
    for item, row in enumerate(weights):
        kept = np.argsort(-np.abs(row), kind="stable")[:3]
        cut[item, kept] = row[kept]
    for found in scores("ease", weights=WEIGHTS, l2=2.0, itself=0, neighbors=3).values():
        np.testing.assert_allclose(found, history @ cut, atol=1e-5)
    whole = scores("ease", weights=WEIGHTS, l2=2.0)["buy"]
    torch.testing.assert_close(scores("ease", weights=WEIGHTS, l2=2.0, neighbors=99)["buy"], whole)


def test_ease_is_exact_enough_in_single_precision() -> None:
    random = np.random.default_rng(3)
    popular = 1 / np.arange(1, 301) ** 0.7
    dense = (random.random((900, 300)) < popular).astype(np.float32)
    from scipy import sparse

    inverse = ease.inverse_gram(sparse.csr_matrix(dense), 50.0)
    found = ease.without_itself(inverse).double().numpy()
    inverse = np.linalg.inv(dense.astype(np.float64).T @ dense + 50 * np.eye(300))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_itemknn_sums_the_shrunk_cosines_of_the_nearest(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "BLOCK", block)  # the size of a block changes nothing
    history = merged()
    for itself in (0.0, 0.7):
        expected = history @ dense_knn(history, 2, 1.5, itself)
        options = {"weights": WEIGHTS, "neighbors": 2, "shrink": 1.5, "itself": itself}
        for found in scores("itemknn", **options).values():
            np.testing.assert_allclose(found, expected, atol=1e-5)
    for name, found in scores("itemknn", history="behavior", shrink=0, neighbors=3).items():
        own = matrix(name)
        expected = own @ dense_knn(own, 3, 0, False)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


def dense_users(count: int, shrink: float) -> np.ndarray:
    """User by user: the shrunk cosines to the others, cut to the largest."""
    history = np.sum([matrix(name) for name in BEHAVIORS], axis=0)
    weights = history / np.sqrt(np.maximum((history > 0).sum(0), 1))
    similar = np.zeros((USERS, USERS))
    for user in range(USERS):
        for other in set(range(USERS)) - {user}:
            lengths = np.linalg.norm(weights[user]) * np.linalg.norm(weights[other])
            if lengths:
                similar[user, other] = weights[user] @ weights[other] / (lengths + shrink)
        dropped = np.argsort(-similar[user], kind="stable")[count:]
        similar[user, dropped] = 0
    return similar


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_userknn_adds_up_what_the_nearest_users_have_done(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "BLOCK", block)
    merged = np.sum([matrix(name) for name in BEHAVIORS], axis=0)
    similar = dense_users(2, 0.5)
    assert (similar > 0).sum(1).max() == 2
    for name, found in scores("userknn", neighbors=2, shrink=0.5, itself=0.7).items():
        expected = similar @ matrix(name) + 0.7 * merged
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
    expected = dense_users(9, 0) @ merged
    for found in scores("userknn", neighbors=9, shrink=0, itself=0, history="merged").values():
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_everybody_has_says_nothing_of_who_is_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_users, "COMMON", 1)  # items of one user alone are left
    own = scores("userknn", itself=0)["buy"]
    assert own.max() < 1e-12


@pytest.mark.parametrize("kind", ["ease", "itemknn", "userknn"])
def test_whose_history_is_empty_gets_what_is_popular(kind: str) -> None:
    found = scores(kind)["buy"]
    assert found[5].argsort(descending=True)[:3].tolist() == [3, 5, 1]
    assert found[5].max() < 1e-12


@pytest.mark.parametrize("kind", ["ease", "itemknn"])
def test_a_weight_for_a_behavior_that_is_not_there_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=r"model\.weights names 'bye'.*Did you mean 'buy'"):
        make(kind, weights={"bye": 2.0})


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("ease", "--model itemknn"),
        ("itemknn", "model.neighbors"),
        ("userknn", "model.neighbors"),
    ],
)
def test_a_catalog_that_does_not_fit_is_refused_before_anything_is_made(
    kind: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device="cpu": 100)
    method = make(kind)
    monkeypatch.setattr(ease, "inverse_gram", None)
    with pytest.raises(
        TrainingError, match=rf"(7 items|6 users) takes about .* bytes\).*100 bytes.*{remedy}"
    ):
        method.scorers()


@pytest.mark.parametrize(
    ("settings", "matrices"),
    [
        ({}, 2),
        ({"target": "behavior"}, 4),
        ({"history": "behavior"}, 4),
        ({"target": "behavior", "neighbors": 5}, 2),
        ({"history": "behavior", "neighbors": 5}, 2),
        ({"history": "behavior", "neighbors": 999}, 2 + 15),  # 3 floats each, 2 kept, 3 times one
    ],
)
def test_ease_takes_no_more_memory_than_it_asks_for(
    settings: dict[str, Any], matrices: int, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease, "_ROWS", 8)
    users, items = 40, 300
    random = np.random.default_rng(0)
    train = {}
    for name in BEHAVIORS:
        user, item = np.nonzero(random.random((users, items)) < 0.01)
        train[name] = Pairs(user.astype(np.int32), item.astype(np.int32))
    asked: list[int] = []
    monkeypatch.setattr(ease, "require_memory", lambda needed, *rest: asked.append(needed))
    context = Context(BEHAVIORS, users, items, train, None, torch.Generator(), torch.device("cpu"))
    with held:
        Ease(EaseConfig(**settings), context).scorers()
    dense = 4 * items**2
    histories = 0.05 * dense
    assert held.most - histories <= asked[0] < (matrices + 0.5) * dense
    if settings.get("neighbors") != 999:
        assert held.most > (matrices - 0.5) * dense
