"""If these fail, CascadingRank's lists are not those of the paper's walk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mbrec import memory
from mbrec.config import from_dict
from mbrec.engines import TorchEngine
from mbrec.errors import TrainingError, UsageError
from mbrec.graph import Pairs
from mbrec.models import cascadingrank
from mbrec.models.base import Context
from mbrec.models.cascadingrank import CascadingRank, CascadingRankConfig

BEHAVIORS = ("page.view", "favorite", "cart", "buy")
USERS, ITEMS = 5, 6
TRAIN: dict[str, list[tuple[int, int]]] = {
    "page.view": [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 4)],
    "favorite": [],
    "cart": [(0, 1), (1, 1), (1, 4), (3, 4)],
    "buy": [(0, 1), (0, 3), (2, 3)],  # user 4 has nothing, item 5 nobody
}


def make(**settings: Any) -> CascadingRank:
    train = {
        name: Pairs(*np.array(pairs, np.int32).reshape(-1, 2).T) for name, pairs in TRAIN.items()
    }
    engine = TorchEngine(train, USERS, ITEMS)
    context = Context(
        BEHAVIORS, USERS, ITEMS, train, engine, torch.Generator(), torch.device("cpu")
    )
    return CascadingRank(CascadingRankConfig(**settings), context)


def dense(alpha: float, beta: float) -> dict[str, np.ndarray]:
    """The fixed points by one linear system per behavior, users above items; (U, I) each."""
    before, result = None, {}
    for behavior, pairs in TRAIN.items():
        matrix = np.zeros((USERS, ITEMS))
        for pair in pairs:
            matrix[pair] = 1
        adjacency = np.block(
            [[np.zeros((USERS, USERS)), matrix], [matrix.T, np.zeros((ITEMS, ITEMS))]]
        )
        root = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
        smooth = root[:, None] * adjacency * root
        query = np.concatenate([np.eye(USERS), (matrix / np.maximum(matrix.sum(1), 1)[:, None]).T])
        source = alpha * query + beta * (query if before is None else before)
        before = np.linalg.solve(np.eye(USERS + ITEMS) - (1 - alpha - beta) * smooth, source)
        result[behavior] = before[USERS:].T
    return result


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.5), (0.0, 0.4), (0.1, 0.0), (0.5, 0.5)])
def test_scores_are_the_fixed_points_of_the_walks(alpha: float, beta: float) -> None:
    scorers = make(alpha=alpha, beta=beta, tolerance=1e-7).scorers()
    for behavior, expected in dense(alpha, beta).items():
        found = scorers[behavior].scores(torch.arange(USERS), 0, ITEMS)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=behavior)


def test_the_size_of_the_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = torch.arange(USERS)
    expected = [s.scores(everyone, 0, ITEMS) for s in make().scorers().values()]
    monkeypatch.setattr(cascadingrank, "_MOST_USERS", 2)
    found = [s.scores(everyone, 0, ITEMS) for s in make().scorers().values()]
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def test_the_items_kept_are_the_best_beside_the_own() -> None:
    exact, cut = (make(keep=keep).scorers()["buy"] for keep in (ITEMS, 1))
    everyone = torch.arange(USERS)
    whole, short = (s.scores(everyone, 0, ITEMS) for s in (exact, cut))
    for user in range(USERS):
        own = {item for pairs in TRAIN.values() for u, item in pairs if u == user}
        kept = (short[user] > 1e-12).nonzero().flatten().tolist()
        reached = int((whole[user] > 1e-12).sum())
        assert len(kept) == min(len(own) + 1, reached)
        assert set(kept) == set(whole[user].argsort(descending=True)[: len(kept)].tolist())
        assert torch.equal(whole[user, kept], short[user, kept])


def test_whom_no_walk_leads_anywhere_gets_what_is_popular() -> None:
    scores = make().scorers()["buy"].scores(torch.tensor([4, 0]), 0, ITEMS)
    assert scores[0].argsort(descending=True)[:2].tolist() == [3, 1]
    assert scores[0].max() < scores[1, [1, 3]].min()


def test_weights_that_leave_no_fixed_point_are_refused() -> None:
    for alpha, beta in ((0.0, 0.0), (0.7, 0.7)):
        with pytest.raises(UsageError, match=r"alpha \+ model\.beta"):
            from_dict({"method": "cascadingrank", "model": {"alpha": alpha, "beta": beta}})
    assert CascadingRankConfig(alpha=0.5, beta=0.5).steps == 1
    assert CascadingRankConfig(alpha=0.3, beta=0.2, tolerance=0.01).steps == 7  # 0.5⁷ < 0.01


def test_more_items_than_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device="cpu": 1 << 20)
    with pytest.raises(TrainingError, match=r"200 items for each of 5 users .*model\.keep"):
        make().scorers()
