"""Blends of scorers whose weights are chosen on validation rows.

Scores of different methods have different scales, so each part is first divided by its spread: the
standard deviation of a user's scores over all items. A blend is then

    ŷ(u, i) = ŷ_1(u, i) + Σ_{p>1} w_p ŷ_p(u, i),

the first part with weight 1. Few weights stand against thousands of held-out users, yet the value
they are chosen by is a little too good; `Blend.cross_fitted` is the value where each half of the
users is ranked by the weights that the other half chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mbrec import metrics
from mbrec.graph import Pairs
from mbrec.ranking import Exclusion
from mbrec.scoring import Factors, ItemNeighbors, ItemToItem, Scorer, Sparse, Sum

FloatArray = npt.NDArray[np.float64]

_CELLS = 1 << 24  # scores of one part held at a time
_GAIN = 1e-4  # a weight changes for a value that is better by this much,
_NOISE = 1.0  # and by this many standard errors of the users' paired differences


@dataclass(frozen=True)
class Part:
    """A scorer that may join a blend, with the weights it is tried at (0 is always tried)."""

    scorer: Scorer
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Blend:
    """What was chosen for one behavior."""

    weights: dict[str, float]  # part → weight, 0 for those left out
    value: float  # on the rows that chose it
    first: float  # of the first part alone
    cross_fitted: float


@dataclass(frozen=True)
class Pool:
    """The best items of every part for the held-out users, with the scores of all parts."""

    items: npt.NDArray[np.int64]  # (N, W); -1 where there is none
    values: npt.NDArray[np.float32]  # (parts, N, W)
    relevant: Pairs  # row of `items` and item, sorted

    def value(self, scores: npt.NDArray[np.float32], ks: Sequence[int], metric: str) -> FloatArray:
        """The metric of the ranking by `scores` (N, W), averaged over the lengths. (N,)."""
        scores = np.where(self.items < 0, -np.inf, scores)
        best = torch.from_numpy(scores).topk(min(max(ks), scores.shape[1]), dim=1).indices.numpy()
        found = metrics.per_user(np.take_along_axis(self.items, best, axis=1), self.relevant, ks)
        mean: FloatArray = np.mean([found[f"{metric}@{k}"] for k in ks], axis=0)
        return mean

    def mixed(self, weights: Sequence[float]) -> npt.NDArray[np.float32]:
        """The scores of a blend. (N, W)."""
        return np.tensordot(np.asarray(weights, np.float32), self.values, 1)

    def of_users(self, rows: npt.NDArray[np.int64]) -> Pool:
        """The pool of some of the users, `rows` ascending."""
        place = np.full(len(self.items), -1, np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
        mine = place[self.relevant.user_idx] >= 0
        relevant = Pairs(place[self.relevant.user_idx[mine]], self.relevant.item_idx[mine])
        return Pool(self.items[rows], self.values[:, rows], relevant)


def unit_spread(scorer: Scorer) -> Scorer:
    """The same rankings, with scores whose standard deviation over the items is 1 for every user.

    Users whose scores are all equal keep them.
    """
    spread = _spread(scorer)
    return rescaled(scorer, torch.where(spread > 0, 1 / spread.clamp(min=1e-30), 1.0))


def rescaled(scorer: Scorer, factor: Tensor) -> Scorer:
    """The scorer with every user's scores multiplied by her factor (U,)."""
    if isinstance(scorer, Factors):
        return Factors(scorer.user_emb * factor[:, None], scorer.item_emb)
    if isinstance(scorer, Sparse):
        return _rescaled_rows(scorer, factor)
    if isinstance(scorer, (ItemToItem, ItemNeighbors)):
        return replace(scorer, history=_rescaled_rows(scorer.history, factor))
    if isinstance(scorer, Sum):
        return replace(scorer, parts=tuple(rescaled(part, factor) for part in scorer.parts))
    raise TypeError(f"no rule to rescale {type(scorer).__name__}")


def _rescaled_rows(matrix: Sparse, factor: Tensor) -> Sparse:
    return replace(matrix, values=matrix.values * factor.repeat_interleave(matrix.indptr.diff()))


def choose(
    parts: Mapping[str, Part],
    held_out: Pairs,
    exclude: Exclusion,
    *,
    metric: str,
    k: int,
    depth: int = 50,
    rounds: int = 3,
) -> Blend:
    """Choose the weights of one behavior's blend by coordinate search.

    The value is the mean of the metric at K and at 4 K: the longer lists hold more hits and steady
    the choice. Only items among the best `depth` of some part are looked at.

    Args:
        parts: Name → part; the first has weight 1.
        held_out: The validation rows of the behavior, sorted by user, then item; not empty.
        exclude: Items that are not ranked, those of training.
        metric: Of `mbrec.metrics`, e.g. "ndcg".
        k: Its list length.
        depth: Items taken from each part per user, at least 4 K.
        rounds: Passes over the parts, at most.
    """
    pool = _pool(parts, held_out, exclude, max(depth, 4 * k))
    grids = [part.weights for part in parts.values()][1:]
    alone = [1.0] + [0.0] * len(grids)

    def search(among: Pool) -> list[float]:
        if not len(among.items):
            return alone
        return _coordinate_search(among, grids, (k, 4 * k), metric, rounds)

    def value(weights: Sequence[float], among: Pool) -> FloatArray:
        return among.value(among.mixed(weights), (k,), metric)

    weights = search(pool)
    halves = [pool.of_users(np.arange(half, len(pool.items), 2)) for half in (0, 1)]
    crossed = [
        value(search(other), mine) for mine, other in (halves, halves[::-1]) if len(mine.items)
    ]
    return Blend(
        weights=dict(zip(parts, weights, strict=True)),
        value=float(value(weights, pool).mean()),
        first=float(value(alone, pool).mean()),
        cross_fitted=float(np.concatenate(crossed).mean()),
    )


def blended(parts: Mapping[str, Part], weights: Mapping[str, float]) -> Scorer:
    """The blend as one scorer; parts of weight 0 are left out."""
    used = {name: weight for name, weight in weights.items() if weight}
    if list(used.values()) == [1.0]:
        return parts[next(iter(used))].scorer
    return Sum(tuple(parts[name].scorer for name in used), tuple(used.values()))


def _coordinate_search(
    pool: Pool, grids: Sequence[Sequence[float]], ks: Sequence[int], metric: str, rounds: int
) -> list[float]:
    """The weights found; a step is taken only where it is more than the noise between users."""
    weights = [1.0] + [0.0] * len(grids)
    scores = pool.mixed(weights)
    best = pool.value(scores, ks, metric)
    for _ in range(rounds):
        before = list(weights)
        for place, grid in enumerate(grids, start=1):
            rest = scores - np.float32(weights[place]) * pool.values[place]
            for weight in (0.0, *grid):
                if weight == weights[place]:
                    continue
                tried = rest + np.float32(weight) * pool.values[place]
                values = pool.value(tried, ks, metric)
                gain = values - best
                if gain.mean() > max(_GAIN, _NOISE * gain.std() / np.sqrt(len(gain))):
                    best, scores, weights[place] = values, tried, weight
        if weights == before:
            break
    return weights


@torch.no_grad()
def _spread(scorer: Scorer) -> Tensor:
    """The standard deviation of every user's scores over all items. (U,)."""
    if isinstance(scorer, Factors):
        centered = scorer.item_emb - scorer.item_emb.mean(0)
        covariance = centered.T @ centered / max(len(centered), 1)
        variance = ((scorer.user_emb @ covariance) * scorer.user_emb).sum(1)
        return variance.clamp(min=0).sqrt()
    everyone = torch.arange(scorer.num_users, device=scorer.device)
    found = [
        scorer.scores(users, 0, scorer.num_items).std(1, correction=0)
        for users in torch.split(everyone, _users_at_a_time(scorer.num_items))
    ]
    return torch.cat([torch.empty(0, device=scorer.device), *found])


@torch.no_grad()
def _pool(parts: Mapping[str, Part], held_out: Pairs, exclude: Exclusion, depth: int) -> Pool:
    users, rows = np.unique(held_out.user_idx, return_inverse=True)
    scorers = [part.scorer for part in parts.values()]
    items, values = [], []
    at_a_time = _users_at_a_time(scorers[0].num_items)
    for batch in torch.split(torch.from_numpy(users).long(), at_a_time):
        some_items, some_values = _best_of_all(scorers, batch, exclude, depth)
        items.append(some_items)
        values.append(some_values)
    return Pool(
        np.concatenate(items),
        np.concatenate(values, axis=1),
        Pairs(rows.astype(np.int32), held_out.item_idx),
    )


def _best_of_all(
    scorers: Sequence[Scorer], users: Tensor, exclude: Exclusion, depth: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The union of the parts' best items, each once per user, and its scores in all parts."""
    place, num_items = scorers[0].device, scorers[0].num_items
    row, item = exclude.rows(users)
    blocks, best = [], []
    for scorer in scorers:
        scores = scorer.scores(users.to(place), 0, num_items).cpu()
        blocks.append(scores)
        seen = scores.clone()
        seen[row, item] = -torch.inf
        best.append(seen.topk(min(depth, num_items), dim=1).indices)
    union = torch.cat(best, dim=1).sort(dim=1).values  # (B, W)
    values = torch.stack([block.gather(1, union) for block in blocks]).numpy()
    again = torch.zeros_like(union, dtype=torch.bool)
    again[:, 1:] = union[:, 1:] == union[:, :-1]
    masked = torch.zeros(len(users), num_items, dtype=torch.bool)
    masked[row, item] = True  # where fewer than `depth` are left, top-k reaches into the masked
    union[again | masked.gather(1, union)] = -1
    return union.numpy(), values


def _users_at_a_time(num_items: int) -> int:
    return max(_CELLS // max(num_items, 1), 1)
