"""Embeddings of any origin: a user as a mixture of the items that she has.

Where only final embeddings are known, the user's is fitted by the nearest sum of her items', with
weights that are not negative (so that no two items cancel each other out):

    a = argmin_{a ≥ 0} ‖e_u - Σ_{j ∈ N_u} a_j e_j‖,     r = e_u - Σ_j a_j e_j
    ŷ(u, i) = Σ_j a_j ⟨e_j, e_i⟩ + ⟨r, e_i⟩

The sum is exact; that the items are why is an assumption, and r is what they do not account for.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from mbrec.explain.shares import Done, Shares, single
from mbrec.scoring import Factors

PART = "similar to items of the history"
REST = "not accounted for by the history"
_NODES = 4096  # the fit costs time with the square of it


def mixture(scorer: Factors, user: int, item: int, done: Done) -> list[Shares]:
    """Shares of the score of a user and an item.

    Args:
        scorer: The final embeddings.
        user: The user.
        item: The item.
        done: What the user has done; of more than 4096 items the nearest are taken.
    """
    target = scorer.user_emb[user].double().numpy()
    scored = scorer.item_emb[item].double().numpy()
    nodes = done.known()
    nodes = nodes[nodes != item]  # an item does not explain itself
    table = scorer.item_emb[nodes].double().numpy()  # (n, d)
    if len(nodes) > _NODES:
        near = np.sort(np.argsort(-(table @ target), kind="stable")[:_NODES])
        nodes, table = nodes[near], table[near]
    weights = np.zeros(0)
    if len(nodes):
        weights, _ = nnls(table.T, target, maxiter=10 * max(len(nodes), len(target)))
    used = weights > 0
    values = weights[used] * (table[used] @ scored)
    rest = float((target - weights @ table) @ scored)
    return [*done.combined(PART, 0, nodes[used], values), single(REST, rest)]
