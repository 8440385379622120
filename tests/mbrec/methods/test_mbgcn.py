"""If these fail, MBGCN is not the paper's, or its lists are not exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mbrec.columns import GLOBAL
from mbrec.models.mbgcn import Mbgcn, MbgcnConfig

Array = npt.NDArray[np.float64]


class Dense:
    """The paper's equations from a model's weights, with a loop over users and items."""

    def __init__(self, hand_made: Any, config: MbgcnConfig, weights: dict[str, Array]) -> None:
        self.graph, self.config, self.weights = hand_made, config, weights
        self.matrices = [hand_made.matrix(behavior) for behavior in hand_made.behaviors]

    def first(self) -> Array:
        """ŷ₁, (U, I)."""
        degree = np.stack([matrix.sum(1) for matrix in self.matrices], 1)
        share = degree * np.exp(self.weights["log_weights"])
        share = share / np.where(share.sum(1) > 0, share.sum(1), 1)[:, None]  # α
        p, q = self.weights["user_emb"], self.weights["item_emb"]
        users, items = [p], [q]
        for layer in range(self.config.layers):
            w = self.weights[f"maps.{layer}"].T
            mixed = sum(
                share[:, [k]] * (rows(matrix) @ q) for k, matrix in enumerate(self.matrices)
            )
            p, q = mixed @ w, rows(self.graph.matrix(GLOBAL).T) @ p @ w
            users.append(p)
            items.append(q)
        return np.concatenate(users, 1) @ np.concatenate(items, 1).T

    def second(self, k: int, left_out: tuple[int, int] | None = None) -> Array:
        """ŷ₂ₖ, (U, I), one item of the user after the other, but for a pair that is left out."""
        matrix, layers = self.matrices[k], [self.weights["item_emb"]]
        for layer in range(self.config.layers):
            w = self.weights[f"item_maps.{k * self.config.layers + layer}"].T
            layers.append(rows(matrix.T) @ rows(matrix) @ layers[-1] @ w)
        s, m = np.concatenate(layers, 1), self.weights[f"relevance_maps.{k}"]
        scores = np.zeros(matrix.shape)
        for user, item in np.ndindex(*matrix.shape):
            own = [j for j in np.flatnonzero(matrix[user]) if (user, j) != left_out]
            if own:
                scores[user, item] = np.mean([s[j] @ m @ s[item] for j in own])
        return scores

    def scores(self, behavior: str, left_out: tuple[int, int] | None = None) -> Array:
        """ŷ of a behavior, (U, I), without one of its pairs where it is given."""
        weight, number = self.config.relevance_weight, self.graph.behaviors.index(behavior)
        if not weight:
            return self.first()
        kinds = [number] if self.config.relevance == "own" else range(len(self.matrices))
        seconds = [self.second(k, left_out if k == number else None) for k in kinds]
        return self.first() + weight * sum(seconds) / len(seconds)

    def loss(self, behavior: str) -> float:
        """BPR of the batch, every pair by itself."""
        terms, triples = [], self.graph.batch()[behavior]
        for n, pair in enumerate(self.graph.train[behavior]):
            scores = self.scores(behavior, pair if self.config.leave_one_out else None)[pair[0]]
            terms += [np.log1p(np.exp(scores[j] - scores[pair[1]])) for j in triples.negative[n]]
        return float(np.mean(terms))


def rows(matrix: Array) -> Array:
    """Every row divided by its sum."""
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"layers": 2, "l2": 0.3},
    {"layers": 0},
    {"relevance": "own", "relevance_weight": 0.7},
    {"relevance_weight": 0.0},
    {"leave_one_out": False},
    {"leave_one_out": True, "layers": 2, "relevance": "own"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scores_and_losses_are_the_papers_equations(
    hand_made: Any, settings: dict[str, Any]
) -> None:
    config = MbgcnConfig(size=3, **settings)
    model = hand_made.build(Mbgcn, config)
    weights = hand_made.weights(model)
    dense = Dense(hand_made, config, weights)
    hand_made.check_scores(model, {b: dense.scores(b) for b in hand_made.behaviors})
    terms = {f"bpr/{behavior}": dense.loss(behavior) for behavior in hand_made.batch()}
    terms["l2"] = config.l2 * hand_made.l2(weights["user_emb"], weights["item_emb"])
    hand_made.check_losses(model, terms)


def test_every_weight_learns(hand_made: Any) -> None:
    model = hand_made.build(Mbgcn, MbgcnConfig(size=3))
    torch.stack(list(model.losses(model.propagate(), hand_made.batch()).values())).sum().backward()
    empty = ("item_maps.1", "relevance_maps.1")  # of the behavior that nobody has
    for name, parameter in model.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert learns == (name not in empty), name


def test_a_user_of_one_behavior_has_its_share_alone(hand_made: Any) -> None:
    shares = torch.cat(hand_made.build(Mbgcn, MbgcnConfig(size=3))._shares(), 1)
    assert shares[3].tolist() == [1, 0, 0]  # user 3 has only looked
    assert shares[4].tolist() == [0, 0, 0]
    torch.testing.assert_close(shares[:4].sum(1), torch.ones(4))
