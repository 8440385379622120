"""If these fail, GHCF is not the paper's, or its short way to the whole loss is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mbrec.models.ghcf import Ghcf, GhcfConfig
from mbrec.randomness import generator

Array = npt.NDArray[np.float64]


def dense_scores(hand_made: Any, config: GhcfConfig, weights: dict[str, Array]) -> dict[str, Array]:
    """The paper's equations from a model's weights, (U, I) per behavior."""
    users, behaviors = hand_made.users, hand_made.behaviors
    nodes = np.concatenate([weights["user_emb"], weights["item_emb"]])
    relations = weights["relation_emb"]
    kept, kept_relations = [nodes], [relations]
    for layer in range(config.layers):
        messages = []
        for behavior, vector in zip(behaviors, relations, strict=True):
            received = hand_made.layers(behavior, nodes[:users], nodes[users:], 1)[-1]
            message = (received * vector) @ (np.eye(3) + weights[f"maps.{layer}"] / 3).T
            messages.append(np.where(message > 0, message, 0.2 * message))
        nodes = np.mean(messages, axis=0)
        relations = relations @ (np.eye(3) + weights[f"relation_maps.{layer}"] / 3).T
        kept.append(nodes)
        kept_relations.append(relations)
    final, vectors = np.mean(kept, axis=0), np.mean(kept_relations, axis=0)
    return {
        behavior: (final[:users] * vector) @ final[users:].T
        for behavior, vector in zip(behaviors, vectors, strict=True)
    }


@pytest.mark.parametrize(
    "settings", [{}, {"layers": 0}, {"layers": 3, "negative_weight": 0.4, "l2": 0.3}], ids=str
)
def test_scores_and_losses_are_the_papers_equations(
    hand_made: Any, settings: dict[str, Any]
) -> None:
    config = GhcfConfig(size=3, **settings)
    model = hand_made.build(Ghcf, config)
    weights = hand_made.weights(model)
    scores = dense_scores(hand_made, config, weights)
    terms = {}
    for behavior in hand_made.batch():  # every pair of users × items, one by one
        has, found = hand_made.matrix(behavior), scores[behavior]
        squares = np.where(has, (1 - found) ** 2, config.negative_weight * found**2)
        terms[f"squared/{behavior}"] = float(squares.sum() / has.sum())
    terms["l2"] = config.l2 * hand_made.l2(weights["user_emb"], weights["item_emb"])
    hand_made.check_scores(model, scores)
    hand_made.check_losses(model, terms)


def test_the_losses_of_batches_are_on_average_the_loss_of_all_pairs(hand_made: Any) -> None:
    model = hand_made.build(Ghcf, GhcfConfig(size=3)).eval()
    state, whole = model.propagate(), hand_made.batch()
    for behavior, triples in whole.items():
        parts = [
            type(triples)(triples.user_idx[[n]], triples.positive[[n]], triples.negative[[n]])
            for n in range(len(triples.user_idx))
        ]
        name = f"squared/{behavior}"
        found = [model.losses(state, {behavior: part})[name].item() for part in parts]
        expected = model.losses(state, {behavior: triples})[name].item()
        assert np.mean(found) == pytest.approx(expected, rel=1e-5)


def test_dropout_draws_from_the_epochs_randomness_and_only_in_training(hand_made: Any) -> None:
    model = hand_made.build(Ghcf, GhcfConfig(size=3, dropout=0.5))

    def embeddings(epoch: int) -> torch.Tensor:
        model.begin_epoch(epoch, generator(1, "method", epoch))
        nodes, _ = model.propagate()
        return nodes.user.detach()

    first, second, again = embeddings(1), embeddings(2), embeddings(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(embeddings(1), embeddings(2))
