"""CGF: cascading gated feedback (equations 5-6 of BiGEL)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Gate(nn.Module):
    """How much of a signal each dimension of each node lets in.

        one map:   g = σ(W LeakyReLU(e) + b)
        two maps:  g = σ(W₂ LeakyReLU(W₁ e + b₁) + b₂)

    Args:
        size: d.
        maps: 1 or 2 linear maps.
        generator: For the initial weights.
    """

    def __init__(self, size: int, maps: int, generator: torch.Generator) -> None:
        super().__init__()
        self.maps = nn.ModuleList(linear(size, generator) for _ in range(maps))

    def forward(self, embedding: Tensor) -> Tensor:
        """The gate g in (0, 1), (B, d), of embeddings (B, d)."""
        *inner, last = self.maps
        for layer in inner:
            embedding = layer(embedding)
        return torch.sigmoid(last(F.leaky_relu(embedding)))


class CascadingGatedFeedback(nn.Module):
    """Lets an auxiliary behavior learn from the target, where its own embedding allows it.

    g^(b_k) = σ(linear(LeakyReLU(e^(b_k))))
    e'^(b_k) = e^(b_k) + g^(b_k) ⊗ e^(b_K)
    """

    def __init__(self, size: int, maps: int, generator: torch.Generator) -> None:
        super().__init__()
        self.gate = Gate(size, maps, generator)

    def forward(self, auxiliary: Tensor, target: Tensor) -> Tensor:
        """e'^(b_k) of some rows. All are (B, d)."""
        gate: Tensor = self.gate(auxiliary)
        return auxiliary + gate * target


def linear(size: int, generator: torch.Generator) -> nn.Linear:
    """A d × d linear map with Glorot weights and zero bias (so that a gate starts near ½)."""
    layer = nn.Linear(size, size)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
