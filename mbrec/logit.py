"""The weights of a conditional logit: which of its candidates a user takes.

`likeliest` maximizes the likelihood of what is held out; `adjusted` moves single weights to where
the lists are better. What they are for: see `mbrec.stacking`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from mbrec.candidates import Candidates

PENALTY = 2.0  # c: on JD, values from 1 to 100 gave much the same
_STEPS = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)  # tried around a weight, in units of scores
_ROUNDS = 3

Vector = npt.NDArray[np.float64]


def likeliest(matrix: Tensor, held_out: Tensor, missing: Tensor, prior: Vector) -> Vector:
    """θ of the smallest L, by Newton steps within a trust region.

    Args:
        matrix: What θ is multiplied by, of every candidate of every user. (N, W, F).
        held_out: (N, W) bool.
        missing: (N, W) bool, where there is no candidate.
        prior: θ_0 (F,).
    """
    counts = held_out.sum(1)
    kept = counts > 0  # who has no held-out row among the candidates teaches nothing
    if not bool(kept.any()):
        return prior
    matrix, held_out, missing, counts = (a[kept] for a in (matrix, held_out, missing, counts))
    weight = counts.rsqrt()  # of each row of a user
    total = float((weight * counts).sum())
    penalty = PENALTY / len(matrix)
    flat = matrix.flatten(0, 1)
    chosen = ((held_out * weight[:, None]).flatten() @ flat).double().numpy() / total

    def objective(theta: Vector) -> tuple[float, Vector]:
        scores = _scores(matrix, theta, missing)
        logs = torch.logsumexp(scores, dim=1)
        expected = (_shares(scores, weight * counts).flatten() @ flat).double().numpy() / total
        loss = float((weight * counts * logs).sum()) / total - float(chosen @ theta)
        away = theta - prior
        return loss + penalty * float(away @ away), expected - chosen + 2 * penalty * away

    def curvature(theta: Vector) -> npt.NDArray[np.float64]:
        shares = _shares(_scores(matrix, theta, missing), weight * counts)
        means = torch.einsum("nw,nwf->nf", shares, matrix)  # times the user's weight
        second = flat.T @ (shares.flatten()[:, None] * flat)
        spread = second - means.T @ (means / (weight * counts)[:, None])
        found: Vector = spread.double().numpy() / total
        return found + 2 * penalty * np.eye(len(theta))

    result = optimize.minimize(
        objective, prior, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-5}
    )
    theta: Vector = result.x
    return theta


def adjusted(
    pool: Candidates,
    matrix: Tensor,
    theta: Vector,
    columns: Sequence[int],
    ks: Sequence[int],
    metric: str,
) -> Vector:
    """θ with some of its weights moved to where the lists are better beyond the users' noise.

    Args:
        pool: The candidates.
        matrix: What θ is multiplied by. (N, W, F).
        theta: θ (F,).
        columns: Which weights may move.
        ks: Lengths of the lists.
        metric: Of `mbrec.metrics`.
    """
    if not len(pool.items):
        return theta
    theta = theta.copy()
    scores = matrix @ torch.from_numpy(theta).float()
    best = pool.metric(scores, ks, metric)
    for _ in range(_ROUNDS):
        before = theta.copy()
        for column in columns:
            for step in _STEPS:
                tried = scores + step * matrix[:, :, column]
                gain = pool.metric(tried, ks, metric) - best
                if gain.mean() > gain.std() / np.sqrt(len(gain)):
                    scores, best = tried, best + gain
                    theta[column] += step
        if np.array_equal(theta, before):
            break
    return theta


def _scores(matrix: Tensor, theta: Vector, missing: Tensor) -> Tensor:
    scores = matrix @ torch.from_numpy(theta).float()  # (N, W)
    return scores.masked_fill(missing, -torch.inf)


def _shares(scores: Tensor, weights: Tensor) -> Tensor:
    """The softmax of each user, times her weight. (N, W)."""
    return torch.softmax(scores, dim=1) * weights[:, None]
