"""Folding in: scores for new users from a trained scorer and their edges, without training.

**Item-side methods** score by a history X (users × items), a weighted sum of the behaviors'
relations. The weights follow from the known users: X = Σ_b w_b A_b has to hold for all of them, to
the last entry. A new user's history is the same sum over her edges, and her scores are exactly
those that the run would give a known user with these edges. Where a method has scaled every user's
scores to standard deviation 1, so are hers.

Who is like a new user follows from her edges and those of the known users, so her neighbors
(UserKNN) are exactly those that a known user would have.

A part of a blend that says how lately something was done (1 / n for the n-th latest item) follows
from the times of the new users' events in the same way; of several events of one pair and behavior
the time is to be that which the dataset keeps (`mbrec prep --keep`).

**Embeddings.** One propagation over her edges, of all behaviors merged, from the final item
embeddings that score the list, with LightGCN's normalization (He et al. 2020, equation 3) and the
items' training degrees:

    p_u = Σ_{i ∈ N_u} e_i / (√|N_u| √|N_i|)

A learned user embedding has also been through gates, several layers and training. What that does on
the whole is taken from the known users by a ridge regression, once per list:

    ê_u = p_u M,   M = argmin Σ_{known v} ‖p_v M − e_v‖² + λ ‖M‖²

Columns that follow from how much a user has done, as popularity in a stack does, or that are the
same for all known users, as a bias has them, are exact; so are the factors of users in a stack. The
rest is an approximation. With a p_u and a block of M for each behavior, users who had done
everything gained a little, and those with clicks alone lost more: no known user is like them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse

from mbrec.errors import ArtefactError
from mbrec.folding_neighbors import shrinkage
from mbrec.graph import Pairs, merge
from mbrec.history import latest_first, scorable
from mbrec.models.base import Times
from mbrec.network import Network
from mbrec.scoring import (
    Factors,
    ItemNeighbors,
    ItemToItem,
    Scorer,
    Sparse,
    Sum,
    UserNeighbors,
    Weighted,
)
from mbrec.similar_users import similar_users
from mbrec.spread import unit_spread

RIDGE = 1e-3  # λ, as a share of the mean squared column of p
_TINY = 1e-12  # keeps the map defined where all embeddings are 0
_ROWS = 1 << 14  # users at a time
_CLOSE = 1e-5  # of the largest entry of a history: what rounding in float32 may cost
_CLOSE_SCALED = 1e-3  # the same where every user was scaled, in float32
_SAMPLE = 64  # users by whom scaled scores are known
_DIGITS = 6

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldIn:
    """New users beside those of a run."""

    known: Mapping[str, Pairs]  # behavior → training pairs of the run's dataset
    new: Mapping[str, Pairs]  # behavior → pairs of new users (by their position) and known items
    num_known: int  # U
    num_new: int  # N
    num_items: int  # I
    times: Mapping[str, Times] = field(default_factory=dict)
    """Behavior → when the pairs of `new` were done, where that is known."""

    _neighbors: dict[tuple[int, float], Sparse] = field(default_factory=dict, init=False)

    def scorer(self, scorer: Scorer, what: str) -> Scorer:
        """What `scorer` is for the known users, for the new ones.

        Args:
            scorer: Of a run.
            what: Names the run and the behavior in errors.

        Raises:
            ArtefactError: The scores do not follow from what users have done.

        Cost for embeddings of size d: O(E d + U d²) time, O((U + I) d) memory.
        """
        if isinstance(scorer, Sum):
            return self._total(scorer, what)
        if isinstance(scorer, Weighted):
            by_user, follow = self._by_activity(scorer.by_user.numpy()[:, None])
            if not follow.all():
                raise _refused(what)
            found = torch.from_numpy(by_user[:, 0].astype(np.float32))
            return Weighted(self.scorer(scorer.inner, what), found, scorer.by_item)
        if isinstance(scorer, Network):
            users, follow = self._by_activity(scorer.user_features.numpy())
            if not follow.all():
                raise _refused(what)
            return replace(
                scorer,
                base=self._total(scorer.base, what),
                user_features=torch.from_numpy(users.astype(np.float32)),
            )
        scaled = _has_unit_spread(scorer)
        folded = self._folded(scorer, what, scaled)
        return unit_spread(folded) if scaled else folded

    def _total(self, total: Sum, what: str) -> Sum:
        return Sum(tuple(self.scorer(part, what) for part in total.parts), total.weights)

    def _folded(self, scorer: Scorer, what: str, scaled: bool) -> Scorer:
        if isinstance(scorer, Factors):
            return self._factors(scorer)
        if isinstance(scorer, Sparse):
            plain = self._sum(scorer, scaled)  # first: how lately one item was done is no matter
            return plain or self._latest(scorer, what) or self._history(scorer, what, scaled)
        if isinstance(scorer, ItemToItem):
            return ItemToItem(self._history(scorer.history, what, scaled), scorer.similarity)
        if isinstance(scorer, ItemNeighbors):
            return ItemNeighbors(self._history(scorer.history, what, scaled), scorer.neighbors)
        if isinstance(scorer, UserNeighbors):
            return UserNeighbors(self._similar(scorer.similar, what), scorer.histories)
        raise _refused(what)

    def _similar(self, similar: Sparse, what: str) -> Sparse:
        """The new users' neighbors, but for each user's scale, found as those of the known ones."""
        known, found = self._merged(self._known), _matrix(similar)
        shrink = shrinkage(found, known)
        if shrink is None:
            raise _refused(what)
        # The parts of a stack, and its behaviors, differ by scales alone.
        asked = int(np.diff(found.indptr).max()), shrink
        if asked not in self._neighbors:
            new = self._merged(self._new)
            self._neighbors[asked] = scorable(similar_users(known, *asked, asking=new))
        return self._neighbors[asked]

    def _history(self, history: Sparse, what: str, scaled: bool) -> Sparse:
        """What `_sum` gives; refused where it is nothing."""
        found = self._sum(history, scaled)
        if found is None:
            raise _refused(what)
        return found

    def _sum(self, history: Sparse, scaled: bool) -> Sparse | None:
        """The new users' history, by the weights that the behaviors have in the known one.

        Where every user has a scale of her own, the weights are known but for a common factor,
        which the caller's scaling takes away again.
        """
        found = _matrix(history)
        weights = self._proportions(found) if scaled else self._weights(found)
        if weights is None:
            return None
        result = _weighted(self._new, weights)
        result.eliminate_zeros()
        result.sort_indices()
        return scorable(result)

    def _latest(self, scorer: Sparse, what: str) -> Sparse | None:
        """The new users' latest items, if that is what `scorer` has of the known ones."""
        counts = scorer.indptr.diff().numpy()
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        values = scorer.values.numpy()
        rows = np.repeat(np.arange(len(counts)), counts)
        if not np.allclose(values[np.lexsort((-values, rows))], 1 / (1 + place)):
            return None
        found = _matrix(scorer).sign()
        for asked, behavior in itertools.permutations(self.known, 2):
            mine = self._known[asked]
            if (mine - mine.multiply(self._known[behavior]) != found).nnz:
                continue
            pairs, own = self.new[asked], self.new[behavior]
            times = self.times.get(asked, np.empty(0, np.int64))
            if len(times) != len(pairs):
                raise ArtefactError(
                    f"{what} cannot be folded in: its scores need to know when users did what.",
                    "Give a log of the new users with a column timestamp.",
                )
            return latest_first(pairs, times, own, self.num_new, self.num_items)
        return None

    def _weights(self, found: Any) -> dict[str, float] | None:
        """The w with X = Σ_b w_b A_b, or None."""
        names = list(self._known)
        right = [self._known[name].multiply(found).sum() for name in names]
        solution = np.linalg.lstsq(_products(self._known), np.array(right, float), rcond=None)[0]
        weights = {name: round(float(solution[k]), _DIGITS) for k, name in enumerate(names)}
        rest = abs(found - _weighted(self._known, weights))
        return weights if rest.max() <= _CLOSE * max(abs(found).max(), 1.0) else None

    def _proportions(self, found: Any) -> dict[str, float] | None:
        """The w with x_u = s_u Σ_b w_b a_u^b for some s_u of every user u, or None.

        With sums n over items, Σ_b w_b (a_u^b − x_u n(a_u^b) / n(x_u)) = 0: the direction in which
        these differences cancel.
        """
        sums = np.asarray(found.sum(axis=1)).ravel()
        unit = sparse.diags(1.0 / np.where(sums == 0, 1.0, sums)) @ found
        rests = {
            name: matrix - sparse.diags(np.diff(matrix.indptr).astype(float)) @ unit
            for name, matrix in self._known.items()
        }
        direction = np.linalg.eigh(_products(rests))[1][:, 0]
        direction /= direction[np.argmax(abs(direction))]
        weights = {name: round(float(direction[k]), _DIGITS) for k, name in enumerate(rests)}
        return weights if abs(_weighted(rests, weights)).max() <= _CLOSE_SCALED else None

    def _factors(self, factors: Factors) -> Factors:
        """New users' embeddings by the map that fits the known ones."""
        items = factors.item_emb.numpy().astype(np.float64)  # (I, d)
        users = factors.user_emb.numpy().astype(np.float64)  # (U, d)
        size = items.shape[1]
        left, right = np.zeros((size, size)), np.zeros((size, size))
        for rows, propagated in self._propagate(self._known, items):
            left += propagated.T @ propagated
            right += propagated.T @ users[rows]
        left[np.diag_indices(size)] += RIDGE * np.trace(left) / max(size, 1) + _TINY
        fitted = linalg.solve(left, right, assume_a="pos")  # (d, d)
        new = np.zeros((self.num_new, size))
        for rows, propagated in self._propagate(self._new, items):
            new[rows] = propagated @ fitted
        active, follow = self._by_activity(users)
        new[:, follow] = active[:, follow]
        return Factors(torch.from_numpy(new.astype(np.float32)), factors.item_emb)

    def _by_activity(self, users: Matrix) -> tuple[Matrix, npt.NDArray[np.bool_]]:
        """What new users have of numbers that follow from how much a user has done.

        Args:
            users: The numbers of the known users. (U, C).

        Returns:
            Those of the new ones (N, C), and which columns do follow (C,).
        """
        known, new = _activity(self._known), _activity(self._new)
        solution = np.linalg.lstsq(known, users, rcond=None)[0]
        rest = abs(known @ solution - users).max(axis=0, initial=0.0)
        found: Matrix = new @ solution
        return found, rest <= _CLOSE * np.maximum(abs(users).max(axis=0, initial=0.0), 1.0)

    def _propagate(
        self, relations: Mapping[str, Any], items: Matrix
    ) -> Iterator[tuple[npt.NDArray[np.int64], Matrix]]:
        """Blocks of users with any edge: who they are, and their p (B, d)."""
        merged = self._merged(relations).sign()
        counts = np.diff(merged.indptr)
        scaled = self._item_scale[:, None] * items
        users = np.flatnonzero(counts)
        for start in range(0, len(users), _ROWS):
            rows = users[start : start + _ROWS]
            yield rows, _inverse_root(counts[rows])[:, None] * (merged[rows] @ scaled)

    @staticmethod
    def _merged(relations: Mapping[str, Any]) -> Any:
        """The number of behaviors that a user has done to an item."""
        return _weighted(relations, dict.fromkeys(relations, 1.0)).tocsr()

    @cached_property
    def _known(self) -> dict[str, Any]:
        return self._matrices(self.known, self.num_known)

    @cached_property
    def _new(self) -> dict[str, Any]:
        return self._matrices(self.new, self.num_new)

    @cached_property
    def _item_scale(self) -> Matrix:
        """1 / √|N_i| in training, all behaviors merged; 1 for items without an edge. Shape (I,)."""
        merged = merge(self.known, self.num_items)
        return _inverse_root(np.bincount(merged.item_idx, minlength=self.num_items))

    def _matrices(self, relations: Mapping[str, Pairs], count: int) -> dict[str, Any]:
        """The behaviors of the run as 0/1 matrices (count, I)."""
        shape = count, self.num_items
        return {
            name: sparse.csr_matrix(
                (
                    np.ones(len(relations[name]), np.float32),
                    (relations[name].user_idx, relations[name].item_idx),
                ),
                shape,
            )
            for name in self.known
        }


def _matrix(history: Sparse) -> Any:
    return sparse.csr_matrix(
        (history.values.numpy(), history.items.numpy(), history.indptr.numpy()),
        (history.num_users, history.num_items),
    )


def _activity(relations: Mapping[str, Any]) -> Matrix:
    """1, and for every behavior ln(1 + n) of the user's items. (users, 1 + K)."""
    counts = [np.log1p(np.diff(matrix.indptr)) for matrix in relations.values()]
    return np.stack([np.ones(len(counts[0])), *counts], axis=1)


def _weighted(relations: Mapping[str, Any], weights: Mapping[str, float]) -> Any:
    """Σ_b w_b A_b."""
    parts = [np.float32(weights[name]) * matrix for name, matrix in relations.items()]
    return sum(parts[1:], parts[0])


def _products(matrices: Mapping[str, Any]) -> Matrix:
    """Inner products of all pairs of matrices, (K, K)."""
    every = matrices.values()
    return np.array([[first.multiply(second).sum() for first in every] for second in every], float)


def _has_unit_spread(scorer: Scorer) -> bool:
    """Whether the scores of every user have standard deviation 1, as `unit_spread` leaves them."""
    users = torch.linspace(0, max(scorer.num_users - 1, 0), min(_SAMPLE, scorer.num_users)).long()
    spread = scorer.scores(users, 0, scorer.num_items).std(1, correction=0)
    spread = spread[spread > 0]
    return bool(len(spread)) and bool(((spread - 1).abs() < _CLOSE_SCALED).all())


def _inverse_root(counts: npt.NDArray[np.int64]) -> Matrix:
    return 1.0 / np.sqrt(np.maximum(counts, 1).astype(np.float64))


def _refused(what: str) -> ArtefactError:
    return ArtefactError(
        f"{what} cannot be folded in: its scores do not follow from what a user has done.",
        "Train again with the new users, or serve them with a run of another method.",
    )
