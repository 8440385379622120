"""The contextual branch: LightGCN on the merged graph, learned by a softmax over many items.

BPR compares a positive with a handful of negatives. Here every pair is compared with all items of
the catalog, or with a sample that the whole batch shares, by the cosine of the embeddings:

    L_b = - mean over pairs (u, i) of b of  s_ui / τ - ln( e^(s_ui / τ) + (I / N) Σ_j e^(s_uj / τ) )

with s the cosine, as in Wu et al., "On the Effectiveness of Sampled Softmax Loss for Item
Recommendation" (TOIS 2024). I / N keeps the sum's expected value that of all items.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mbrec.columns import GLOBAL
from mbrec.models.base import Context, TrainedMethod, embedding_table
from mbrec.propagation import Nodes, light_gcn
from mbrec.sampling import Batch
from mbrec.scoring import Factors


class ContextualBranch(TrainedMethod):
    """One embedding per node, from the merged graph, that scores all behaviors.

    Args:
        context: The training part of a dataset, with an engine.
        size: d.
        layers: L.
        temperature: τ > 0.
        negatives: N, items drawn per step; all items where there are no more.
    """

    def __init__(
        self, context: Context, size: int, layers: int, temperature: float, negatives: int
    ) -> None:
        super().__init__()
        self.layers, self.temperature, self.negatives = layers, temperature, negatives
        self._behaviors = context.behaviors
        self._random: torch.Generator | None = None
        self.relation = context.relation(GLOBAL)
        self.user_emb = embedding_table(context.num_users, size, "xavier", context.generator)
        self.item_emb = embedding_table(context.num_items, size, "xavier", context.generator)

    def propagate(self) -> Nodes:
        """The propagated embeddings of all nodes, each of length 1 (0 stays 0)."""
        nodes = light_gcn(self.relation, Nodes(self.user_emb, self.item_emb), self.layers)
        return Nodes(F.normalize(nodes.user, dim=1), F.normalize(nodes.item, dim=1))

    def begin_epoch(self, epoch: int, random: torch.Generator) -> None:
        """Draw the negatives from `random`."""
        self._random = random

    def losses(self, state: Nodes, batch: Batch) -> dict[str, Tensor]:
        """Behavior → its softmax loss; the negatives of the batch are not used."""
        num_items = len(state.item)
        if self.negatives >= num_items:
            return {
                f"softmax/{name}": self._full(state, triples.user_idx, triples.positive)
                for name, triples in batch.items()
            }
        place = state.item.device
        drawn = torch.randint(num_items, (self.negatives,), generator=self._random, device=place)
        table = state.item.index_select(0, drawn)  # (N, d), shared by the batch
        return {
            f"softmax/{name}": self._sampled(
                state, triples.user_idx, triples.positive, drawn, table
            )
            for name, triples in batch.items()
        }

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """Cosines as inner products, the same for every behavior."""
        return dict.fromkeys(self._behaviors, Factors(*self.propagate()))

    def _full(self, state: Nodes, user_idx: Tensor, positive: Tensor) -> Tensor:
        logits = state.user.index_select(0, user_idx) / self.temperature @ state.item.T  # (B, I)
        return F.cross_entropy(logits, positive)

    def _sampled(
        self, state: Nodes, user_idx: Tensor, positive: Tensor, drawn: Tensor, table: Tensor
    ) -> Tensor:
        user = state.user.index_select(0, user_idx) / self.temperature  # (B, d)
        own = (user * state.item.index_select(0, positive)).sum(1, keepdim=True)  # (B, 1)
        others = user @ table.T + math.log(len(state.item) / len(drawn))  # (B, N)
        # An item drawn that is the positive itself must not be pushed away from it.
        others = others.masked_fill(drawn == positive[:, None], -torch.inf)
        return (torch.logsumexp(torch.cat([own, others], dim=1), dim=1) - own[:, 0]).mean()
