"""Stacking: what each of several scorers counts, learned from held-out rows.

Feature-weighted linear stacking (Sill et al., arXiv 0911.0460): the weight of a part is a linear
function of what is known of the item, its popularity in each behavior, and of the user, how much
she has done of each; so is the weight of a bias, of the user alone,

    ŷ(u, i) = Σ_p (w_p + Σ_q v_pq x_q(i) + Σ_r a_pr z_r(u)) s_p(u, i)
            + Σ_j (c_j + Σ_r d_jr z_r(u)) b_j(i)

with parts s_p of unit spread, features x_q of the items and z_r of the users, and biases b_j of the
items. So a part may count more for items that many have bought, and less where clicks alone speak
for an item; who has done little gets more of what is popular.

The weights θ = (w, v, a, c, d) are those of the largest penalized likelihood of the held-out rows
in a softmax over each user's candidates C_u (a conditional logit; ListNet, Cao et al., ICML 2007):

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

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mbrec.candidates import Candidates, find_candidates
from mbrec.errors import ArtefactError
from mbrec.graph import Pairs
from mbrec.logit import Vector, adjusted, likeliest
from mbrec.ranking import Exclusion
from mbrec.scoring import Factors, Scorer, Sum, Weighted

POPULARITY = "popularity"  # the part of a stack that holds all biases
FOLDS = 5
_DEPTH, _OTHERS = 60, 50
_MOST_USERS = 1 << 13
_CELLS = 1 << 27  # numbers of the design matrix, 4 bytes each

Slopes = dict[str, dict[str, float]]  # part or bias → feature → slope


@dataclass(frozen=True)
class Part:
    """A scorer that is to join a stack."""

    scorer: Scorer  # of unit spread, if it is to be compared with others
    prior: float = 0.0  # its weight before any held-out row has spoken
    varies: bool = False  # whether its weight depends on the features of items and users


@dataclass(frozen=True)
class Known:
    """What a stack knows of items and users beside its parts' scores."""

    items: Mapping[str, Tensor] = field(default_factory=dict)  # feature → x_q (I,)
    users: Mapping[str, Tensor] = field(default_factory=dict)  # feature → z_r (U,)
    biases: Mapping[str, Tensor] = field(default_factory=dict)  # bias → b_j (I,)
    # All are of about unit spread.

    leading: tuple[str, ...] = ()
    """Biases whose largest items are candidates of everybody: no part may rank them high, yet the
    stack can, and only who sees them there learns not to."""


@dataclass(frozen=True)
class Stack:
    """What was learned for one behavior."""

    weights: dict[str, float]  # part → w_p
    by_item: Slopes  # part → feature → v_pq
    by_user: Slopes  # part → feature → a_pr
    biases: dict[str, float]  # bias → c_j
    biases_by_user: Slopes  # bias → feature → d_jr
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

    def scorer(self, parts: Mapping[str, Part], known: Known) -> Sum:
        """The stack as one scorer: its parts in the order of `weights`, then `POPULARITY`.

        Args:
            parts: Those it was learned with, or the same made anew.
            known: Likewise.
        """
        scorers = [self._part(name, parts[name].scorer, known) for name in self.weights]
        weights = [1.0 if self.varies(name) else w for name, w in self.weights.items()]
        if self.biases:
            scorers.append(self._popularity(scorers[0], known))
            weights.append(1.0)
        return Sum(tuple(scorers), tuple(weights))

    def varies(self, part: str) -> bool:
        """Whether the weight of a part depends on the item or the user."""
        return bool(self.by_item.get(part) or self.by_user.get(part))

    def _part(self, name: str, inner: Scorer, known: Known) -> Scorer:
        if not self.varies(name):
            return inner
        by_user = torch.full((inner.num_users,), self.weights[name])
        by_item = torch.zeros(inner.num_items)
        for total, features, slopes in (
            (by_user, known.users, self.by_user),
            (by_item, known.items, self.by_item),
        ):
            for feature, slope in slopes.get(name, {}).items():
                total += slope * features[feature].cpu()
        return Weighted(inner, by_user.to(inner.device), by_item.to(inner.device))

    def _popularity(self, like: Scorer, known: Known) -> Factors:
        """Σ_j (c_j + Σ_r d_jr z_r(u)) b_j(i) as the inner product of (1, z(u)) and what is left."""
        users = _rows(known.users, torch.arange(like.num_users))
        biases = _rows(known.biases, torch.arange(like.num_items))
        weights = torch.tensor(
            [[c, *self.biases_by_user.get(name, {}).values()] for name, c in self.biases.items()]
        )
        everyone = torch.cat([torch.ones(like.num_users, 1), users], dim=1)
        return Factors(everyone, biases @ weights).to(like.device)


def learn_stack(
    parts: Mapping[str, Part],
    known: Known,
    held_out: Pairs,
    exclude: Exclusion,
    *,
    metric: str,
    k: int,
) -> Stack:
    """Learn the weights of one behavior.

    Args:
        parts: Name → part.
        known: What the weights may depend on, and what has a weight of its own.
        held_out: The validation rows of the behavior, sorted by user, then item; not empty.
        exclude: Items that are not ranked, those of training.
        metric: Of `mbrec.metrics`, for what is reported, e.g. "ndcg".
        k: Its list length.

    Cost: 4 bytes per user, candidate and weight, for up to 8,192 users.
    """
    design = _Design(parts, known)
    width = _OTHERS + _DEPTH * (len(parts) + len(known.leading))
    pool = find_candidates(
        [part.scorer for part in parts.values()],
        held_out,
        exclude,
        depth=max(_DEPTH, 4 * k),
        others=_OTHERS,
        most_users=max(min(_MOST_USERS, _CELLS // (width * len(design.prior))), 1),
        also=[known.biases[name] for name in known.leading],
    )
    matrix = design.matrix(pool)
    everyone = np.arange(len(pool.items))
    missing = pool.items < 0

    def value(theta: Vector, users: npt.NDArray[np.int64]) -> float:
        scores = matrix[torch.from_numpy(users)] @ torch.from_numpy(theta).float()
        return float(pool.of(users).metric(scores, (k,), metric).sum())

    def learned(users: npt.NDArray[np.int64], near: Vector | None = None) -> Vector:
        rows = torch.from_numpy(users)
        theta = likeliest(matrix[rows], pool.held_out[rows], missing[rows], design.prior, near)
        lengths = (k, 4 * k)
        return adjusted(pool.of(users), matrix[rows], theta, design.steady, lengths, metric)

    theta = learned(everyone)
    crossed = 0.0
    for fold in range(FOLDS):
        mine = everyone % FOLDS == fold
        if mine.any():
            crossed += value(learned(everyone[~mine], theta), everyone[mine])
    count = len(everyone)
    return design.stack(
        theta,
        value=value(theta, everyone) / count,
        prior=value(design.prior, everyone) / count,
        cross_fitted=crossed / count,
    )


class _Design:
    """Which number of a vector θ is which weight: w of all parts, then v, a, c and d."""

    def __init__(self, parts: Mapping[str, Part], known: Known) -> None:
        self._parts, self._known = list(parts), known
        self._varying = [place for place, part in enumerate(parts.values()) if part.varies]
        self.steady = [place for place, part in enumerate(parts.values()) if not part.varies]
        slopes = len(self._varying) * (len(known.items) + len(known.users))
        biases = len(known.biases) * (1 + len(known.users))
        self.prior = np.array([part.prior for part in parts.values()] + [0.0] * (slopes + biases))

    def matrix(self, pool: Candidates) -> Tensor:
        """What θ is multiplied by: (N, W, F) float32."""
        place = pool.items.clamp(min=0)
        there = (pool.items >= 0).unsqueeze(2)
        items = _rows(self._known.items, place) * there
        biases = _rows(self._known.biases, place) * there
        users = _rows(self._known.users, pool.users).unsqueeze(1)
        varying = pool.scores[:, :, self._varying]
        columns = [
            pool.scores,
            _products(varying, items),
            _products(varying, users),
            biases,
            _products(biases, users),
        ]
        return torch.cat(columns, dim=2)

    def stack(self, theta: Vector, **figures: float) -> Stack:
        """θ by name."""
        left = iter(float(number) for number in theta)
        varying = [self._parts[place] for place in self._varying]
        known = self._known

        def slopes(names: Iterable[str], features: Iterable[str]) -> Slopes:
            return {name: {feature: next(left) for feature in features} for name in names}

        return Stack(
            weights={name: next(left) for name in self._parts},
            by_item=slopes(varying, known.items),
            by_user=slopes(varying, known.users),
            biases={name: next(left) for name in known.biases},
            biases_by_user=slopes(known.biases, known.users),
            **figures,
        )


def _rows(columns: Mapping[str, Tensor], index: Tensor) -> Tensor:
    """Those rows of the columns, side by side: (*index, columns) float32."""
    given = [column.cpu().float()[index] for column in columns.values()]
    return torch.stack(given, dim=-1) if given else torch.zeros(*index.shape, 0)


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Every column of one times every column of the other: (N, W, L), (…, R) → (N, W, L · R)."""
    return (left.unsqueeze(3) * right.unsqueeze(2)).flatten(2)
