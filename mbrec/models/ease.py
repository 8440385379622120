"""EASE: embarrassingly shallow autoencoder (Steck, WWW 2019).

    min_B ‖X - X B‖² + λ ‖B‖²  with diag(B) = 0
    P = (XᵀX + λ I)⁻¹,   B_ij = -P_ij / P_jj for i ≠ j, else 0     (closed form)
    ŷ(u, j) = Σ_i x_ui B_ij                                       over the items i of u's history

X holds the merged histories: x_ui is the sum of the weights of the behaviors that u has done to i,
and all behaviors are scored alike, by one B. Or every behavior is on its own.

Deviations: the original knows one kind of feedback, X of 0 and 1. On merged histories an item
stands for itself, too, B_jj = `itself`: what a user has clicked, she may well buy, and the
original's diagonal of 0, which is there against learning the identity, leaves it out. `neighbors`
keeps the entries of largest size per item, so that a run does not have to hold all I² of them.
Users without a history get what is popular.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from mbrec.errors import TrainingError
from mbrec.history import scorable, weighted_history
from mbrec.memory import require_memory
from mbrec.models.base import Context, Entry, Method, MethodConfig, check_names
from mbrec.models.mostpop import popularity_tail
from mbrec.scoring import ItemNeighbors, ItemToItem, Sparse, Sum

_ROWS = 512  # rows of I × I handled at a time, where all would need a second such matrix


class EaseConfig(MethodConfig):
    """Settings of EASE."""

    l2: PositiveFloat = 300.0
    """λ."""

    history: Literal["merged", "behavior"] = "merged"
    """B from all behaviors together, or for every behavior from its own."""

    weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Behavior → how much it counts in merged histories; 1 where none is given."""

    itself: NonNegativeFloat = 0.3
    """On merged histories: how much an item of the history counts for itself; 0: the original."""

    neighbors: NonNegativeInt = 0
    """Entries of B kept per item, those of largest size; 0: all, as a dense matrix."""


class Ease(Method):
    """EASE.

    Args:
        config: Settings.
        context: The training part of a dataset.

    Raises:
        UsageError: `weights` names a behavior that is not there.

    Cost: O(I³) time, about 8 I² bytes of memory; see `scorers`.
    """

    def __init__(self, config: EaseConfig, context: Context) -> None:
        check_names("model.weights", config.weights, context.behaviors)
        self.config = config
        self._context = context

    def scorers(self) -> dict[str, Sum]:
        """The weights between all items, one matrix for all behaviors or one for each.

        Raises:
            TrainingError: They do not fit into memory, or λ is too small to solve for them.
        """
        context, behaviors = self._context, self._context.behaviors
        merged = self.config.history == "merged"
        groups = [behaviors] if merged else [(name,) for name in behaviors]
        self._require_memory(len(groups))
        result = {}
        for group in groups:
            history = weighted_history(context, group, self.config.weights)
            weights = item_weights(history, self.config.l2, context.device)
            if merged:
                weights.fill_diagonal_(self.config.itself)
            known = scorable(history).to(context.device)
            scorer = self._scorer(known, weights)
            del weights
            for name in group:
                result[name] = Sum((scorer, popularity_tail(context, name)), (1.0, 1.0))
        return result

    def _scorer(self, history: Sparse, weights: Tensor) -> ItemToItem | ItemNeighbors:
        if not self.config.neighbors:
            return ItemToItem(history, weights)
        return ItemNeighbors(history, largest(weights, self.config.neighbors))

    def _require_memory(self, matrices: int) -> None:
        """Two I × I at a time while solving; each that is kept once more while it is stored."""
        items, device = self._context.num_items, self._context.device
        dense = 4 * items**2
        needed = 2 * dense if self.config.neighbors else max(matrices, 1) * dense + dense
        what = f"EASE on {items:,} items"
        remedy = "Take --model itemknn, or prepare the data with fewer items (a higher --min-item)."
        require_memory(needed, what, remedy, device)
        if device.type != "cpu" and not self.config.neighbors:
            require_memory(matrices * dense, what, remedy)  # storing goes by the CPU


def item_weights(history: Any, l2: float, device: torch.device | str = "cpu") -> Tensor:
    """B of histories X.

    Args:
        history: X, (U, I) CSR of float32.
        l2: λ.
        device: Where to solve.

    Returns:
        (I, I) float32, from history item to scored item.

    Raises:
        TrainingError: The matrix cannot be factored in float32.

    Cost: I³ multiplications; two I × I matrices at a time.
    """
    gram = _gram(history).to(device)
    gram.diagonal().add_(l2)
    factor, failed = torch.linalg.cholesky_ex(gram)
    del gram
    if failed:
        raise TrainingError(f"EASE cannot be solved with model.l2 = {l2:g}.", "Raise it.")
    inverse = torch.cholesky_inverse(factor)
    del factor
    scale = -1 / inverse.diagonal()
    inverse.mul_(scale)  # column j by -1 / P_jj
    return inverse.fill_diagonal_(0)


def largest(weights: Tensor, count: int) -> Sparse:
    """The `count` entries of largest size in every row of (I, I), sparse."""
    kept_items, kept_values = [], []
    for rows in torch.split(weights, _ROWS):
        _, items = rows.abs().topk(min(count, len(weights)), dim=1)
        items = items.sort(dim=1).values
        kept_items.append(items.flatten())
        kept_values.append(rows.gather(1, items).flatten())
    per_row = min(count, len(weights))
    indptr = torch.arange(len(weights) + 1, device=weights.device) * per_row
    return Sparse.of(indptr, torch.cat(kept_items), torch.cat(kept_values), len(weights))


def _gram(history: Any) -> Tensor:
    """XᵀX, (I, I) float32, filled by blocks of rows."""
    items = history.T.tocsr()
    gram = torch.empty(items.shape[0], items.shape[0])
    for start in range(0, len(gram), _ROWS):
        block = items[start : start + _ROWS] @ history
        gram[start : start + _ROWS] = torch.from_numpy(block.toarray())
    return gram


ENTRY = Entry(EaseConfig, Ease, needs_engine=False)
