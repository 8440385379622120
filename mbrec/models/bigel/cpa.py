"""CPA: contrastive preference alignment (equations 10-11 of BiGEL)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbrec.losses import info_nce
from mbrec.parallel.columns import Columns
from mbrec.parallel.lookup import Lookup, Rows
from mbrec.propagation import Nodes
from mbrec.sampling import Triples


class ContrastivePreferenceAlignment:
    """Pulls the target embedding of a node towards its global one, away from other nodes'.

        L = -Σ_n ln( exp(s(e_n^(b_K), e_n^global) / τ) / Σ_m exp(s(e_n^(b_K), e_m^global) / τ) )

    for the distinct users, and for the distinct items, of the batch's target pairs.

    Args:
        temperature: τ.
        cosine: s is the cosine; else the inner product.
        columns: Those of the embeddings; all by default.
    """

    def __init__(self, temperature: float, cosine: bool, columns: Columns | None = None) -> None:
        self._columns = columns or Columns()
        self._temperature = temperature
        self._cosine = cosine

    def __call__(
        self, lookup: Lookup, own: Nodes, global_context: Nodes, triples: Triples
    ) -> Callable[[], Tensor]:
        """CPA users + CPA items, averaged over nodes, once the lookup is complete.

        Of several ranks, each compares a share of the nodes with all of them, and has a part of the
        sum.

        Args:
            lookup: Where the nodes' rows are asked for.
            own: e^(b_K) of all nodes; or e^(b_k), beyond the paper.
            global_context: e_global of all nodes.
            triples: The batch's triples of that behavior; negatives are not used.
        """
        asked = []
        for view, context, rows in (
            (own.user, global_context.user, triples.user_idx),
            (own.item, global_context.item, triples.positive),
        ):
            nodes = torch.unique(rows)
            shares = self._columns.shares(nodes)
            first = sum(len(share) for share in shares[: self._columns.team.rank])
            anchor = lookup.ask((view, shares))
            positive = lookup.ask((context, [nodes] * len(shares)))
            asked.append((anchor, positive, first))
        return lambda: torch.stack([self._side(*side) for side in asked]).sum()

    def _side(self, anchor: Rows, positive: Rows, first: int) -> Tensor:
        return info_nce(anchor(), positive(), self._temperature, cosine=self._cosine, first=first)
