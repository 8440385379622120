"""If these fail, models learn from wrong comparisons, or not from all of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.graph import Pairs
from mbrec.randomness import generator
from mbrec.sampling import BatchSampler, NegativeSampler


def pairs_of(matrix: np.ndarray) -> Pairs:
    users, items = np.nonzero(matrix)
    return Pairs(users.astype(np.int32), items.astype(np.int32))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_a_negative_is_never_an_item_the_user_has(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.random((6, 7)) < density
    sampler = NegativeSampler(pairs_of(matrix), 6, 7)
    users = torch.arange(6)
    users = users[sampler.can_sample(users)]
    assert set(users.tolist()) == set(np.nonzero(~matrix.all(axis=1))[0].tolist())
    drawn = sampler.sample(users, 20, generator(seed % 1000, "test"))
    assert drawn.shape == (len(users), 20)
    assert ((drawn >= 0) & (drawn < 7)).all()
    assert not matrix[users.numpy()[:, None], drawn.numpy()].any()


def test_negatives_are_uniform_over_the_free_items() -> None:
    matrix = np.zeros((2, 10), dtype=bool)
    matrix[0, [0, 1, 4, 9]] = True
    sampler = NegativeSampler(pairs_of(matrix), 2, 10)
    draws = 60_000
    drawn = sampler.sample(torch.tensor([0, 1]), draws, generator(3, "test"))
    for user, free in ((0, [2, 3, 5, 6, 7, 8]), (1, list(range(10)))):
        counts = torch.bincount(drawn[user], minlength=10)[free].double()
        expected = draws / len(free)
        assert (counts - expected).abs().max() < 5 * expected**0.5
        assert counts.sum() == draws


@pytest.mark.parametrize("batch_size", [1, 7, 50, 10_000])
def test_every_pair_stands_in_exactly_one_batch_of_an_epoch(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    relations = {
        "click": pairs_of(rng.random((20, 30)) < 0.3),
        "favorite": pairs_of(np.zeros((20, 30), dtype=bool)),
        "purchase": pairs_of(rng.random((20, 30)) < 0.02),
    }
    sampler = BatchSampler(relations, 20, 30, batch_size=batch_size, negatives=2)
    seen: dict[str, list[tuple[int, int]]] = {name: [] for name in relations}
    sizes = []
    for batch in sampler.epoch(generator(1, "sampling", 1)):
        sizes.append(sum(len(triples.user_idx) for triples in batch.values()))
        for name, triples in batch.items():
            assert triples.negative.shape == (len(triples.user_idx), 2)
            seen[name] += zip(triples.user_idx.tolist(), triples.positive.tolist(), strict=True)
    assert len(sizes) == sampler.num_steps
    assert max(sizes) <= batch_size + len(relations)
    for name, pairs in relations.items():
        expected = list(zip(pairs.user_idx.tolist(), pairs.item_idx.tolist(), strict=True))
        assert sorted(seen[name]) == expected


def test_a_user_who_has_everything_is_left_out() -> None:
    matrix = np.zeros((2, 4), dtype=bool)
    matrix[0], matrix[1, 2] = True, True
    sampler = BatchSampler({"click": pairs_of(matrix)}, 2, 4, batch_size=10)
    (batch,) = sampler.epoch(generator(1, "sampling", 1))
    assert batch["click"].user_idx.tolist() == [1]


def test_the_same_seed_and_epoch_give_the_same_batches() -> None:
    relations = {"click": pairs_of(np.random.default_rng(0).random((20, 30)) < 0.3)}
    sampler = BatchSampler(relations, 20, 30, batch_size=16)

    def draw(epoch: int) -> list[list[int]]:
        batches = sampler.epoch(generator(5, "sampling", epoch))
        return [[*b["click"].positive.tolist(), *b["click"].negative.flatten()] for b in batches]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
