"""If these fail, CRGCN is not the paper's cascade."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mbrec.models.crgcn import Crgcn, CrgcnConfig


@pytest.mark.parametrize(
    "settings", [{}, {"layers": (2,)}, {"layers": (1, 0, 2), "l2": 0.3}], ids=str
)
def test_embeddings_and_losses_are_the_papers_equations(
    hand_made: Any, settings: dict[str, Any]
) -> None:
    config = CrgcnConfig(size=3, **settings)
    model = hand_made.build(Crgcn, config)
    weights = hand_made.weights(model)
    given = config.layers or (1, 2, 3)
    layers = given if len(given) == 3 else given * 3
    current = np.concatenate([weights["user_emb"], weights["item_emb"]])
    users, scores, terms = hand_made.users, {}, {}
    for behavior, count in zip(hand_made.behaviors, layers, strict=True):
        learned = hand_made.layers(behavior, current[:users], current[users:], count)[-1]
        length = np.linalg.norm(learned, axis=1, keepdims=True)
        current = current + learned / np.where(length > 0, length, 1)
        user, item = current[:users], current[users:]
        scores[behavior] = user @ item.T
        if hand_made.train[behavior]:
            terms[f"bpr/{behavior}"] = hand_made.bpr(behavior, user, item)
    terms["l2"] = config.l2 * hand_made.l2(weights["user_emb"], weights["item_emb"])
    hand_made.check_scores(model, scores)
    hand_made.check_losses(model, terms)


def test_an_empty_behavior_changes_nothing(hand_made: Any) -> None:
    """With no edge there is nothing to add, not a normalized zero that is not a number."""
    state = hand_made.build(Crgcn, CrgcnConfig(size=3)).propagate()
    for before, after in zip(state["page.view"], state["favorite"], strict=True):
        np.testing.assert_array_equal(before.detach(), after.detach())
