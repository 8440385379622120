"""If these fail, MBRCC does not fuse or contrast behaviors as its paper does."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mbrec.models.mbrcc import Mbrcc, MbrccConfig, unbalance

Array = npt.NDArray[np.float64]
TAU = 0.3


def softmax(rows: Array, axis: int) -> Array:
    powers: Array = np.exp(rows)
    return powers / powers.sum(axis, keepdims=True)


def both_ways(first: Array, second: Array) -> float:
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    s = np.exp(first @ second.T / TAU)
    return float(-0.5 * (np.log(np.diag(s) / s.sum(1)) + np.log(np.diag(s) / s.sum(0))).mean())


def test_scores_and_losses_are_the_papers_equations(hand_made: Any) -> None:
    config = MbrccConfig(
        size=3, layers=2, clusters=4, temperature=TAU, instance_weight=0.4, cluster_weight=0.7
    )
    model = hand_made.build(Mbrcc, config)
    w, users = hand_made.weights(model), hand_made.users
    own = {  # users above items
        name: np.mean(hand_made.layers(name, w["user_emb"], w["item_emb"], 2), axis=0)
        for name in hand_made.behaviors
    }
    counts = np.stack([hand_made.matrix(name).sum(1) for name in hand_made.behaviors])  # (K, U)
    shares = counts / np.maximum(counts.sum(0), 1)
    alpha = softmax(w["behavior_weight"][:, None] * shares, axis=0)
    user = sum(a[:, None] * e[:users] for a, e in zip(alpha, own.values(), strict=True))
    items = [e[users:] for e in own.values()]
    scores, terms = {}, {"instance": 0.0, "cluster": 0.0}
    for place, name in enumerate(hand_made.behaviors):
        p = np.eye(3) + w["user_map"][place] / 3
        q = np.concatenate([np.eye(3) / 3] * 3) + w["item_map"][place] / 3
        fused = user @ p, np.concatenate(items, axis=1) @ q
        scores[name] = fused[0] @ fused[1].T
        if hand_made.train[name]:
            terms[f"bpr/{name}"] = hand_made.bpr(name, *fused)
    pairs = hand_made.train["purchase"]
    for side, nodes in (
        ("user", sorted({u for u, _ in pairs})),
        ("item", sorted({users + i for _, i in pairs})),
    ):
        layer = w[f"{side}_assignment.weight"], w[f"{side}_assignment.bias"]
        for name in ("page.view", "favorite"):
            views = own["purchase"][nodes], own[name][nodes]
            terms["instance"] += 0.4 * both_ways(*views)
            assigned = [softmax(view @ layer[0].T + layer[1], axis=1) for view in views]
            terms["cluster"] += 0.7 * both_ways(assigned[0].T, assigned[1].T)
            for part in assigned:
                share = part.mean(0)
                terms["cluster"] += 0.35 * (np.log(4) + (share * np.log(share)).sum())
    terms["l2"] = config.l2 * hand_made.l2(w["user_emb"], w["item_emb"])
    hand_made.check_scores(model, scores)
    hand_made.check_losses(model, terms)


def test_clusters_of_equal_size_cost_nothing_and_one_for_all_costs_most() -> None:
    assert unbalance(torch.eye(4)).item() == pytest.approx(0, abs=1e-6)
    assert unbalance(torch.eye(4)[[0, 0, 0]]).item() == pytest.approx(np.log(4))
