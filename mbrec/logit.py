"""The weights of a conditional logit: which of its candidates a user takes.

`likeliest` maximizes the likelihood of what is held out; `adjusted` moves single weights to where
the lists are better. What they are for: see `mbrec.stacking`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from mbrec.candidates import Candidates

PENALTY = 2.0  # c: on JD, values from 1 to 100 gave much the same
_STEPS = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)  # tried around a weight, in units of scores
_ROUNDS = 3
_NEAR = 5  # plain Newton steps before a start is given up
_BLOCK = 32  # users at a time
_GRADIENT = 1e-4  # its norm at the end; sums in float32 cannot tell much less from 0

Vector = npt.NDArray[np.float64]


def likeliest(
    planes: Callable[[slice], Tensor],
    held_out: Tensor,
    missing: Tensor,
    prior: Vector,
    start: Vector | None = None,
) -> Vector:
    """θ of the smallest L, by Newton steps, within a trust region unless they begin near it.

    Args:
        planes: Some of the users → what θ is multiplied by, of their candidates. (F, n, W).
        held_out: (N, W) bool.
        missing: (N, W) bool, where there is no candidate.
        prior: θ_0 (F,).
        start: A θ that is near, that of almost the same users, say. The minimum is one, wherever
            the search begins.
    """
    counts = held_out.sum(1)
    teaching = counts > 0  # who has no held-out row among the candidates teaches nothing
    if not bool(teaching.any()):
        return prior
    weight = torch.where(teaching, counts.clamp(min=1).rsqrt(), 0.0)  # of each row of a user
    mass = weight * counts
    total, penalty = float(mass.sum()), PENALTY / int(teaching.sum())

    def softmax(block: slice, mine: Tensor, theta: Vector) -> tuple[Tensor, Tensor]:
        """The shares of each user's candidates times her mass, and the sum of her logarithms."""
        scores = torch.tensordot(torch.from_numpy(theta).float(), mine, 1)
        scores = scores.masked_fill_(missing[block], -torch.inf)
        logs = torch.where(teaching[block], torch.logsumexp(scores, 1), 0.0)
        shares = torch.softmax(scores, 1).nan_to_num_()  # NaN: a user without candidates
        return shares * mass[block, None], mass[block] @ logs

    def summed(of: Callable[[slice, Tensor], Tensor]) -> npt.NDArray[np.float64]:
        """The sum over all blocks of users, per unit of mass."""
        found: npt.NDArray[np.float64] = sum(
            (of(block, planes(block)).double() for block in in_blocks(len(counts))),
            torch.zeros((), dtype=torch.float64),
        ).numpy()
        return found / total

    chosen = summed(lambda b, mine: _summed(held_out[b] * weight[b, None], mine))

    def objective(theta: Vector) -> tuple[float, Vector]:
        """L, and its gradient (F,)."""

        def terms(block: slice, mine: Tensor) -> Tensor:
            """A sum of logarithms, and the expected planes. (1 + F,)."""
            shares, log = softmax(block, mine, theta)
            return torch.cat([log[None], _summed(shares, mine)])

        log, *expected = summed(terms)
        away = theta - prior
        loss = log - float(chosen @ theta) + penalty * float(away @ away)
        return loss, np.array(expected) - chosen + 2 * penalty * away

    def curvature(theta: Vector) -> npt.NDArray[np.float64]:
        """The second derivatives of L. (F, F)."""

        def spread(block: slice, mine: Tensor) -> Tensor:
            """The covariance of the planes, summed over a block of users. (F, F)."""
            shares, _ = softmax(block, mine, theta)
            weighted = shares * mine
            means = weighted.sum(2)  # times the user's mass
            second = weighted.flatten(1) @ mine.flatten(1).T
            return second - means / mass[block].clamp(min=1e-30) @ means.T

        return summed(spread) + 2 * penalty * np.eye(len(theta))

    def finished(theta: Vector) -> tuple[Vector, bool]:
        """θ after plain Newton steps, and whether they have ended at the minimum."""
        # Near the minimum, the loss is lost in rounding, and a trust region with it. Gradients are
        # not, and plain Newton steps need nothing else.
        for _ in range(_NEAR):
            gradient = objective(theta)[1]
            if np.linalg.norm(gradient) < _GRADIENT:
                return theta, True
            theta = theta - np.linalg.solve(curvature(theta), gradient)
        return theta, False

    if start is not None:
        theta, done = finished(start)
        if done:
            return theta
    searched = optimize.minimize(
        objective,
        prior,
        jac=True,
        hess=curvature,
        method="trust-exact",
        options={"gtol": _GRADIENT},
    )
    theta, done = finished(searched.x)
    return theta if done else searched.x


def adjusted(
    pool: Candidates,
    scores: Tensor,
    theta: Vector,
    parts: Sequence[int],
    ks: Sequence[int],
    metric: str,
) -> Vector:
    """θ with the weights of some parts moved to where the lists are better beyond users' noise.

    Args:
        pool: The candidates.
        scores: Theirs by θ. (N, W).
        theta: θ (F,); first come the weights of the parts.
        parts: Which of them may move.
        ks: Lengths of the lists.
        metric: Of `mbrec.metrics`.
    """
    theta, scores = theta.copy(), scores.clone()
    best = pool.metric(scores, ks, metric)
    bare = replace(pool, scores=pool.scores[:0])
    touched: dict[int, tuple[npt.NDArray[np.int64], Candidates, Tensor]] = {}
    for part in parts:  # most are of what few users did: the lists of the others stay
        users = pool.scores[part].any(1).nonzero()[:, 0].numpy()
        touched[part] = users, bare.of(users), pool.scores[part, users]
    for _ in range(_ROUNDS):
        before = theta.copy()
        for part, (users, theirs, plane) in touched.items():
            for step in _STEPS:
                tried = torch.add(scores[users], plane, alpha=step)
                gain = theirs.metric(tried, ks, metric) - best[users]
                if beyond_noise(gain):
                    scores[users], best[users] = tried, best[users] + gain
                    theta[part] += step
        if np.array_equal(theta, before):
            break
    return theta


def beyond_noise(gains: npt.NDArray[np.float64]) -> bool:
    """Whether the sum of users' gains is more than its standard error, were its expectation 0.

    Users without a gain change nothing.
    """
    return bool(gains.sum() > np.sqrt(np.square(gains).sum()))


def in_blocks(users: int) -> Iterator[slice]:
    """All users, as many at a time as the cache holds the rows of."""
    return (slice(first, first + _BLOCK) for first in range(0, users, _BLOCK))


def _summed(weights: Tensor, planes: Tensor) -> Tensor:
    """Σ over users and candidates of weight · plane: (n, W), (F, n, W) → (F,)."""
    return planes.flatten(1) @ weights.flatten()
