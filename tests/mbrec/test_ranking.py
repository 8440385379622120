"""Full ranking: the right items, ties settled, chunks of no account, memory bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mbrec import ranking
from mbrec.errors import TrainingError, UsageError
from mbrec.graph import Pairs
from mbrec.ranking import Exclusion, TopK, top_k
from mbrec.scoring import Factors

INF = float("inf")


@dataclass(frozen=True)
class Dense:
    """A scorer that looks scores up, (U, I)."""

    table: Tensor

    @property
    def num_users(self) -> int:
        return self.table.shape[0]

    @property
    def num_items(self) -> int:
        return self.table.shape[1]

    @property
    def device(self) -> torch.device:
        return self.table.device

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        return self.table[user_idx, start:stop]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 users × 64 items, so that small cases have many."""
    monkeypatch.setitem(ranking._TILE, "cpu", (16, 64))


def pairs(mask: np.ndarray[Any, Any]) -> Pairs:
    users, items = np.nonzero(mask)
    return Pairs(users.astype(np.int32), items.astype(np.int32))


def dense_oracle(scores: Tensor, k: int, mask: np.ndarray[Any, Any] | None = None) -> TopK:
    """Sort everything; a stable sort keeps the lower index first among equals."""
    scores = scores.clone()
    if mask is not None:
        scores[torch.from_numpy(mask)] = -INF
    values, items = scores.sort(dim=1, descending=True, stable=True)
    items[values == -INF] = -1
    missing = (0, max(k - scores.shape[1], 0))
    values = torch.nn.functional.pad(values[:, :k], missing, value=-INF)
    return TopK(torch.nn.functional.pad(items[:, :k], missing, value=-1), values)


def assert_equal(left: TopK, right: TopK) -> None:
    assert torch.equal(left.items, right.items)
    assert torch.equal(left.scores, right.scores)


@given(
    seed=st.integers(0, 10_000),
    users=st.integers(1, 40),
    items=st.integers(1, 200),
    k=st.integers(1, 70),
    levels=st.sampled_from([1, 2, 5, 10_000]),
    share=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    user_batch=st.sampled_from([None, 1, 17, 100]),
    item_block=st.sampled_from([None, 1, 65, 1000]),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.usefixtures("small_tiles")
def test_lists_are_those_of_a_full_sort_whatever_the_ties_and_chunks(
    seed: int,
    users: int,
    items: int,
    k: int,
    levels: int,
    share: float,
    user_batch: int | None,
    item_block: int | None,
) -> None:
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.integers(-levels, levels, (users, items))).float()
    mask = rng.random((users, items)) < share
    found = top_k(
        Dense(scores),
        torch.arange(users),
        k,
        Exclusion.from_pairs(pairs(mask), users),
        user_batch=user_batch,
        item_block=item_block,
    )
    assert_equal(found, dense_oracle(scores, k, mask))


@pytest.mark.parametrize("order", ["ascending", "descending"])
@pytest.mark.usefixtures("small_tiles")
def test_lists_are_right_when_every_tile_beats_or_never_beats_the_last(order: str) -> None:
    scores = torch.arange(1000.0).expand(3, -1)
    scores = scores if order == "ascending" else scores.flip(1)
    assert_equal(top_k(Dense(scores), torch.arange(3), 30), dense_oracle(scores, 30))


def test_chunk_sizes_do_not_change_one_bit() -> None:
    generator = torch.Generator().manual_seed(3)
    factors = Factors(
        torch.randn(600, 24, generator=generator), torch.randn(20_001, 24, generator=generator)
    )
    users = torch.randperm(600, generator=generator)[:531]
    expected = top_k(factors, users, 20)
    for user_batch, item_block in ((1, None), (300, 100), (10_000, 9_000), (257, 10**6)):
        found = top_k(factors, users, 20, user_batch=user_batch, item_block=item_block)
        assert_equal(found, expected)


def test_factors_rank_as_their_dense_product_does() -> None:
    generator = torch.Generator().manual_seed(5)
    # Halves of small integers: products and sums are exact, and many are equal.
    user_emb = torch.randint(-3, 4, (300, 4), generator=generator) / 2
    item_emb = torch.randint(-3, 4, (9000, 4), generator=generator) / 2
    mask = np.random.default_rng(0).random((300, 9000)) < 0.01
    users = torch.arange(299, -1, -7)
    found = top_k(
        Factors(user_emb, item_emb), users, 50, Exclusion.from_pairs(pairs(mask), len(user_emb))
    )
    assert_equal(found, dense_oracle((user_emb @ item_emb.T)[users], 50, mask[users.numpy()]))


def test_a_user_gets_the_same_list_alone_as_among_others() -> None:
    scores = torch.randint(0, 50, (600, 300)).float()
    everyone = top_k(Dense(scores), torch.arange(600), 10)
    alone = top_k(Dense(scores), torch.tensor([599]), 10)
    assert_equal(alone, TopK(everyone.items[599:], everyone.scores[599:]))


def test_equal_scores_rank_by_item_index_and_zero_has_no_sign() -> None:
    scores = torch.tensor([[0.0, -0.0, 1.0, -0.0, 0.0, -1.0]])
    found = top_k(Dense(scores), torch.tensor([0]), 4)
    assert found.items.tolist() == [[2, 0, 1, 3]]


def test_excluded_items_and_items_scored_minus_infinity_are_never_ranked() -> None:
    scores = torch.tensor([[3.0, -INF, 2.0, INF], [1.0, 2.0, 3.0, 4.0]])
    exclude = Exclusion.from_pairs(pairs(np.array([[1, 0, 0, 0], [1, 1, 1, 1]]) > 0), 2)
    found = top_k(Dense(scores), torch.tensor([1, 0]), 3, exclude)
    assert found.items.tolist() == [[-1, -1, -1], [3, 2, -1]]
    assert found.scores.tolist() == [[-INF] * 3, [INF, 2.0, -INF]]


def test_masking_one_user_leaves_scores_that_users_share_alone() -> None:
    @dataclass(frozen=True)
    class Popular(Dense):
        def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
            return self.table[0, start:stop].expand(len(user_idx), -1)

    popularity = torch.arange(64.0).expand(20, -1)
    mask = np.zeros((20, 64), dtype=bool)
    mask[4, 63] = True
    found = top_k(Popular(popularity), torch.arange(20), 1, Exclusion.from_pairs(pairs(mask), 20))
    assert found.items.squeeze(1).tolist() == [63] * 4 + [62] + [63] * 15
    assert popularity[0, 63] == 63


@pytest.mark.parametrize("place", [0, 30, 8191, 8192, 19_999])
def test_a_score_that_is_no_number_is_an_error_wherever_it_stands(place: int) -> None:
    scores = torch.zeros(20, 20_000)
    scores[7, place] = float("nan")
    with pytest.raises(TrainingError, match="NaN"):
        top_k(Dense(scores), torch.arange(20), 5)


def test_no_users_give_no_lists() -> None:
    found = top_k(Dense(torch.ones(3, 5)), torch.empty(0, dtype=torch.int64), 4)
    assert found.items.shape == found.scores.shape == (0, 4)
    assert (found.items.dtype, found.scores.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"user_batch": 0}, {"item_block": -1}])
def test_sizes_below_one_are_refused_by_name(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=f"{name} is"):
        top_k(Dense(torch.ones(1, 2)), torch.tensor([0]), **{"k": 1, **wrong})


def test_threads_share_the_users_and_torch_keeps_its_own_number() -> None:
    scores = torch.randint(0, 9, (1000, 40)).float()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = top_k(Dense(scores), torch.arange(1000), 5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert_equal(found, dense_oracle(scores, 5))


def test_ranking_builds_no_gradient_graph() -> None:
    user_emb = torch.ones(600, 2, requires_grad=True)
    found = top_k(Factors(user_emb, torch.ones(40, 2)), torch.arange(600), 3)
    assert not found.scores.requires_grad


class Largest(TorchDispatchMode):
    """Notes the largest memory behind the result of any operation, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, Tensor):
                self.bytes = max(self.bytes, part.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("values", ["random", "equal"])
@pytest.mark.usefixtures("small_tiles")
def test_memory_does_not_grow_with_users_times_items(values: str) -> None:
    users, items, k = 200, 5000, 10
    item_emb = torch.rand(items, 1) if values == "random" else torch.ones(items, 1)
    factors = Factors(torch.ones(users, 1), item_emb)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # operations in other threads would go unseen
    try:
        with Largest() as largest:
            top_k(factors, torch.arange(users), k)
    finally:
        torch.set_num_threads(before)
    tile, candidates = 16 * 64 * 4, 16 * k * ranking.GROUP * 8
    assert largest.bytes <= max(tile, candidates, items * 4, users * k * 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_ranks_as_the_cpu_does() -> None:
    scores = torch.randint(-9, 9, (3000, 70_000)).float()
    mask = np.random.default_rng(0).random((3000, 700)) < 0.1
    exclude = Exclusion.from_pairs(pairs(mask), 3000)
    found = top_k(Dense(scores.cuda()), torch.arange(3000), 20, exclude)
    expected = top_k(Dense(scores), torch.arange(3000), 20, exclude)
    assert_equal(TopK(found.items.cpu(), found.scores.cpu()), expected)
