"""ItemKNN: items like those that the user has (Deshpande and Karypis, TOIS 2004).

    s_ij = ⟨x_i, x_j⟩ / (‖x_i‖ ‖x_j‖ + h)       the cosine, lower where few users stand behind it
    ŷ(u, i) = Σ_j x_uj s_ji                     over the items j of u's history, s_j· cut to the
                                                N most similar items of j

X holds the merged histories: x_uj is the sum of the weights of the behaviors that u has done to j.
All behaviors are then scored alike, by one similarity. Or every behavior is on its own. On merged
histories an item stands for itself, too (s_jj = `itself`): what a user has clicked, she may well
buy.

Deviations: shrinkage h by Bell and Koren (ICDM 2007); no normalization of the similarities of an
item to sum 1, which the original offers. Users without a history get what is popular.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from scipy import sparse

from mbrec.history import scorable, weighted_history
from mbrec.memory import require_memory
from mbrec.models.base import Context, Entry, Method, MethodConfig, check_names
from mbrec.models.mostpop import popularity_tail
from mbrec.scoring import ItemNeighbors, Sum

_BLOCK = 1 << 23  # products of a block of items, each up to 60 bytes while it is sorted
_BYTES = 60


class ItemKnnConfig(MethodConfig):
    """Settings of ItemKNN."""

    neighbors: PositiveInt = 50
    """N, the similar items kept per item."""

    shrink: NonNegativeFloat = 20.0
    """h; the higher, the less a similarity counts that few users stand behind."""

    history: Literal["merged", "behavior"] = "merged"
    """Similarities from all behaviors together, or for every behavior from its own."""

    weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Behavior → how much it counts in merged histories; 1 where none is given."""

    itself: NonNegativeFloat = 1.0
    """On merged histories: how much an item of the history counts for itself."""


class ItemKnn(Method):
    """ItemKNN.

    Args:
        config: Settings.
        context: The training part of a dataset.

    Raises:
        UsageError: `weights` names a behavior that is not there.
    """

    def __init__(self, config: ItemKnnConfig, context: Context) -> None:
        check_names("model.weights", config.weights, context.behaviors)
        self.config = config
        self._context = context

    def scorers(self) -> dict[str, Sum]:
        """The neighbors of all items, one matrix for all behaviors or one for each.

        Raises:
            TrainingError: They do not fit into memory.
        """
        context, behaviors = self._context, self._context.behaviors
        merged = self.config.history == "merged"
        self._require_memory(1 if merged else len(behaviors))
        groups = [behaviors] if merged else [(name,) for name in behaviors]
        result = {}
        for group in groups:
            history = weighted_history(context, group, self.config.weights)
            similar = _nearest(history, self.config, self.config.itself if merged else 0.0)
            scorer = ItemNeighbors(scorable(history), scorable(similar)).to(context.device)
            for name in group:
                result[name] = Sum((scorer, popularity_tail(context, name)), (1.0, 1.0))
        return result

    def _require_memory(self, matrices: int) -> None:
        items = self._context.num_items
        kept = min(self.config.neighbors, items) * items
        require_memory(
            kept * (matrices * 2 * 12 + 24) + _BLOCK * _BYTES,
            f"ItemKNN with {self.config.neighbors} neighbors for each of {items:,} items",
            "Lower model.neighbors, or prepare the data with fewer items (a higher --min-item).",
        )


def _nearest(history: Any, config: ItemKnnConfig, itself: float) -> Any:
    """S (I, I), the rows cut to the most similar items; CSR, indices ascending."""
    items = history.T.tocsr()  # (I, U)
    norms = np.sqrt(np.asarray(items.multiply(items).sum(axis=1)).ravel())  # (I,)
    blocks = [sparse.csr_matrix((0, history.shape[1]), dtype=np.float32)]
    for start, stop in _blocks(history, items):
        products = (items[start:stop] @ history).tocoo()
        row, column = products.row, products.col
        own = row + start == column
        values = products.data / (norms[row + start] * norms[column] + config.shrink)
        values[own] = itself
        order = np.lexsort((column, -values, ~own, row))  # the item itself costs no neighbor
        counts = np.bincount(row, minlength=stop - start)
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = order[(place <= config.neighbors) & (values[order] > 0)]
        block = sparse.csr_matrix(
            (values[kept].astype(np.float32), (row[kept], column[kept])), products.shape
        )
        block.sort_indices()
        blocks.append(block)
    return sparse.vstack(blocks, format="csr")


def _blocks(history: Any, items: Any) -> Iterator[tuple[int, int]]:
    """Ranges of items with at most `_BLOCK` products each, or of one item."""
    users = items.copy()
    users.data = np.ones(len(users.data), np.int64)
    done = np.cumsum(users @ np.diff(history.indptr).astype(np.int64))  # Σ over users of |N_u|
    start = 0
    while start < len(done):
        before = done[start - 1] if start else 0
        stop = max(int(np.searchsorted(done, before + _BLOCK, side="right")), start + 1)
        yield start, stop
        start = stop


ENTRY = Entry(ItemKnnConfig, ItemKnn, needs_engine=False)
