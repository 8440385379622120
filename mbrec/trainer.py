"""The training loop, the same for every trained method."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mbrec import checkpoint
from mbrec.checkpoint import Part, Progress
from mbrec.config import TrainConfig
from mbrec.errors import TrainingError
from mbrec.health import FiniteWatch, gate_shares
from mbrec.models.base import TrainedMethod
from mbrec.randomness import generator
from mbrec.sampling import BatchSampler
from mbrec.weighting import TaskWeighting

LAST = "last.safetensors"
BEST = "best.safetensors"

Validate = Callable[[TrainedMethod], Mapping[str, float]]
"""Behavior → validation metric, for the behaviors with validation rows."""


class Observer(Protocol):
    """Is told how training goes."""

    def step(self, epoch: int, step: int, steps: int, loss: Callable[[], float]) -> None:
        """A step is done; `loss()` gives its mean over the epoch so far (it waits for a GPU)."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done and saved; `record` is its line of metrics.jsonl."""


class Silent:
    """An observer that does nothing."""

    def step(self, epoch: int, step: int, steps: int, loss: Callable[[], float]) -> None:
        """Nothing."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Nothing."""


@dataclass
class Trainer:
    """Trains a method until the epochs are over or validation stops improving.

    After every validation the whole state is saved, so a killed training goes on from there. An
    epoch's randomness depends on the seed and its number alone: N epochs, a restart and M more
    give the weights of N + M, bit for bit on the CPU (with the same number of threads).
    """

    method: TrainedMethod
    weighting: TaskWeighting
    sampler: BatchSampler
    config: TrainConfig
    seed: int
    checkpoints: Path
    validate: Validate | None = None  # None: nothing to validate on, the last epoch is kept
    observer: Observer = field(default_factory=Silent)

    def __post_init__(self) -> None:
        self.progress = Progress()
        self.optimizer = torch.optim.Adam(self.method.parameters(), lr=self.config.lr, fused=True)
        self._parts = (
            Part(self.method, self.optimizer),
            Part(self.weighting, self.weighting.optimizer, "weighting-"),
        )

    def resume(self) -> Progress:
        """Go on from the last checkpoint.

        Raises:
            ArtefactError: There is none, or it does not fit.
        """
        self.progress = checkpoint.load(self.checkpoints / LAST, self._parts)
        return self.progress

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        at = self.progress
        return at.epoch >= self.config.epochs or at.waited >= self.config.patience

    def run(self) -> Progress:
        """Train to the end, then load the best weights into the method.

        Raises:
            TrainingError: A loss is not finite. The last good checkpoint stays.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        if self.progress.epoch == 0:
            self._save(LAST, self.progress)
        while not self.finished:
            self._epoch(self.progress.epoch + 1)
        if self.progress.best_epoch:
            checkpoint.load(self.checkpoints / BEST, [Part(self.method, None)])
        return self.progress

    def _epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        losses = self._steps(epoch)
        self._check_weights(epoch)
        seconds = time.perf_counter() - started
        due = epoch % self.config.eval_every == 0 or epoch == self.config.epochs
        values = self._validate() if due else {}
        value = sum(values.values()) / len(values) if values else None
        progress = self.progress.after(epoch, value, seconds)
        if due:
            if value is None or progress.best_epoch == epoch:
                self._save(BEST, progress)
            self._save(LAST, progress)
        self.progress = progress
        record = {"epoch": epoch, "seconds": round(seconds, 3), "loss": losses}
        record["weights"] = self.weighting.weights()
        if values:
            record["valid"] = {"metric": self.config.metric, "macro": value, **values}
            record["best_epoch"] = progress.best_epoch
            gates = gate_shares(self.method.gate_values())
            if gates:
                record["gates"] = gates
        self.observer.epoch(record)

    def _steps(self, epoch: int) -> dict[str, float]:
        """One pass over the data; the mean of each loss term over its steps."""
        method, steps = self.method, self.sampler.num_steps
        random = generator(self.seed, "sampling", epoch, self.sampler.device)
        sums: dict[str, Tensor] = {}
        method.train()
        method.begin_epoch(epoch, generator(self.seed, "method", epoch, self.sampler.device))
        watch = FiniteWatch(epoch)
        for step, batch in enumerate(self.sampler.epoch(random), start=1):
            self.optimizer.zero_grad(set_to_none=True)
            terms = method.losses(method.propagate(), batch)
            total = self.weighting.total(terms, step)
            total.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.weighting.step()
            watch.add(step, terms)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach()

            def loss(done: int = step) -> float:
                return float(sum(float(value) for value in sums.values())) / done

            self.observer.step(epoch, step, steps, loss)
        watch.check()
        return {name: float(value) / steps for name, value in sums.items()}

    def _check_weights(self, epoch: int) -> None:
        """A gradient may overflow where the loss does not: such weights are not to be saved."""
        weights = dict(self.method.named_parameters())
        finite = torch.stack([torch.isfinite(w).all() for w in weights.values()]).tolist()
        wrong = [name for name, fine in zip(weights, finite, strict=True) if not fine]
        if wrong:
            raise TrainingError(
                f"The weights are not finite after epoch {epoch}: {', '.join(wrong)}.",
                "Lower train.lr; the last good checkpoint is kept.",
            )

    def _validate(self) -> Mapping[str, float]:
        if self.validate is None:
            return {}
        self.method.eval()
        return self.validate(self.method)

    def _save(self, name: str, progress: Progress) -> None:
        checkpoint.save(self.checkpoints / name, self._parts, progress)
