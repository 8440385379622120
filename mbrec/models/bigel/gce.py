"""GCE: global context enhancement (equations 7-9 of BiGEL)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbrec.models.bigel.cgf import Gate, linear


class GlobalContextEnhancement(nn.Module):
    """Adds what the merged graph of all behaviors says of a node, through a gate.

        c = W₃^(b_k) e_global + b
        e''^(b_k) = e'^(b_k) + g^(b_k) ⊗ c

    Args:
        size: d.
        gate: The gate of this behavior; CGF's own to share its weights, or another.
        generator: For the initial weights.
    """

    def __init__(self, size: int, gate: Gate, generator: torch.Generator) -> None:
        super().__init__()
        self.project = linear(size, generator)
        self.gate = gate

    def forward(self, auxiliary: Tensor, global_context: Tensor) -> Tensor:
        """e''^(b_k) of some rows. All are (B, d)."""
        return self.gate.let_in(auxiliary, self.project(global_context))
