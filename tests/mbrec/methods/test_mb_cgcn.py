"""If these fail, MB-CGCN is not the paper's cascade."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mbrec.models.mb_cgcn import MbCgcn, MbCgcnConfig


@pytest.mark.parametrize(
    "settings", [{}, {"layers": (2,)}, {"layers": (1, 0, 2), "l2": 0.3}], ids=str
)
def test_embeddings_and_losses_are_the_papers_equations(
    hand_made: Any, settings: dict[str, Any]
) -> None:
    config = MbCgcnConfig(size=3, **settings)
    model = hand_made.build(MbCgcn, config)
    weights = hand_made.weights(model)
    given = config.layers or (1, 2, 3)
    layers = given if len(given) == 3 else given * 3
    user, item = weights["user_emb"], weights["item_emb"]
    users, total, scores, terms = hand_made.users, 0.0, {}, {}
    for step, (behavior, count) in enumerate(zip(hand_made.behaviors, layers, strict=True)):
        if step:
            user = user @ (np.eye(3) + weights[f"user_maps.{step - 1}"] / 3).T
            item = item @ (np.eye(3) + weights[f"item_maps.{step - 1}"] / 3).T
        own = np.mean(hand_made.layers(behavior, user, item, count), axis=0)
        total = total + own
        user, item = own[:users], own[users:]
        scores[behavior] = total[:users] @ total[users:].T
        if hand_made.train[behavior]:
            terms[f"bpr/{behavior}"] = hand_made.bpr(behavior, total[:users], total[users:])
    terms["l2"] = config.l2 * hand_made.l2(weights["user_emb"], weights["item_emb"])
    hand_made.check_scores(model, scores)
    hand_made.check_losses(model, terms)


def test_the_target_teaches_every_map(hand_made: Any) -> None:
    model = hand_made.build(MbCgcn, MbCgcnConfig(size=3))
    model.losses(model.propagate(), hand_made.batch())["bpr/purchase"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
