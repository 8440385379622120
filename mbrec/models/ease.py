"""EASE: embarrassingly shallow autoencoder (Steck, WWW 2019).

    min_B ‖X - X B‖² + λ ‖B‖²  with diag(B) = 0
    P = (XᵀX + λ I)⁻¹,   B_ij = -P_ij / P_jj for i ≠ j, else 0     (closed form)
    ŷ(u, j) = Σ_i x_ui B_ij                                       over the items i of u's history

X holds the merged histories: x_ui is the sum of the weights of the behaviors that u has done to i,
and all behaviors are scored alike, by one B. Or every behavior is on its own. Or the merged
histories tell what is done in one behavior, Y_b, which is not what they are made of, so that no
entry has to be 0:

    min_B ‖Y_b - X B‖² + λ ‖B‖²,   B = P Xᵀ Y_b

Deviations: the original knows one kind of feedback, X of 0 and 1. On merged histories an item
stands for itself, too, B_jj = `itself`: what a user has clicked, she may well buy, and the
original's diagonal of 0, which is there against learning the identity, leaves it out. `neighbors`
keeps the entries of largest size per item, so that a run does not have to hold all I² of them.
Users without a history get what is popular.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

_ROWS = 512  # of I × I handled at a time, where all would need a second such matrix
_CELLS = 1 << 25  # of users × rows handled at a time


class EaseConfig(MethodConfig):
    """Settings of EASE."""

    l2: PositiveFloat = 300.0
    """λ."""

    history: Literal["merged", "behavior"] = "merged"
    """B from all behaviors together, or for every behavior from its own."""

    target: Literal["merged", "behavior"] = "merged"
    """What merged histories are to tell: themselves, for all behaviors alike, or for every behavior
    what is done in it."""

    weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Behavior → how much it counts in merged histories; 1 where none is given."""

    itself: NonNegativeFloat = 0.3
    """On merged histories that tell themselves: how much an item of the history counts for itself;
    0: the original."""

    neighbors: NonNegativeInt = 0
    """Entries of B kept per item, those of largest size; 0: all, as a dense matrix."""


class Ease(Method):
    """EASE.

    Args:
        config: Settings.
        context: The training part of a dataset.

    Raises:
        UsageError: `weights` names a behavior that is not there.

    Cost: O(I³) time, 8 I² bytes and more of memory; see `memory_needed`.
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
        context = self._context
        self._require_memory()
        merged = self.config.history == "merged"
        together = [context.behaviors] if merged else [(name,) for name in context.behaviors]
        # What a group needs while it is solved for ends with the call, before the next begins.
        solved = [self._solved(group) for group in together]
        return {
            name: Sum((scorer, popularity_tail(context, name)), (1.0, 1.0))
            for group in solved
            for name, scorer in group.items()
        }

    def _solved(self, group: tuple[str, ...]) -> dict[str, ItemToItem | ItemNeighbors]:
        """What scores some behaviors, all by the histories of these together."""
        config, context = self.config, self._context
        merged = config.history == "merged"
        history = weighted_history(context, group, config.weights)
        known = scorable(history).to(context.device)
        inverse = inverse_gram(history, config.l2, context.device)
        if not (merged and config.target == "behavior"):
            blocks = split(without_itself(inverse, config.itself * merged))
            return dict.fromkeys(group, self._scorer(known, blocks))
        found = {}
        for name in group:
            done = weighted_history(context, (name,), {})
            found[name] = self._scorer(known, toward(inverse, history, done))
        return found

    def _scorer(self, known: Sparse, blocks: Iterable[Tensor]) -> ItemToItem | ItemNeighbors:
        """Histories and B, of which come blocks of rows."""
        if self.config.neighbors:
            return ItemNeighbors(known, largest(blocks, self.config.neighbors))
        return ItemToItem(known, filled(blocks, known.num_items, known.device))

    def _require_memory(self) -> None:
        """Refuse what does not fit: see `memory_needed`."""
        config, device = self.config, self._context.device
        alike = config.history == config.target == "merged"
        matrices = 1 if alike else len(self._context.behaviors)
        shape = self._context.num_users, self._context.num_items
        needed = memory_needed(*shape, matrices, config.neighbors)
        what = f"EASE on {shape[1]:,} items"
        remedy = "Take --model itemknn, or prepare the data with fewer items (a higher --min-item)."
        require_memory(needed, what, remedy, device)
        if device.type != "cpu":  # Xᵀ X is made on the CPU, and what is stored goes by it
            kept = matrices * stored_bytes(shape[1], config.neighbors)
            require_memory(max(kept, 4 * shape[1] ** 2), what, remedy)


def stored_bytes(num_items: int, neighbors: int) -> int:
    """Bytes of one B: dense, or 12 for every entry that is kept."""
    return 12 * num_items * min(neighbors, num_items) if neighbors else 4 * num_items**2


def memory_needed(num_users: int, num_items: int, matrices: int, neighbors: int) -> int:
    """Bytes that EASE takes at most, beside the histories.

    Args:
        num_users: U.
        num_items: I.
        matrices: How many B it solves for.
        neighbors: Entries kept per item; 0: all.

    All B but the last are there already while two I × I are held: the factor and P, or P and the
    dense B that is made of it. Sparse entries are held three times while they are put together.
    Added to that are blocks of rows, sparse and dense, and the scores of all users in one.
    """
    kept = stored_bytes(num_items, neighbors)
    rows = min(_ROWS, max(num_items, 1))
    blocks = 16 * rows * num_items + 4 * max(min(_CELLS, num_users * rows), num_users)
    dense, making = 4 * num_items**2, 3 * kept if neighbors else kept
    return (matrices - 1) * kept + dense + max(dense, making) + blocks


def inverse_gram(history: Any, l2: float, device: torch.device | str = "cpu") -> Tensor:
    """P of histories X.

    Args:
        history: X, (U, I) CSR of float32.
        l2: λ.
        device: Where to solve.

    Returns:
        (I, I) float32.

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
    return torch.cholesky_inverse(factor)


def without_itself(inverse: Tensor, itself: float = 0.0) -> Tensor:
    """B of EASE, (I, I) from history item to scored item, in the place of P.

    Args:
        inverse: P (I, I); not to be used again.
        itself: What stands on the diagonal.
    """
    scale = -1 / inverse.diagonal()
    inverse.mul_(scale)  # column j by -1 / P_jj
    return inverse.fill_diagonal_(itself)


def toward(inverse: Tensor, history: Any, done: Any) -> Iterator[Tensor]:
    """P Xᵀ Y by blocks of rows: what histories tell of a behavior.

    Args:
        inverse: P (I, I).
        history: X, (U, I) CSR.
        done: Y, (U, J) CSR.

    Yields:
        (rows, J) float32 each, where P is.

    Cost: I multiplications per stored entry of X and Y, next to nothing beside P itself.
    """
    by_item = done.T.tocsr()
    height = max(min(_ROWS, _CELLS // max(history.shape[0], 1)), 1)
    for rows in torch.split(inverse, height):
        told = by_item @ (history @ rows.T.cpu().numpy())  # P is symmetric
        yield torch.from_numpy(told.T.copy()).to(inverse.device)


def split(matrix: Tensor) -> tuple[Tensor, ...]:
    """Its rows, by blocks."""
    return torch.split(matrix, _ROWS)


def filled(blocks: Iterable[Tensor], num_items: int, device: torch.device) -> Tensor:
    """The matrix (I, I) of blocks of its rows; at no moment is it there twice."""
    matrix, start = torch.empty(num_items, num_items, device=device), 0
    for rows in blocks:
        matrix[start : start + len(rows)] = rows
        start += len(rows)
    return matrix


def largest(blocks: Iterable[Tensor], count: int) -> Sparse:
    """The `count` entries of largest size in every row of a matrix, sparse.

    Args:
        blocks: Its rows, (rows, I) each; at least one.
        count: As many are stored, unless the matrix has fewer columns.
    """
    kept_items, kept_values = [], []
    for rows in blocks:
        _, items = rows.abs().topk(min(count, rows.shape[1]), dim=1)
        items = items.sort(dim=1).values
        kept_items.append(items)
        kept_values.append(rows.gather(1, items))
    items, values = torch.cat(kept_items), torch.cat(kept_values)
    indptr = torch.arange(len(items) + 1, device=items.device) * items.shape[1]
    return Sparse.of(indptr, items.flatten(), values.flatten(), rows.shape[1])


def _gram(history: Any) -> Tensor:
    """XᵀX, (I, I) float32, filled by blocks of rows."""
    items = history.T.tocsr()
    gram = torch.empty(items.shape[0], items.shape[0])
    for start in range(0, len(gram), _ROWS):
        block = items[start : start + _ROWS] @ history
        gram[start : start + _ROWS] = torch.from_numpy(block.toarray())
    return gram


ENTRY = Entry(EaseConfig, Ease, needs_engine=False)
