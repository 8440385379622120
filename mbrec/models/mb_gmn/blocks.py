"""What the networks of MB-GMN go over the nodes with, block by block (see `model.py`).

A network that makes much more than it returns works in the cache of the CPU that way, forward and
backward.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

_BLOCK = {"cpu": 1 << 9}
"""Nodes at a time, by kind of device."""

_LARGE_BLOCK = 1 << 20
"""The same for all others, where it counts to launch little."""

SLOPE = 0.01
"""Of φ = LeakyReLU, below 0."""


def blocks(nodes: Tensor) -> Iterator[slice]:
    """Their rows, one block after the other."""
    size = _BLOCK.get(nodes.device.type, _LARGE_BLOCK)
    return (slice(start, start + size) for start in range(0, len(nodes), size))


def leaky_backward(gradient: Tensor, result: Tensor) -> Tensor:
    """Of φ, from what it returned."""
    found: Tensor = torch.ops.aten.leaky_relu_backward(gradient, result, SLOPE, True)
    return found


def zeros(like: Tensor) -> Tensor:
    """A contiguous gradient to add to."""
    return torch.zeros_like(like, memory_format=torch.contiguous_format)


def linear(
    inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True
) -> nn.Linear:
    """A linear map with Glorot weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
