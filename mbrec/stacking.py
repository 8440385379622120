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

    L = -1/n Σ_u 1/√n_u Σ_{i ∈ H_u} ln( e^ŷ(u,i) / Σ_{j ∈ C_u} e^ŷ(u,j) ) + c/m ‖θ - θ_0‖²

with H_u the n_u held-out rows of user u that are among her candidates, n = Σ_u √n_u the sum of the
rows' weights, m the number of users who have such a row and θ_0 the prior weights of the parts. It
is convex, and uses every such row, where a search for the best NDCG@K sees those alone that come
near the first K places: on JD, that chose weights which were worth a tenth less to other users.

A likelihood has to answer for all of a user's rows, a list for its first places. Who buys out of
her cart does so often, but most purchases come from elsewhere, so the items of the cart get less
weight than the first places of a list want to give them. The weights of parts that say what a user
did are therefore tried at other values, and changed where that raises the metric by more than a
standard error of the users' paired differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrec.candidates import Candidates, find_candidates
from mbrec.correction import Correction, fit_correction
from mbrec.cross_fitting import CrossFitted, folds
from mbrec.errors import ArtefactError
from mbrec.graph import Pairs
from mbrec.logit import Vector, adjusted, beyond_noise, in_blocks, likeliest
from mbrec.ranking import Exclusion
from mbrec.scoring import Factors, Scorer, Sum, Weighted

POPULARITY = "popularity"  # the part of a stack that holds all biases
FEWEST = 1000  # users who teach a network
_DEPTH, _OTHERS = 60, 50
_MOST_USERS = 1 << 13
_CELLS = 1 << 26  # scores of candidates, 4 bytes each

Slopes = dict[str, dict[str, float]]  # part or bias → feature → slope


@dataclass(frozen=True)
class Part:
    """A scorer that is to join a stack."""

    scorer: Scorer  # of unit spread, if it is to be compared with others
    prior: float = 0.0  # its weight before any held-out row has spoken
    varies: bool = False  # whether its weight depends on the features of items and users

    def __post_init__(self) -> None:
        if isinstance(self.scorer, Weighted):  # a network would read what is weighted instead
            raise TypeError("a part of a stack must not be weighted already")


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
    """What was learned for one behavior, from all users or without some."""

    weights: dict[str, float]  # part → w_p
    by_item: Slopes  # part → feature → v_pq
    by_user: Slopes  # part → feature → a_pr
    biases: dict[str, float]  # bias → c_j
    biases_by_user: Slopes  # bias → feature → d_jr
    value: float = float("nan")  # the metric, on the rows that it was learned from
    prior: float = float("nan")  # by the prior weights alone
    cross_fitted: float = float("nan")  # each fifth of the users ranked by what the others taught
    network: dict[str, Any] = field(default_factory=dict)  # what `Correction.plain` gives, or empty

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Stack:
        """What `plain` gave.

        Raises:
            ArtefactError: It is something else, of an earlier release, say.
        """
        try:
            found = cls(**plain)
            if found.network:
                Correction.of(found.network)
            return found
        except (TypeError, ValueError, KeyError) as error:
            raise ArtefactError(
                f"What the parts of a run count is no stack ({error}).", "Train that run again."
            ) from error

    def plain(self) -> dict[str, Any]:
        """Plain values, for `run.json`."""
        return asdict(self)

    def scorer(self, parts: Mapping[str, Part], known: Known) -> Scorer:
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
        total = Sum(tuple(scorers), tuple(weights))
        if not self.network:
            return total
        features = _features(known, total.num_items, total.num_users)
        return Correction.of(self.network).scorer(total, *features)

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
        biases = _table(known.biases, like.num_items)
        rows = [[c, *self.biases_by_user.get(name, {}).values()] for name, c in self.biases.items()]
        learned = next(iter(self.biases_by_user.values()), {})
        users = _table({name: known.users[name] for name in learned}, like.num_users)
        everyone = torch.cat([torch.ones(1, like.num_users), users])
        return Factors(everyone.T.contiguous(), biases.T @ torch.tensor(rows)).to(like.device)


@dataclass(frozen=True)
class Learned:
    """What all users have taught, and what is learned without each fold of them."""

    stack: Stack
    folds: tuple[Stack, ...]

    def cross_fitted(self, parts: Mapping[str, Part], known: Known) -> CrossFitted:
        """What ranks the rows that it was learned from: see `Stack.scorer`."""
        return CrossFitted(tuple(stack.scorer(parts, known) for stack in self.folds))


def learn_stack(
    parts: Mapping[str, Part],
    known: Known,
    held_out: Pairs,
    exclude: Exclusion,
    *,
    metric: str,
    k: int,
    hidden: int = 0,
) -> Learned:
    """Learn the weights of one behavior.

    Args:
        parts: Name → part.
        known: What the weights may depend on, and what has a weight of its own.
        held_out: The validation rows of the behavior, sorted by user, then item; not empty.
        exclude: Items that are not ranked, those of training.
        metric: Of `mbrec.metrics`, for what is reported, e.g. "ndcg".
        k: Its list length.
        hidden: Units of a network that corrects the stack (`mbrec.correction`), where there are
            `FEWEST` users to learn it from and others get better lists by it; 0: none.

    Whether the weights depend on the user, too, is chosen by the cross-fitted metric: it makes some
    lists better, and others worse. That choice makes `cross_fitted` itself a little too good.

    Memory: the pool has about 8,192 users or 2²⁶ scores of 4 bytes (256 MiB), whatever is less;
    parts that are `Sparse` add as many candidates as they store. It is there twice while it is
    gathered (see `find_candidates`), and four fifths of it once more while it is cross-fitted.
    """
    width = _OTHERS + _DEPTH * (len(parts) + len(known.leading))
    pool = find_candidates(
        [part.scorer for part in parts.values()],
        held_out,
        exclude,
        depth=max(_DEPTH, 4 * k),
        others=_OTHERS,
        most_users=max(min(_MOST_USERS, _CELLS // (width * len(parts))), 1),
        also=[known.biases[name] for name in known.leading],
    )
    found = [_weights(_Design(parts, replace(known, users={})), pool, metric, k)]
    if known.users:
        found.append(_weights(_Design(parts, known), pool, metric, k))
    best = max(found, key=lambda weights: weights.stack.cross_fitted)
    if not hidden or len(pool.items) < FEWEST:
        return best.learned()
    like = next(iter(parts.values())).scorer
    features = _features(known, like.num_items, like.num_users)
    return _corrected(best, pool, features, hidden, metric, k)


@dataclass(frozen=True)
class _Weights:
    """What was learned as numbers, without a network."""

    stack: Stack
    design: _Design
    theta: Vector
    folds: list[Vector]  # θ of all users but those of the fold
    crossed: Tensor  # (N, W), the scores of every user by what others taught

    def learned(self) -> Learned:
        """The same by name."""
        return Learned(self.stack, tuple(self.design.stack(theta) for theta in self.folds))


def _corrected(
    found: _Weights,
    pool: Candidates,
    features: tuple[Tensor, Tensor],
    hidden: int,
    metric: str,
    k: int,
) -> Learned:
    """The stack with a network, cross-fitted as the stack was; or as it is.

    The network is kept if the lists of users whom it was not learned from are better by more than a
    standard error of the users' paired differences.
    """

    def fitted(theta: Vector, teachers: Candidates, asked: Candidates) -> tuple[Correction, Tensor]:
        """The network that some users teach, and its scores of the candidates of others."""
        base = found.design.scores(teachers, theta)
        network = fit_correction(teachers, base, *features, hidden)
        return network, found.design.scores(asked, theta) + network.scores(asked, *features)

    crossed, networks = torch.empty(pool.items.shape), []
    for (others, mine), theta in zip(folds(pool.users.numpy()), found.folds, strict=True):
        network, crossed[mine] = fitted(theta, pool.of(others), pool.of(mine))
        networks.append(network.plain())
    after, before = (pool.metric(scores, (k,), metric) for scores in (crossed, found.crossed))
    bare = found.learned()
    if not beyond_noise(after - before):
        return bare
    network, scores = fitted(found.theta, pool, pool)
    stack = replace(
        bare.stack,
        network=network.plain(),
        value=pool.mean(pool.metric(scores, (k,), metric)),
        cross_fitted=pool.mean(after),
    )
    with_networks = zip(bare.folds, networks, strict=True)
    return Learned(stack, tuple(replace(fold, network=plain) for fold, plain in with_networks))


def _weights(design: _Design, pool: Candidates, metric: str, k: int) -> _Weights:
    def value(scores: Tensor) -> float:
        """The mean over users of the metric of their lists."""
        return pool.mean(pool.metric(scores, (k,), metric))

    def likely(mine: Candidates, start: Vector | None = None) -> Vector:
        """The most likely θ to some candidates."""
        planes = partial(design.planes, mine)
        return likeliest(planes, mine.held_out, mine.items < 0, design.prior, start)

    def listed(mine: Candidates, theta: Vector) -> Vector:
        """θ, adjusted to lists."""
        scores = design.scores(mine, theta)
        return adjusted(mine, scores, theta, design.steady, (k, 4 * k), metric)

    of_all = likely(pool)
    theta = listed(pool, of_all)
    crossed, without = torch.empty(pool.items.shape), []
    for others, mine in folds(pool.users.numpy()):
        teachers = pool.of(others)
        without.append(listed(teachers, likely(teachers, of_all)))
        crossed[mine] = design.scores(pool.of(mine), without[-1])
    stack = replace(
        design.stack(theta),
        value=value(design.scores(pool, theta)),
        prior=value(design.scores(pool, design.prior)),
        cross_fitted=value(crossed),
    )
    return _Weights(stack, design, theta, without, crossed)


class _Design:
    """Which number of a vector θ is which weight: w of all parts, then v, a, c and d."""

    def __init__(self, parts: Mapping[str, Part], known: Known) -> None:
        self._parts, self._known = list(parts), known
        self._varying = [place for place, part in enumerate(parts.values()) if part.varies]
        self.steady = [place for place, part in enumerate(parts.values()) if not part.varies]
        like = next(iter(parts.values())).scorer
        self._items = _table(known.items, like.num_items)
        self._biases = _table(known.biases, like.num_items)
        self._users = _table(known.users, like.num_users)
        varying, biases = len(self._varying), len(known.biases)
        self._sizes = [
            len(parts),
            varying * len(known.items),
            varying * len(known.users),
            biases,
            biases * len(known.users),
        ]
        slopes = sum(self._sizes[1:])
        self.prior = np.array([part.prior for part in parts.values()] + [0.0] * slopes)

    def planes(self, pool: Candidates, block: slice) -> Tensor:
        """What θ is multiplied by, of the candidates of some users: (F, n, W) float32."""
        # What stands where there is no candidate counts nowhere.
        place = pool.items[block].clamp(min=0)
        scores = pool.scores[:, block]
        items, biases = self._items[:, place], self._biases[:, place]
        users = self._users[:, pool.users[block], None]
        varying = scores[self._varying]
        found = torch.empty(len(self.prior), *place.shape)
        parts, by_item, by_user, plain, of_biases = torch.split(found, self._sizes)
        parts.copy_(scores)
        plain.copy_(biases)
        for left, right, into in (
            (varying, items, by_item),
            (varying, users, by_user),
            (biases, users, of_biases),
        ):
            torch.mul(
                left[:, None], right[None], out=into.view(len(left), len(right), *place.shape)
            )
        return found

    def scores(self, pool: Candidates, theta: Vector) -> Tensor:
        """The scores of all candidates by θ. (N, W)."""
        weights = torch.from_numpy(theta).float()
        found = torch.empty(pool.items.shape)
        for block in in_blocks(len(found)):
            found[block] = torch.tensordot(weights, self.planes(pool, block), 1)
        return found

    def stack(self, theta: Vector) -> Stack:
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
        )


def _features(known: Known, num_items: int, num_users: int) -> tuple[Tensor, Tensor]:
    """What a network reads beside the parts: biases of items (J, I), activities of users (R, U)."""
    return _table(known.biases, num_items), _table(known.users, num_users)


def _table(columns: Mapping[str, Tensor], length: int) -> Tensor:
    """The columns as rows. (columns, length) float32."""
    given = [column.cpu().float() for column in columns.values()]
    return torch.stack(given) if given else torch.zeros(0, length)
