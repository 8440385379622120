"""Every kind of score equals its plain definition, block by block, and survives a run's file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mbrec import scoring
from mbrec.cross_fitting import CrossFitted
from mbrec.errors import DataError
from mbrec.network import Network
from mbrec.packing import pack, unpack
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

USERS, ITEMS = 5, 7


def random_matrix(rows: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    dense = torch.randn(rows, ITEMS, generator=random)
    return dense * (torch.rand(rows, ITEMS, generator=random) < 0.4)


def sparse(dense: torch.Tensor) -> Sparse:
    rows, items = dense.nonzero(as_tuple=True)
    indptr = torch.cat([torch.zeros(1), torch.bincount(rows, minlength=len(dense)).cumsum(0)])
    return Sparse.of(indptr, items, dense[rows, items], ITEMS)


HISTORY, SIMILARITY = random_matrix(USERS, 1), random_matrix(ITEMS, 2)
HISTORY[3] = 0  # a user without history
BY_USER, BY_ITEM = torch.randn(USERS), torch.randn(ITEMS)
USER_EMB, ITEM_EMB = torch.randn(USERS, 3), torch.randn(ITEMS, 3)

RANDOM = torch.Generator().manual_seed(7)
CENTER, SCALE, BIAS, LAST = (torch.randn(n, generator=RANDOM) for n in (2, 2, 6, 6))
OF_PARTS, OF_ITEMS, OF_USERS = (torch.randn(n, 6, generator=RANDOM) for n in (2, 3, 1))
ITEM_FEATURES, USER_FEATURES = torch.randn(ITEMS, 3), torch.randn(USERS, 1)


def network() -> Network:
    weighted = Weighted(sparse(HISTORY), BY_USER, BY_ITEM)
    return Network(
        Sum((Factors(USER_EMB, ITEM_EMB), weighted, sparse(HISTORY)), (2.0, 1.0, -0.5)),
        *(CENTER, SCALE, OF_PARTS, OF_ITEMS, OF_USERS, BIAS, LAST, ITEM_FEATURES, USER_FEATURES),
    )


def network_scores() -> torch.Tensor:
    given = torch.stack([USER_EMB @ ITEM_EMB.T, HISTORY], 2)
    hidden = ((given - CENTER) * SCALE).clamp(-6, 6) @ OF_PARTS + BIAS
    hidden = hidden + ITEM_FEATURES @ OF_ITEMS + (USER_FEATURES @ OF_USERS)[:, None]
    base = 2 * given[..., 0] + HISTORY * (BY_USER[:, None] + BY_ITEM) - 0.5 * HISTORY
    return base + hidden.relu() @ LAST


KINDS: dict[str, tuple[Callable[[], Scorer], torch.Tensor]] = {
    "factors": (lambda: Factors(USER_EMB, ITEM_EMB), USER_EMB @ ITEM_EMB.T),
    "sparse": (lambda: sparse(HISTORY), HISTORY),
    "item to item": (lambda: ItemToItem(sparse(HISTORY), SIMILARITY), HISTORY @ SIMILARITY),
    "item neighbors": (
        lambda: ItemNeighbors(sparse(HISTORY), sparse(SIMILARITY)),
        HISTORY @ SIMILARITY,
    ),
    "user neighbors": (
        lambda: UserNeighbors(sparse(HISTORY), sparse(SIMILARITY)),
        HISTORY @ SIMILARITY,
    ),
    "weighted": (
        lambda: Weighted(ItemNeighbors(sparse(HISTORY), sparse(SIMILARITY)), BY_USER, BY_ITEM),
        HISTORY @ SIMILARITY * (BY_USER[:, None] + BY_ITEM),
    ),
    "sum": (
        lambda: Sum((Factors(USER_EMB, ITEM_EMB), sparse(HISTORY)), (2.0, -0.5)),
        2 * USER_EMB @ ITEM_EMB.T - 0.5 * HISTORY,
    ),
    "network": (network, network_scores()),
    "cross-fitted": (
        lambda: CrossFitted((Factors(USER_EMB, ITEM_EMB), sparse(HISTORY))),
        torch.where(torch.arange(USERS)[:, None] % 2 == 0, USER_EMB @ ITEM_EMB.T, HISTORY),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "stop"), [(0, ITEMS), (2, 5), (6, 7)])
def test_a_block_of_scores_is_that_block_of_the_dense_matrix(
    kind: str, start: int, stop: int
) -> None:
    make, expected = KINDS[kind]
    users = torch.tensor([4, 0, 3, 3])
    block = make().scores(users, start, stop)
    torch.testing.assert_close(block, expected[users, start:stop])
    block.zero_()  # callers may write into a block; the scorer must not change by it
    torch.testing.assert_close(make().scores(users, start, stop), expected[users, start:stop])


@pytest.mark.parametrize("kind", KINDS)
def test_a_scorer_comes_back_from_a_file_as_it_was(kind: str, tmp_path: Path) -> None:
    make, expected = KINDS[kind]
    (descriptions,), tensors = pack({"click": make(), "purchase": make()})
    save_file(tensors, tmp_path / "scores")
    loaded = load_file(tmp_path / "scores")
    for behavior in ("click", "purchase"):
        scorer = unpack(descriptions[behavior], loaded.__getitem__)
        torch.testing.assert_close(scorer.scores(torch.arange(USERS), 0, ITEMS), expected)


@pytest.mark.parametrize("kind", ["item neighbors", "user neighbors"])
@pytest.mark.parametrize("products", [1, 2, 5, 1 << 20])
def test_how_many_products_are_held_at_a_time_changes_no_bit(
    kind: str, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against sums in the order of the user's entries: in another one, float32 would differ."""
    monkeypatch.setattr(scoring, "_PRODUCTS", products)
    users = torch.tensor([4, 3, 0, 0])  # user 3 has nothing
    expected = torch.zeros(len(users), ITEMS)
    for place, user in enumerate(users):
        for inner in HISTORY[user].nonzero().flatten():
            expected[place] += HISTORY[user, inner] * SIMILARITY[inner]
    scorer = KINDS[kind][0]()
    assert torch.equal(scorer.scores(users, 1, 6), expected[:, 1:6])
    assert torch.equal(scorer.scores(users, 0, ITEMS), expected)  # all columns go another way
    assert not scorer.scores(users[1:2], 0, ITEMS).any()
    assert scorer.scores(users[:0], 0, ITEMS).shape == (0, ITEMS)


@pytest.mark.parametrize("kind", [ItemNeighbors, UserNeighbors])
def test_products_of_long_histories_are_not_all_held_at_once(
    kind: type[ItemNeighbors], held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_PRODUCTS", 1000)
    every = torch.arange(ITEMS).repeat(600)
    entries = torch.ones(600, ITEMS)
    histories = Sparse.of(torch.arange(601) * ITEMS, every, entries.flatten(), ITEMS)
    scorer = kind(histories, sparse(torch.ones(ITEMS, ITEMS)))
    with held:
        found = scorer.scores(torch.arange(600), 0, ITEMS)
    assert torch.equal(found, torch.full((600, ITEMS), float(ITEMS)))
    entries_and_block = 600 * ITEMS * (60 + 4)
    assert held.most < entries_and_block + 1000 * 60  # 29,400 products


def test_a_matrix_that_behaviors_share_is_stored_once() -> None:
    shared = ItemToItem(sparse(HISTORY), SIMILARITY)
    _, tensors = pack({"click": shared, "purchase": ItemToItem(sparse(HISTORY), SIMILARITY)})
    assert sum(tensor.shape == (ITEMS, ITEMS) for tensor in tensors.values()) == 1


def test_the_parts_of_the_folds_are_those_of_the_whole() -> None:
    table = torch.randn(USERS + ITEMS, 4)
    parts = Factors(table[:USERS], table[USERS:]), sparse(HISTORY)  # views: one storage
    whole = Sum(parts, (2.0, 1.0))
    folds = CrossFitted((Sum(parts, (1.0, 3.0)), Sum(parts, (0.0, 1.0))))
    (mine, crossed), tensors = pack({"click": whole}, {"click": folds})
    assert len(tensors) == 2 + 4
    users = torch.arange(USERS)
    for scorer, description in ((whole, mine["click"]), (folds, crossed["click"])):
        found = unpack(description, tensors.__getitem__)
        torch.testing.assert_close(
            found.scores(users, 0, ITEMS), scorer.scores(users, 0, ITEMS), rtol=0, atol=0
        )


def test_behaviors_that_are_called_like_parts_of_others_keep_their_scores() -> None:
    first = Factors(torch.randn(USERS, 4), torch.randn(ITEMS, 4))
    second = Factors(torch.randn(USERS, 4), torch.randn(ITEMS, 4))
    (described,), tensors = pack({"click": Sum((first, first), (1.0, 1.0)), "click#0": second})
    whole, alone = (unpack(one, tensors.__getitem__) for one in described.values())
    assert isinstance(whole, Sum)
    users = torch.arange(USERS)
    for found, expected in ((whole.parts[0], first), (alone, second)):
        assert torch.equal(found.scores(users, 0, ITEMS), expected.scores(users, 0, ITEMS))


def test_embeddings_have_a_name_for_each_behavior() -> None:
    factors = Factors(USER_EMB, ITEM_EMB)
    _, tensors = pack({"click": factors, "purchase": factors})
    assert sorted(tensors) == ["item/click", "item/purchase", "user/click", "user/purchase"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Factors(USER_EMB, ITEM_EMB[:, :2]),
        lambda: Sparse.of(torch.tensor([0, 2]), torch.tensor([1]), torch.ones(1), ITEMS),
        lambda: Sparse.of(torch.tensor([0, 1]), torch.tensor([ITEMS]), torch.ones(1), ITEMS),
        lambda: ItemToItem(sparse(HISTORY), SIMILARITY[:3]),
        lambda: ItemNeighbors(sparse(HISTORY), sparse(SIMILARITY[:3])),
        lambda: UserNeighbors(sparse(HISTORY), sparse(SIMILARITY[:3])),
        lambda: Weighted(sparse(HISTORY), BY_USER, BY_ITEM[:2]),
        lambda: Weighted(sparse(HISTORY), BY_USER[:2], BY_ITEM),
        lambda: Sum((sparse(HISTORY), sparse(SIMILARITY)), (1.0, 1.0)),
        lambda: replace(network(), center=CENTER[:1]),
        lambda: replace(network(), item_features=ITEM_FEATURES[:2]),
        lambda: replace(network(), user_features=USER_FEATURES[:2]),
        lambda: replace(network(), base=Sum((sparse(HISTORY),), (1.0,))),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_refused(make: Callable[[], Scorer]) -> None:
    with pytest.raises(DataError, match="does not hold together"):
        make()


def test_a_description_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DataError, match="Unknown kind"):
        unpack({"kind": "magic"}, {}.__getitem__)
