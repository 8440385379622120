"""If these fail, MB-GMN is not the paper's graph meta network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mbrec.errors import UsageError
from mbrec.models.mb_gmn import MbGmn, MbGmnConfig, blocks

Array = npt.NDArray[np.float64]
HALF, RANK, HEADS, LAYERS = 2, 3, 2, 2


def leaky(rows: Array) -> Array:
    return np.where(rows > 0, rows, 0.01 * rows)


class Dense:
    """The docstring's equations, users above items, from a model's weights."""

    def __init__(self, hand_made: Any, weights: dict[str, Array]) -> None:
        self.hand_made, self.w, self.users = hand_made, weights, hand_made.users
        self.base = np.concatenate([weights["user_emb"], weights["item_emb"]])
        near = [self.hop(name, self.base) for name in hand_made.behaviors]
        starts = [
            self.transform(behavior, neighbors)
            for behavior, neighbors in zip(weights["behavior_emb"], [sum(near), *near], strict=True)
        ]
        own = map(self.alone, hand_made.behaviors, starts[1:])
        self.sources = [self.together(starts[0]), *own]

    def hop(self, name: str, nodes: Array) -> Array:
        hops = self.hand_made.layers(name, nodes[: self.users], nodes[self.users :], 1)
        found: Array = hops[1]
        return found

    def linear(self, name: str, rows: Array) -> Array:
        return rows @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0)

    def transform(self, behavior: Array, neighbors: Array) -> Array:
        rows = []
        for n, (e, near) in enumerate(zip(self.base, neighbors, strict=True)):
            meta = leaky(self.linear("meta.hidden", np.concatenate([behavior, e, near])))
            first, second = (0, 1) if n < self.users else (2, 3)
            low = e @ self.linear(f"meta.factors.{first}", meta).reshape(HALF, RANK)
            made = low @ self.linear(f"meta.factors.{second}", meta).reshape(RANK, HALF)
            rows.append(np.concatenate([made, e]))
        return np.stack(rows)

    def alone(self, name: str, nodes: Array) -> Array:
        total = nodes
        for _ in range(LAYERS):
            nodes = leaky(self.hop(name, nodes)) + nodes
            total = total + nodes
        return total

    def together(self, nodes: Array) -> Array:
        total = nodes
        for layer in range(LAYERS):
            messages = [leaky(self.hop(name, nodes)) for name in self.hand_made.behaviors]
            rows = []
            for n in range(len(nodes)):
                values = np.stack([message[n] for message in messages])  # (K, d)
                side = 2 * layer + (n >= self.users)
                query = self.linear(f"attention.{side}.project", values)
                heads = []
                for h in range(HEADS):
                    part = slice(h * 2 * HALF // HEADS, (h + 1) * 2 * HALF // HEADS)
                    s = np.exp(query[:, part] @ query[:, part].T / np.sqrt(2 * HALF / HEADS))
                    heads.append((s / s.sum(1, keepdims=True)) @ values[:, part])
                rows.append((np.concatenate(heads, axis=1) + values).sum(0))
            nodes = np.stack(rows)
            total = total + nodes
        return total

    def factors(self, source: Array, own: Array) -> tuple[Array, Array]:
        """User and item factors of ŷ_{s→b}, with the item's bias in a last column."""
        meta = leaky(
            self.linear("predictor.hidden", np.concatenate([source * own, source, own], axis=1))
        )
        weight = {
            side: self.linear(f"predictor.weights.{side}", meta)
            for side in ("user", "item", "bias")
        }
        user = ((1 + weight["user"]) * source)[: self.users]
        item = ((1 + weight["item"]) * source)[self.users :]
        bias = (weight["bias"] * source).sum(1, keepdims=True)[self.users :]
        return np.hstack([user, np.ones((self.users, 1))]), np.hstack([item, bias])


def test_scores_and_losses_are_those_of_the_docstring(hand_made: Any) -> None:
    config = MbGmnConfig(size=2 * HALF, rank=RANK, heads=HEADS, layers=LAYERS)
    model = hand_made.build(MbGmn, config)
    weights = hand_made.weights(model)
    dense = Dense(hand_made, weights)
    scores, terms = {}, {}
    for place, (name, triples) in enumerate(
        (name, hand_made.batch().get(name)) for name in hand_made.behaviors
    ):
        own = dense.sources[1 + place]
        user, item = dense.factors(dense.sources[0], own)
        scores[name] = user @ item.T
        if triples is None:
            continue
        terms[f"pairwise/{name}"] = 0.0
        for source in dense.sources:
            user, item = dense.factors(source, own)
            margins = [
                user[u] @ (item[i] - item[j])
                for u, i, negatives in zip(
                    triples.user_idx.tolist(),
                    triples.positive.tolist(),
                    triples.negative.tolist(),
                    strict=True,
                )
                for j in negatives
            ]
            terms[f"pairwise/{name}"] += np.maximum(0, 1 - np.array(margins)).mean()
    terms["l2"] = config.l2 * hand_made.l2(weights["user_emb"], weights["item_emb"])
    hand_made.check_scores(model, scores)
    hand_made.check_losses(model, terms)


def test_gradients_do_not_depend_on_the_blocks(
    hand_made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for nodes in (2, 1 << 9):
        monkeypatch.setitem(blocks._BLOCK, "cpu", nodes)
        model = hand_made.build(MbGmn, MbGmnConfig(size=2 * HALF, rank=RANK, heads=HEADS))
        terms = model.losses(model.propagate(), hand_made.batch())
        torch.stack(list(terms.values())).sum().backward()
        found.append({name: weight.grad for name, weight in model.named_parameters()})
    # Sums in another order: how far apart they end differs from CPU to CPU.
    torch.testing.assert_close(*found, rtol=3e-5, atol=1e-5)


def test_heads_that_do_not_divide_the_size_are_refused(hand_made: Any) -> None:
    with pytest.raises(UsageError, match=r"model\.heads = 3"):
        hand_made.build(MbGmn, MbGmnConfig(size=4, heads=3))
