"""What counts alone tell of a user and an item: parts of a stack that need no training.

*Walk.* Two steps of a random walk on the merged graph, from an item to its users to their items:
P_ij = w_ij / (n_i^(1-β) n_j^β) with w_ij = Σ_u x_ui x_uj / n_u (Paudel et al., "RP3β", TiiS 2017),
i ≠ j. x_ui is the number of behaviors that u has done to i, n_u = Σ_i x_ui and n_i = Σ_u x_ui. The
discount β takes from popular items what they get by chance.

*Linear.* EASE on the merged histories (Steck, WWW 2019; `mbrec.models.ease`), among the items of
most users. Unlike walks, it knows what one item of the history says already of another.

*Users.* What the 100 users who are most like the user have done, behavior by behavior (UserKNN;
`mbrec.similar_users`). Walks and EASE add all behaviors up. These tell who was like her and bought
it from who only looked at it.

*History.* Whether the user has done another behavior to the item. Most clicks follow no purchase,
yet who bought without a click in the log clicks later, and a favorite is often bought.

*Recency.* Where the log has times: 1 / n for the n-th latest of the items that the user has touched
by another behavior and that may still be ranked, by the time that the dataset keeps of each pair:
that of the first touch, or of the last with `mbrec prep --keep last`. What lies in the cart since
yesterday is bought rather than what lies there since last week.

*Popularity.* ln(1 + users of the item in a behavior). With weights of either sign a stack finds
rates: purchases against clicks. And whether nobody has done the behavior to the item at all, as
with new ones. Counts of the latest tenth of the log alone were tried and left out: what they
taught on the earlier half of UserBehavior's validation rows made its later half worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mbrec.history import latest_first, scorable, weighted_history
from mbrec.memory import require_memory
from mbrec.models.base import Context
from mbrec.models.ease import inverse_gram, largest, split, without_itself
from mbrec.models.mostpop import popularity
from mbrec.nearest import nearest
from mbrec.scoring import ItemNeighbors, Sparse, UserNeighbors
from mbrec.similar_users import similar_users

_ITSELF = 0.3  # how much an item of the history counts for itself, as in EASE here


def walk(context: Context, neighbors: int, discount: float) -> ItemNeighbors:
    """Scores of all items by walks from the user's items, over all behaviors.

    Args:
        context: The training part of a dataset.
        neighbors: The most likely ends kept per item.
        discount: β in 0 … 1.

    Cost: one sparse product Xᵀ X, by blocks of items; 12 bytes per item and neighbor are kept.
    """
    history = weighted_history(context, context.behaviors, {})
    by_user = sparse.diags(_power(history.sum(axis=1), -1.0))
    item_sums = history.sum(axis=0)
    left = (sparse.diags(_power(item_sums, discount - 1)) @ history.T @ by_user).tocsr()
    right = (history @ sparse.diags(_power(item_sums, -discount))).tocsr()
    ends = nearest(left, right, neighbors)
    return ItemNeighbors(scorable(history), scorable(ends)).to(context.device)


def linear(context: Context, num_items: int, l2: float, neighbors: int) -> ItemNeighbors:
    """Scores by EASE among the items of most users; the others score 0.

    Args:
        context: The training part of a dataset.
        num_items: How many items, M.
        l2: λ of EASE.
        neighbors: Weights kept per item, those of largest size.

    Raises:
        TrainingError: Two M × M matrices do not fit into memory, or λ is too small.

    Cost: O(M³) time, 8 M² bytes while it is solved; 12 bytes per item and neighbor are kept.
    """
    merged = weighted_history(context, context.behaviors, {})
    users = merged.getnnz(axis=0)
    kept = np.sort(np.argsort(-users, kind="stable")[:num_items])
    require_linear(context, num_items)
    inverse = inverse_gram(merged[:, kept], l2, context.device)
    found = largest(split(without_itself(inverse, _ITSELF)), neighbors).to("cpu")
    counts = torch.zeros(context.num_items, dtype=torch.long)
    counts[torch.from_numpy(kept)] = found.indptr.diff()
    indptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    items = torch.from_numpy(kept)[found.items]
    everywhere = Sparse.of(indptr, items, found.values, context.num_items)
    return ItemNeighbors(scorable(merged), everywhere).to(context.device)


def userknn(context: Context, neighbors: int, shrink: float) -> dict[str, UserNeighbors]:
    """Behavior → scores by what the users most like a user have done in it.

    Args:
        context: The training part of a dataset.
        neighbors: Users kept per user.
        shrink: The higher, the less similar are users with short histories.

    Cost: see `similar_users`; 12 bytes per user and neighbor are kept.
    """
    merged = weighted_history(context, context.behaviors, {})
    similar = scorable(similar_users(merged, neighbors, shrink)).to(context.device)
    return {name: UserNeighbors(similar, history(context, name)) for name in context.behaviors}


def require_linear(context: Context, num_items: int) -> None:
    """Refuse a `linear` that does not fit, so that nobody learns of it after the training.

    Raises:
        TrainingError: It does not.
    """
    known = min(num_items, context.num_items)
    require_memory(
        8 * known**2,
        f"The linear part of BiGEL+ on {known:,} items",
        "Lower model.linear_items, or set model.linear=false.",
        context.device,
    )


def history(context: Context, behavior: str) -> Sparse:
    """1 for what the user has done in `behavior`, else 0."""
    pairs = context.train[behavior]
    return Sparse.from_pairs(pairs, context.num_users, context.num_items).to(context.device)


def recency(context: Context, asked: str, behavior: str) -> Sparse:
    """1 / n for the user's n-th latest item of `asked`, without those that she has in `behavior`.

    Args:
        context: The training part of a dataset, with the times of `asked` that it keeps (`mbrec
            prep --keep`); rows without one come last.
        asked: The behavior of which the items are.
        behavior: The behavior that is ranked.
    """
    found = latest_first(
        context.train[asked],
        context.times[asked],
        context.train[behavior],
        context.num_users,
        context.num_items,
    )
    return found.to(context.device)


def popularities(context: Context) -> dict[str, Tensor]:
    """What is known of all items: for every behavior ln(1 + n), less its mean, by its deviation.

    Mean and deviation are those over all training pairs, so that an item that is met often counts
    often.
    """
    return _standardized(
        {f"popularity/{name}": popularity(context, name) for name in context.behaviors}
    )


def activities(context: Context) -> dict[str, Tensor]:
    """What is known of all users: for every behavior ln(1 + n) of her items, standardized too."""
    return _standardized(
        {
            f"activity/{name}": torch.bincount(
                context.train[name].tensors()[0], minlength=context.num_users
            )
            for name in context.behaviors
        }
    )


def unseen(context: Context) -> dict[str, Tensor]:
    """Behavior → 1 for the items that nobody has done it to, else 0."""
    return {
        f"unseen/{name}": (popularity(context, name) == 0).float() for name in context.behaviors
    }


def _standardized(counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ln(1 + n), less its mean, by its deviation, over all training pairs."""
    weights = torch.stack(list(counts.values())).sum(0).double()
    total = weights.sum().clamp(min=1)

    def standardized(values: Tensor) -> Tensor:
        away = values - (weights * values).sum() / total
        deviation = ((weights * away**2).sum() / total).sqrt()
        return (away / deviation.clamp(min=1e-6)).float()

    return {name: standardized(torch.log1p(count.double())) for name, count in counts.items()}


def _power(sums: Any, exponent: float) -> Any:
    """x^exponent, 0 for 0."""
    flat = np.asarray(sums, dtype=np.float64).ravel()
    return np.where(flat > 0, np.maximum(flat, 1e-12) ** exponent, 0.0)
