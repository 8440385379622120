"""If these fail, MBGCL does not contrast views of the behaviors' graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mbrec.models.mbgcl import Mbgcl, MbgclConfig
from mbrec.propagation import Nodes
from mbrec.randomness import generator

TAU = 0.3


def test_scores_and_losses_are_those_of_the_docstring(hand_made: Any) -> None:
    """Without dropout both views are the graph itself."""
    config = MbgclConfig(
        size=3, layers=2, edge_dropout=0, temperature=TAU, contrast_weight=0.4, l2=0.2
    )
    model = hand_made.build(Mbgcl, config)
    model.begin_epoch(1, generator(1, "method"))
    w, users = hand_made.weights(model), hand_made.users
    own = {  # users above items
        name: np.mean(hand_made.layers(name, w["user_emb"], w["item_emb"], 2), axis=0)
        for name in hand_made.behaviors
    }
    shares = np.exp(w["mix"]) / np.exp(w["mix"]).sum(1, keepdims=True)
    scores, terms = {}, {"contrast": 0.0}
    for name, share in zip(hand_made.behaviors, shares, strict=True):
        mixed = sum(part * e for part, e in zip(share, own.values(), strict=True))
        scores[name] = mixed[:users] @ mixed[users:].T
        pairs = hand_made.train[name]
        if not pairs:
            continue
        terms[f"bpr/{name}"] = hand_made.bpr(name, mixed[:users], mixed[users:])
        for nodes in (sorted({u for u, _ in pairs}), sorted({users + i for _, i in pairs})):
            e = own[name][nodes]
            e = e / np.linalg.norm(e, axis=1, keepdims=True)
            s = np.exp(e @ e.T / TAU)
            terms["contrast"] -= 0.4 * np.log(np.diag(s) / s.sum(1)).mean()
    terms["l2"] = 0.2 * hand_made.l2(w["user_emb"], w["item_emb"])
    hand_made.check_scores(model, scores)
    hand_made.check_losses(model, terms)


def test_views_lose_edges_anew_in_every_epoch_and_gain_none(hand_made: Any) -> None:
    def view(epoch: int, number: int) -> np.ndarray:
        """The adjacency of "page.view" that a view has left, (U, I)."""
        model = hand_made.build(Mbgcl, MbgclConfig(size=3, edge_dropout=0.4))
        model.begin_epoch(epoch, generator(1, "method", epoch))
        relation = model._views[number]["page.view"]
        eye = Nodes(torch.zeros(hand_made.users, hand_made.items), torch.eye(hand_made.items))
        left: np.ndarray = relation.engine.aggregate("page.view", eye).user.numpy()
        return left

    graph = hand_made.matrix("page.view")
    views = {(epoch, number): view(epoch, number) for epoch in (1, 2, 3) for number in (0, 1)}
    assert all((left <= graph).all() for left in views.values())
    assert len({left.tobytes() for left in views.values()}) > 3
    np.testing.assert_array_equal(views[2, 1], view(2, 1))


def test_without_a_weight_there_are_no_views(hand_made: Any) -> None:
    model = hand_made.build(Mbgcl, MbgclConfig(size=3, contrast_weight=0))
    model.begin_epoch(1, generator(1, "method"))
    assert "contrast" not in model.losses(model.propagate(), hand_made.batch())
