"""CGF: cascading gated feedback (equations 5-6 of BiGEL)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_SLOPE = 0.01  # of LeakyReLU


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
        return torch.sigmoid(last(F.leaky_relu(embedding, _SLOPE)))

    def let_in(self, own: Tensor, signal: Tensor) -> Tensor:
        """`own` + g ⊗ signal, where g is the gate of `own`. All are (B, d)."""
        *inner, last = self.maps
        embedding = own
        for layer in inner:
            embedding = layer(embedding)
        assert isinstance(last, nn.Linear)
        found: Tensor = _LetIn.apply(  # type: ignore[no-untyped-call]
            own, embedding, signal, last.weight, last.bias
        )
        return found


class _LetIn(torch.autograd.Function):
    """e + σ(W LeakyReLU(h) + b) ⊗ s, in fewer passes over (B, d) than its parts one by one."""

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, embedding: Tensor, signal: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """The result (B, d) of e, h and s (B, d) each, W (d, d) and b (d,)."""
        hidden = F.leaky_relu(embedding, _SLOPE)
        gate = torch.addmm(bias, hidden, weight.T).sigmoid_()
        ctx.save_for_backward(hidden, signal, gate, weight)
        ctx.same = embedding is own
        return torch.addcmul(own, gate, signal)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all five, from that of the result (B, d)."""
        hidden, signal, gate, weight = ctx.saved_tensors
        inner = outer * signal
        # The gradients of σ and LeakyReLU in place, by the functions that torch itself uses.
        torch.ops.aten.sigmoid_backward.grad_input(inner, gate, grad_input=inner)
        before = inner @ weight
        torch.ops.aten.leaky_relu_backward.grad_input(
            before, hidden, _SLOPE, True, grad_input=before
        )
        weights = inner.T @ hidden, inner.sum(0)
        if ctx.same:
            return before.add_(outer), None, outer * gate, *weights
        return outer, before, outer * gate, *weights


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
        return self.gate.let_in(auxiliary, target)


def linear(size: int, generator: torch.Generator) -> nn.Linear:
    """A d × d linear map with Glorot weights and zero bias (so that a gate starts near ½)."""
    layer = nn.Linear(size, size)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
