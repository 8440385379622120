"""If these fail, a network corrects lists for the worse, or ranks otherwise than it was learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mbrec import correction, stacking
from mbrec.candidates import Candidates, find_candidates
from mbrec.correction import Correction, _gradient, _Layer, fit_correction
from mbrec.errors import ArtefactError
from mbrec.graph import Pairs
from mbrec.network import Network
from mbrec.ranking import Exclusion
from mbrec.scoring import Factors, Sum
from mbrec.spread import unit_spread
from mbrec.stacking import Known, Part, Stack, learn_stack

USERS, ITEMS = 240, 60
NOTHING = Exclusion(torch.zeros(USERS + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int32))
ACTIVE = torch.randn(USERS, generator=torch.Generator().manual_seed(5))
POPULAR = torch.randn(ITEMS, generator=torch.Generator().manual_seed(6))
KNOWN = Known(users={"activity": ACTIVE}, biases={"popularity": POPULAR})


def part(seed: int) -> Part:
    random = torch.Generator().manual_seed(seed)
    tables = (torch.randn(rows, 4, generator=random) for rows in (USERS, ITEMS))
    return Part(unit_spread(Factors(*tables)))


PARTS = {"first": part(1), "second": part(2)}


def dense(scorer: object) -> torch.Tensor:
    found: torch.Tensor = scorer.scores(torch.arange(USERS), 0, ITEMS)  # type: ignore[attr-defined]
    return found


def best_by(scores: torch.Tensor, count: int = 4) -> Pairs:
    items = scores.topk(count, dim=1).indices.sort(dim=1).values.numpy().astype(np.int32)
    return Pairs(np.repeat(np.arange(USERS, dtype=np.int32), count), items.ravel())


BOTH = best_by(torch.mul(*(dense(part.scorer) for part in PARTS.values())))
"""What both parts like, or neither does: no sum of them says so."""


def learned(rows: Pairs, hidden: int, known: Known = KNOWN) -> Stack:
    return learn_stack(PARTS, known, rows, NOTHING, metric="ndcg", k=5, hidden=hidden).stack


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "FEWEST", 100)
    # Few users, so many steps for each of them.
    monkeypatch.setattr(correction, "_BATCH", 16)
    monkeypatch.setattr(correction, "_PASSES", 12)


def pool(rows: Pairs) -> Candidates:
    scorers = [part.scorer for part in PARTS.values()]
    return find_candidates(scorers, rows, NOTHING, depth=20, others=10, most_users=USERS)


def test_what_parts_say_together_is_learned() -> None:
    plain, corrected = learned(BOTH, 0), learned(BOTH, 8)
    assert not plain.network
    assert len(corrected.network["last"]) == 8
    assert corrected.cross_fitted > plain.cross_fitted + 0.05
    assert corrected.weights == plain.weights
    assert Stack.of(corrected.plain()) == corrected
    assert learned(BOTH, 8) == corrected


def test_a_network_that_makes_lists_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> Correction:
        network = fit_correction(*given)
        return replace(network, last=-network.last)

    monkeypatch.setattr(stacking, "fit_correction", wrong)
    assert learned(BOTH, 8) == learned(BOTH, 0)


def test_every_fold_has_a_network_of_its_own() -> None:
    found = learn_stack(PARTS, KNOWN, BOTH, NOTHING, metric="ndcg", k=5, hidden=8)
    networks = [fold.network["last"] for fold in (found.stack, *found.folds)]
    assert all(a != b for n, a in enumerate(networks) for b in networks[:n])
    scores = dense(found.cross_fitted(PARTS, KNOWN))
    for number, fold in enumerate(found.folds):
        mine = torch.arange(USERS) % len(found.folds) == number
        expected = dense(fold.scorer(PARTS, KNOWN))[mine]
        torch.testing.assert_close(scores[mine], expected, atol=1e-5, rtol=1e-5)


def test_a_few_users_teach_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "FEWEST", USERS + 1)
    assert not learned(BOTH, 8).network


@pytest.mark.parametrize("known", [KNOWN, Known()])
def test_the_scorer_is_the_formula(known: Known) -> None:
    stack = learned(BOTH, 8, known)
    scorer = stack.scorer(PARTS, known)
    assert isinstance(scorer, Network)
    # The formula of the module's docstring, in NumPy.
    weights = {name: np.array(values) for name, values in stack.network.items()}
    planes = np.stack([dense(part.scorer).double().numpy() for part in PARTS.values()], -1)
    x = np.clip((planes - weights["center"]) * weights["scale"], -6, 6)
    hidden = x @ weights["weights"] + weights["bias"]
    if known.biases:
        hidden += (POPULAR.double().numpy()[:, None] * weights["item_weights"])[None]
        hidden += (ACTIVE.double().numpy()[:, None] * weights["user_weights"])[:, None]
    expected = np.maximum(hidden, 0) @ weights["last"]
    added = scorer.correction(torch.arange(scorer.num_users), 0, scorer.num_items)
    np.testing.assert_allclose(added.numpy(), expected, atol=1e-4)
    plain = Stack(**{**stack.plain(), "network": {}}).scorer(PARTS, known)
    np.testing.assert_allclose(dense(scorer).numpy(), dense(plain).numpy() + expected, atol=1e-4)


def test_candidates_are_scored_as_all_items_are() -> None:
    mine = pool(BOTH)
    features = POPULAR[None], ACTIVE[None]
    network = fit_correction(mine, torch.zeros(mine.items.shape), *features, hidden=8)
    assert float(network.last.abs().max()) > 0
    parts = [part.scorer for part in PARTS.values()]
    scorer = network.scorer(Sum(tuple(parts), (0.0,) * len(parts)), *features)
    there = mine.items >= 0
    everywhere = dense(scorer)[mine.users].gather(1, mine.items.clamp(min=0))
    torch.testing.assert_close(
        network.scores(mine, *features)[there], everywhere[there], atol=1e-4, rtol=1e-4
    )


def test_gradients_are_those_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction, "_CELLS", 7)
    random = torch.Generator().manual_seed(0)
    base = torch.randn(5, 6, generator=random, dtype=torch.float64)
    held_out = torch.rand(5, 6, generator=random) < 0.4
    there = held_out | (torch.rand(5, 6, generator=random) < 0.6)
    share = torch.rand(5, generator=random, dtype=torch.float64)
    inputs = torch.randn(int(there.sum()), 4, generator=random, dtype=torch.float64)
    layer = _Layer(
        torch.randn(4, 3, generator=random, dtype=torch.float64),
        torch.randn(3, generator=random, dtype=torch.float64),
    )

    def scores(added: torch.Tensor) -> torch.Tensor:
        found = base.masked_fill(~there, -torch.inf)
        found[there] = found[there] + added
        return found

    logs = scores(torch.relu(inputs @ layer.maps) @ layer.last).log_softmax(1)
    loss = -(torch.where(held_out, logs, 0.0).sum(1) @ share) / len(share)
    expected = torch.autograd.grad(loss, layer.parameters())
    away = _gradient(scores(layer.scores(inputs)), held_out, share)
    layer.learn(inputs, away[there])
    for weight, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_no_held_out_row_among_the_candidates_teaches_nothing() -> None:
    mine = pool(BOTH)
    mine.held_out.zero_()
    network = fit_correction(
        mine, torch.zeros(mine.items.shape), torch.zeros(0, ITEMS), torch.zeros(0, USERS), 4
    )
    assert float(network.last.abs().max()) == 0
    assert Correction.of(network.plain()).plain() == network.plain()


def test_a_damaged_network_is_refused_before_it_ranks() -> None:
    plain = learned(BOTH, 8).plain()
    for network in ({"last": [1.0]}, {**plain["network"], "more": [1.0]}, {"last": "high"}):
        with pytest.raises(ArtefactError, match="is no stack"):
            Stack.of({**plain, "network": network})
