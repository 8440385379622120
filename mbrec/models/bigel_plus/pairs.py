"""BPR of the cascade against many items at once.

BPR's negatives are drawn for every pair, a few each. One draw that all pairs of a step share costs
a matrix product instead of a lookup per negative, so each pair can be compared with hundreds:

    L_b = mean over pairs (u, i) of b and items j drawn, j != i, of -ln σ(ŷ_ui - ŷ_uj)

A drawn item that the user has in b counts as a negative, too; where a user has few of all items
that is rare, and exact negatives are the ones of the batch (`count` 0).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mbrec.models.bigel.model import Bigel, BigelState
from mbrec.sampling import Batch


def cascade_losses(
    cascade: Bigel, state: BigelState, batch: Batch, count: int, random: torch.Generator | None
) -> dict[str, Tensor]:
    """BPR of every behavior, CPA and L2 of BiGEL.

    Args:
        cascade: The model.
        state: What its `propagate` returned.
        batch: Behavior → its triples.
        count: Items drawn for all pairs; 0: the negatives of the batch.
        random: Draws them.
    """
    if not count:
        return cascade.losses(state, batch)
    num_items, place = len(cascade.item_emb), cascade.item_emb.device
    drawn = torch.randint(num_items, (count,), generator=random, device=place)
    users = cascade.embed(state, "user", {b: t.user_idx for b, t in batch.items()})
    # Positives and drawn items by one lookup: gates run once per item where that is cheaper.
    rows = {b: torch.cat([t.positive, drawn]) for b, t in batch.items()}
    items = cascade.embed(state, "item", rows)
    terms = {}
    for behavior, triples in batch.items():
        user, (own, others) = (
            users[behavior],
            torch.split(items[behavior], [len(triples.positive), count]),
        )
        margin = user @ others.T - (user * own).sum(1, keepdim=True)  # (B, N)
        # The positive itself is no negative: -inf makes its loss and its gradient 0.
        margin = margin.masked_fill(drawn == triples.positive[:, None], -torch.inf)
        terms[f"bpr/{behavior}"] = F.softplus(margin).mean()
    return {**terms, **cascade.regularizers(state, batch)}
