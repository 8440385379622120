"""What a trained method leaves behind: something that scores all items for given users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Scorer(Protocol):
    """Scores of one behavior, by blocks, so that users × items never has to exist at once.

    Blocks may be asked for from several threads at once, and the caller may write into them.
    """

    @property
    def num_users(self) -> int:
        """U."""

    @property
    def num_items(self) -> int:
        """I."""

    @property
    def device(self) -> torch.device:
        """Where it takes user indices and gives scores."""

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start), float32, of items start … stop-1 for users `user_idx` (B,)."""


@dataclass(frozen=True)
class Factors:
    """Score = inner product of a user and an item embedding (equation 12 of BiGEL)."""

    user_emb: Tensor  # (U, d) float32
    item_emb: Tensor  # (I, d) float32

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_emb)

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.item_emb)

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self.item_emb.device

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        return self.user_emb[user_idx] @ self.item_emb[start:stop].T

    def to(self, device: torch.device | str) -> Factors:
        """The same factors on another device."""
        return Factors(self.user_emb.to(device), self.item_emb.to(device))
