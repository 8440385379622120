"""If these fail, a stack's weights are not those of the largest likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mbrec import logit
from mbrec.logit import PENALTY, likeliest

USERS, WIDTH, WEIGHTS = 70, 9, 4


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Planes (F, N, W), what is held out and what is missing (N, W)."""
    random = torch.Generator().manual_seed(4)
    planes = torch.randn(WEIGHTS, USERS, WIDTH, generator=random)
    missing = torch.rand(USERS, WIDTH, generator=random) < 0.2
    held_out = (torch.rand(USERS, WIDTH, generator=random) < 0.2) & ~missing
    held_out[:3] = False
    return planes, held_out, missing


def slope(theta: np.ndarray, prior: np.ndarray, rows: Any) -> np.ndarray:
    """The gradient of L, user by user."""
    planes, held_out, missing = (part.numpy() for part in rows)
    total, mass, teaching = np.zeros(WEIGHTS), 0.0, 0
    for user in range(USERS):
        there, mine = ~missing[user], held_out[user]
        if not mine.any():
            continue
        scores = theta @ planes[:, user, there]
        shares = np.exp(scores) / np.exp(scores).sum()
        weight = mine.sum() ** -0.5
        total += weight * (mine.sum() * planes[:, user, there] @ shares)
        total -= weight * planes[:, user, mine].sum(1)
        mass, teaching = mass + weight * mine.sum(), teaching + 1
    return total / mass + 2 * PENALTY / teaching * (theta - prior)


@pytest.mark.parametrize("near", [None, 0.01, 40.0])
def test_the_slope_is_zero_wherever_the_search_began(rows: Any, near: float | None) -> None:
    planes, held_out, missing = rows
    prior = np.array([0.5, 0.0, -0.2, 0.0])
    assert np.linalg.norm(slope(prior, prior, rows)) > 0.01

    def learned(start: np.ndarray | None) -> np.ndarray:
        return likeliest(lambda block: planes[:, block], held_out, missing, prior, start)

    found = learned(None)
    assert np.linalg.norm(slope(found, prior, rows)) < 2e-4
    if near is not None:  # of 40, plain Newton steps do not come back
        again = learned(found + near * np.array([1.0, -1.0, 1.0, -1.0]))
        np.testing.assert_allclose(again, found, atol=5e-3)


def test_a_near_start_needs_no_search(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    planes, held_out, missing = rows
    prior = np.zeros(WEIGHTS)
    found = likeliest(lambda block: planes[:, block], held_out, missing, prior)
    monkeypatch.setattr(logit.optimize, "minimize", None)
    again = likeliest(lambda block: planes[:, block], held_out, missing, prior, found + 0.1)
    np.testing.assert_allclose(again, found, atol=5e-3)
