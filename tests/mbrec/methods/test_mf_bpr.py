"""If these fail, MF-BPR is not Rendle's, and its row of a table says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mbrec.graph import Pairs
from mbrec.models.base import Context
from mbrec.models.mf_bpr import MfBpr, MfBprConfig
from mbrec.sampling import Triples

BEHAVIORS = ("page.view", "favorite", "buy")
USERS, ITEMS = 4, 5
TRAIN: dict[str, list[tuple[int, int]]] = {
    "page.view": [(0, 0), (0, 1), (1, 1), (2, 4)],
    "favorite": [],
    "buy": [(0, 1), (2, 3)],
}
NEGATIVE = {"page.view": [[2, 3], [4, 3], [0, 2], [1, 1]], "buy": [[0, 4], [2, 2]]}


def make(**settings: Any) -> MfBpr:
    train = {
        name: Pairs(*np.array(pairs, np.int32).reshape(-1, 2).T) for name, pairs in TRAIN.items()
    }
    random = torch.Generator().manual_seed(1)
    context = Context(BEHAVIORS, USERS, ITEMS, train, None, random, torch.device("cpu"))
    return MfBpr(MfBprConfig(size=3, initializer="normal", **settings), context)


def batch() -> dict[str, Triples]:
    found = {}
    for name, negative in NEGATIVE.items():
        users, items = torch.tensor(TRAIN[name]).T
        found[name] = Triples(users, items, torch.tensor(negative))
    return found


@pytest.mark.parametrize("embeddings", ["shared", "behavior"])
def test_scores_and_losses_are_those_of_the_equations(embeddings: str) -> None:
    model = make(embeddings=embeddings, l2=0.3)
    tables = [p.detach().double().numpy() for p in (*model.user_emb, *model.item_emb)]
    half, l2 = len(tables) // 2, 0.0
    terms = model.losses(model.propagate(), batch())
    everyone, scorers = torch.arange(USERS), model.scorers()
    for number, name in enumerate(BEHAVIORS):
        place = 0 if embeddings == "shared" else number
        user, item = tables[place], tables[half + place]
        found = scorers[name].scores(everyone, 0, ITEMS)
        np.testing.assert_allclose(found, user @ item.T, atol=1e-5)
        if name not in NEGATIVE:
            assert f"bpr/{name}" not in terms
            continue
        margins, norm = [], 0.0
        for (u, i), negatives in zip(TRAIN[name], NEGATIVE[name], strict=True):
            margins += [user[u] @ item[i] - user[u] @ item[j] for j in negatives]
            norm += sum((row**2).sum() for row in (user[u], item[i], *item[negatives]))
        l2 += 0.5 * norm / len(TRAIN[name])
        expected = np.mean(np.log1p(np.exp(-np.array(margins))))
        assert terms[f"bpr/{name}"].item() == pytest.approx(expected, abs=1e-5)
    assert terms["l2"].item() == pytest.approx(0.3 * l2, abs=1e-5)


def test_a_behavior_learns_from_the_others_only_if_embeddings_are_shared() -> None:
    for embeddings, tables in (("shared", 1), ("behavior", 3)):
        model = make(embeddings=embeddings)
        assert len(model.user_emb) == len(model.item_emb) == tables
        assert "l2" not in make(embeddings=embeddings, l2=0).losses(model.propagate(), batch())
        model.losses(model.propagate(), batch())["bpr/page.view"].backward()
        scorer = model.scorers()["buy"]
        touched = [p for p in model.parameters() if p.grad is not None and bool(p.grad.any())]
        shared = any(p.data_ptr() == scorer.item_emb.data_ptr() for p in touched)
        assert shared == (embeddings == "shared")
