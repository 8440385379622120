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

from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from scipy import sparse

from mbrec.history import scorable, weighted_history
from mbrec.memory import require_memory
from mbrec.models.base import Context, Entry, Method, MethodConfig, check_names
from mbrec.models.mostpop import popularity_tail
from mbrec.nearest import BLOCK, BYTES, nearest
from mbrec.scoring import ItemNeighbors, Sum


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
            similar = _similar(history, self.config, self.config.itself if merged else 0.0)
            scorer = ItemNeighbors(scorable(history), scorable(similar)).to(context.device)
            for name in group:
                result[name] = Sum((scorer, popularity_tail(context, name)), (1.0, 1.0))
        return result

    def _require_memory(self, matrices: int) -> None:
        items = self._context.num_items
        kept = min(self.config.neighbors, items) * items
        require_memory(
            kept * (matrices * 2 * 12 + 24) + BLOCK * BYTES,
            f"ItemKNN with {self.config.neighbors} neighbors for each of {items:,} items",
            "Lower model.neighbors, or prepare the data with fewer items (a higher --min-item).",
        )


def _similar(history: Any, config: ItemKnnConfig, itself: float) -> Any:
    """S (I, I), the rows cut to the most similar items; CSR, indices ascending."""
    items = history.T.tocsr()  # (I, U)
    norms = np.sqrt(np.asarray(items.multiply(items).sum(axis=1)).ravel())  # (I,)
    others = nearest(
        items,
        history,
        config.neighbors,
        lambda row, column, product: product / (norms[row] * norms[column] + config.shrink),
    )
    if not itself:
        return others
    own = sparse.diags((norms > 0) * np.float32(itself), format="csr", dtype=np.float32)
    similar = others + own  # the item itself costs no neighbor
    similar.sort_indices()
    return similar


ENTRY = Entry(ItemKnnConfig, ItemKnn, needs_engine=False)
