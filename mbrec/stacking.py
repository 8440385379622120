"""Stacking: what each of several scorers counts, learned from held-out rows.

Feature-weighted linear stacking (Sill et al., arXiv 0911.0460): the weight of a part is a linear
function of what is known of the item, its popularity in each behavior,

    ŷ(u, i) = Σ_p (w_p + Σ_q v_pq x_q(i)) s_p(u, i) + Σ_j c_j b_j(i)

with parts s_p of unit spread, features x_q and biases b_j of the items. So a part may count more
for items that many have bought, and less where clicks alone speak for an item.

The weights θ = (w, v, c) are those of the largest penalized likelihood of the held-out rows in a
softmax over each user's candidates C_u (a conditional logit; ListNet, Cao et al., ICML 2007):

    L = -1/n Σ_u 1/√n_u Σ_{i held out} ln( e^ŷ(u,i) / Σ_{j ∈ C_u} e^ŷ(u,j) ) + c/n ‖θ - θ_0‖²

with n_u rows of user u, n their weights' sum and θ_0 the prior weights of the parts. It is convex,
and uses every held-out row, where a search for the best NDCG@K sees those alone that come near the
first K places: on JD, that chose weights which were worth a tenth less to other users.

A likelihood has to answer for all of a user's rows, a list for its first places. Who buys out of
her cart does so often, but most purchases come from elsewhere, so the items of the cart get less
weight than the first places of a list want to give them. The weights of parts that say what a user
did are therefore tried at other values, and changed where that raises the metric by more than a
standard error of the users' paired differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from mbrec.candidates import Candidates, find_candidates
from mbrec.errors import ArtefactError
from mbrec.graph import Pairs
from mbrec.ranking import Exclusion
from mbrec.scoring import ByItem, Factors, Scorer, Sum

POPULARITY = "popularity"  # the part of a stack that holds all biases
PENALTY = 2.0  # c: on JD, values from 1 to 100 gave much the same
FOLDS = 5
_DEPTH, _OTHERS = 60, 50
_STEPS = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)  # tried around a weight, in units of scores
_ROUNDS = 3
_MOST_USERS = 1 << 13
_CELLS = 1 << 26  # numbers of the design matrix, 4 bytes each

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """A scorer that is to join a stack."""

    scorer: Scorer  # of unit spread, if it is to be compared with others
    prior: float = 0.0  # its weight before any held-out row has spoken
    by_item: bool = False  # whether its weight depends on the features of the item


@dataclass(frozen=True)
class Stack:
    """What was learned for one behavior."""

    weights: dict[str, float]  # part → w_p
    by_item: dict[str, dict[str, float]]  # part → feature → v_pq
    biases: dict[str, float]  # bias → c_j
    value: float = float("nan")  # the metric, on the rows that it was learned from
    prior: float = float("nan")  # by the prior weights alone
    cross_fitted: float = float("nan")  # each fifth of the users ranked by what the others taught

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Stack:
        """What `plain` gave.

        Raises:
            ArtefactError: It is something else, of an earlier release, say.
        """
        try:
            return cls(**plain)
        except TypeError as error:
            raise ArtefactError(
                f"What the parts of a run count is no stack ({error}).", "Train that run again."
            ) from error

    def plain(self) -> dict[str, Any]:
        """Plain values, for `run.json`."""
        return asdict(self)

    def scorer(
        self,
        parts: Mapping[str, Part],
        features: Mapping[str, Tensor],
        biases: Mapping[str, Tensor],
    ) -> Sum:
        """The stack as one scorer: its parts in the order of `weights`, then `POPULARITY`.

        Args:
            parts: Those it was learned with, or the same made anew.
            features: Feature → x_q (I,).
            biases: Bias → b_j (I,).
        """
        scorers: list[Scorer] = []
        for name, weight in self.weights.items():
            inner = parts[name].scorer
            slopes = self.by_item.get(name)
            if not slopes:
                scorers.append(inner)
                continue
            factor = torch.full((inner.num_items,), weight, device=inner.device)
            for feature, slope in slopes.items():
                factor += slope * features[feature].to(inner.device)
            scorers.append(ByItem(inner, factor))
        weights = [1.0 if self.by_item.get(n) else w for n, w in self.weights.items()]
        if self.biases:
            first = scorers[0]
            total = sum(c * biases[name].to(first.device) for name, c in self.biases.items())
            assert isinstance(total, Tensor)
            everyone = torch.ones(first.num_users, 1, device=first.device)
            scorers.append(Factors(everyone, total.unsqueeze(1)))
            weights.append(1.0)
        return Sum(tuple(scorers), tuple(weights))


def learn_stack(
    parts: Mapping[str, Part],
    features: Mapping[str, Tensor],
    biases: Mapping[str, Tensor],
    held_out: Pairs,
    exclude: Exclusion,
    *,
    metric: str,
    k: int,
) -> Stack:
    """Learn the weights of one behavior.

    Args:
        parts: Name → part.
        features: Feature → x_q (I,), of about unit spread.
        biases: Bias → b_j (I,), likewise.
        held_out: The validation rows of the behavior, sorted by user, then item; not empty.
        exclude: Items that are not ranked, those of training.
        metric: Of `mbrec.metrics`, for what is reported, e.g. "ndcg".
        k: Its list length.

    Cost: 4 bytes per user, candidate and weight, for up to 8,192 users.
    """
    design = _Design(parts, features, biases)
    width = _OTHERS + _DEPTH * len(parts)
    pool = find_candidates(
        [part.scorer for part in parts.values()],
        held_out,
        exclude,
        depth=max(_DEPTH, 4 * k),
        others=_OTHERS,
        most_users=max(min(_MOST_USERS, _CELLS // (width * len(design.prior))), 1),
    )
    matrix = design.matrix(pool)
    everyone = np.arange(len(pool.items))

    def value(theta: Vector, users: npt.NDArray[np.int64]) -> float:
        scores = matrix[torch.from_numpy(users)] @ torch.from_numpy(theta).float()
        return float(pool.of(users).metric(scores, (k,), metric).sum())

    missing = pool.items < 0
    plain = [place for place, part in enumerate(parts.values()) if not part.by_item]

    def learned(users: npt.NDArray[np.int64]) -> Vector:
        rows = torch.from_numpy(users)
        theta = _fit(matrix[rows], pool.held_out[rows], missing[rows], design.prior)
        return _adjusted(pool.of(users), matrix[rows], theta, plain, (k, 4 * k), metric)

    theta = learned(everyone)
    crossed = 0.0
    for fold in range(FOLDS):
        mine = everyone % FOLDS == fold
        crossed += value(learned(everyone[~mine]), everyone[mine]) if mine.any() else 0.0
    count = len(everyone)
    return design.stack(
        theta,
        value=value(theta, everyone) / count,
        prior=value(design.prior, everyone) / count,
        cross_fitted=crossed / count,
    )


class _Design:
    """Which number of a vector θ is which weight: w of all parts, then v, then c."""

    def __init__(
        self,
        parts: Mapping[str, Part],
        features: Mapping[str, Tensor],
        biases: Mapping[str, Tensor],
    ) -> None:
        self.parts, self.features, self.biases = list(parts), list(features), list(biases)
        self.scaled = [name for name, part in parts.items() if part.by_item]
        self._tables = _table(features.values()), _table(biases.values())
        slopes = len(self.scaled) * len(self.features) + len(self.biases)
        self.prior = np.array([part.prior for part in parts.values()] + [0.0] * slopes)

    def matrix(self, pool: Candidates) -> Tensor:
        """What θ is multiplied by: (N, W, F) float32."""
        place = pool.items.clamp(min=0)
        known = (pool.items >= 0).unsqueeze(2)
        features, biases = (table[place] * known for table in self._tables)
        columns = [self.parts.index(name) for name in self.scaled]
        slopes = pool.scores[:, :, columns].unsqueeze(3) * features.unsqueeze(2)
        return torch.cat([pool.scores, slopes.flatten(2), biases], dim=2)

    def stack(self, theta: Vector, **figures: float) -> Stack:
        """θ by name."""
        left = iter(float(number) for number in theta)
        weights = {name: next(left) for name in self.parts}
        by_item = {name: {q: next(left) for q in self.features} for name in self.scaled}
        return Stack(weights, by_item, {name: next(left) for name in self.biases}, **figures)


def _table(columns: Iterable[Tensor]) -> Tensor:
    given = [column.cpu().float() for column in columns]
    return torch.stack(given, dim=1) if given else torch.zeros(1, 0)


def _fit(matrix: Tensor, held_out: Tensor, missing: Tensor, prior: Vector) -> Vector:
    """θ of the smallest L, by Newton steps within a trust region.

    Args:
        matrix: (N, W, F).
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


def _adjusted(
    pool: Candidates,
    matrix: Tensor,
    theta: Vector,
    columns: Sequence[int],
    ks: Sequence[int],
    metric: str,
) -> Vector:
    """θ with some of its weights moved to where the lists are better beyond the users' noise."""
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
