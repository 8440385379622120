"""Exponential moving averages of weights.

The weights of a single step carry the noise of its batch; their average over the last steps ranks
better and moves less from one validation to the next (Polyak averaging; Izmailov et al., UAI 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """The average w̄ ← γ_t w̄ + (1 - γ_t) w with γ_t = min(γ, (1 + t) / (10 + t)), t from 1.

    The first steps count little for long that way. γ = 0 keeps no average and costs nothing.

    Args:
        module: Whose parameters.
        decay: γ in 0 … 1; 1 / (1 - γ) is about the number of steps averaged over.
    """

    steps: Tensor

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._weights: list[Tensor] = list(module.parameters()) if decay else []
        self._done = 0
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for place, weight in enumerate(self._weights):
            self.register_buffer(str(place), weight.detach().clone())

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights after a step."""
        if not self._weights:
            return
        self.steps += 1  # for the checkpoint; to read it here would wait for a GPU
        self._done += 1
        decay = min(self.decay, (1 + self._done) / (10 + self._done))
        torch._foreach_lerp_(self._averages(), self._weights, 1 - decay)

    def restored(self) -> None:
        """Say that the state was loaded from a checkpoint."""
        self._done = int(self.steps)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the module has the average in place of its weights."""
        own = [weight.detach().clone() for weight in self._weights]
        self.keep()
        try:
            yield
        finally:
            self._set(own)

    def keep(self) -> None:
        """Give the module the average for good."""
        self._set(self._averages())

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def _averages(self) -> list[Tensor]:
        return [self.get_buffer(str(place)) for place in range(len(self._weights))]
