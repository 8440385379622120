"""The weights of a conditional logit: which of its candidates a user takes.

`likeliest` maximizes the likelihood of what is held out; `adjusted` moves single weights to where
the lists are better. What they are for: see `mbrec.stacking`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from mbrec.candidates import Candidates

PENALTY = 2.0  # c: on JD, values from 1 to 100 gave much the same
_STEPS = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)  # tried around a weight, in units of scores
_ROUNDS = 3
_BLOCK = 32  # users at a time, whose candidates are in the cache then

Vector = npt.NDArray[np.float64]


def likeliest(
    matrix: Tensor, held_out: Tensor, missing: Tensor, prior: Vector, start: Vector | None = None
) -> Vector:
    """θ of the smallest L, by Newton steps within a trust region.

    Args:
        matrix: What θ is multiplied by, of every candidate of every user. (N, W, F).
        held_out: (N, W) bool.
        missing: (N, W) bool, where there is no candidate.
        prior: θ_0 (F,).
        start: Where to begin (F,), by default θ_0. There is one answer, but near it few steps are
            left.
    """
    counts = held_out.sum(1)
    kept = counts > 0  # who has no held-out row among the candidates teaches nothing
    if not bool(kept.any()):
        return prior
    if not bool(kept.all()):
        matrix, held_out, missing, counts = (a[kept] for a in (matrix, held_out, missing, counts))
    weight = counts.rsqrt()  # of each row of a user
    total = float((weight * counts).sum())
    penalty = PENALTY / len(matrix)
    blocks = [slice(first, first + _BLOCK) for first in range(0, len(matrix), _BLOCK)]

    def shares(block: slice, theta: Vector) -> tuple[Tensor, Tensor]:
        """The softmax of each user times her weight (n, W), and the sum of her logarithms."""
        scores = matrix[block] @ torch.from_numpy(theta).float()
        scores = scores.masked_fill_(missing[block], -torch.inf)
        mass = (weight * counts)[block]
        return torch.softmax(scores, 1) * mass[:, None], mass @ torch.logsumexp(scores, 1)

    def summed(of: Callable[[slice], Tensor]) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = sum(of(block).double().numpy() for block in blocks) / total
        return found

    chosen = summed(lambda b: _summed(held_out[b] * weight[b, None], matrix[b]))

    def objective(theta: Vector) -> tuple[float, Vector]:
        def terms(block: slice) -> Tensor:
            share, log = shares(block, theta)
            return torch.cat([log[None], _summed(share, matrix[block])])

        log, *expected = summed(terms)
        away = theta - prior
        loss = log - float(chosen @ theta) + penalty * float(away @ away)
        return loss, np.array(expected) - chosen + 2 * penalty * away

    def curvature(theta: Vector) -> npt.NDArray[np.float64]:
        def spread(block: slice) -> Tensor:
            share, _ = shares(block, theta)
            mine = matrix[block]
            means = torch.bmm(share.unsqueeze(1), mine).squeeze(1)  # times the user's weight
            second = mine.flatten(0, 1).T @ (share.unsqueeze(2) * mine).flatten(0, 1)
            return second - means.T @ (means / (weight * counts)[block, None])

        return summed(spread) + 2 * penalty * np.eye(len(theta))

    result = optimize.minimize(
        objective,
        prior if start is None else start,
        jac=True,
        hess=curvature,
        method="trust-exact",
        options={"gtol": 1e-5},
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


def _summed(weights: Tensor, matrix: Tensor) -> Tensor:
    """Σ over users and candidates of weight · row: (n, W), (n, W, F) → (F,)."""
    return weights.flatten() @ matrix.flatten(0, 1)
