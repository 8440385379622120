"""The training loop, the same for every trained method."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from mbrec import checkpoint
from mbrec.checkpoint import Part, Progress
from mbrec.config import TrainConfig
from mbrec.errors import StoppedError, TrainingError
from mbrec.files import sweep
from mbrec.health import FiniteWatch, gate_shares
from mbrec.keeping import Keeper, Validate
from mbrec.memory import keep_freed_memory, return_freed_memory
from mbrec.models.base import TrainedMethod
from mbrec.parallel.team import ALONE, Team
from mbrec.randomness import generator
from mbrec.sampling import Batch, BatchSampler
from mbrec.weighting import TaskWeighting

LAST = "last.safetensors"

Stop = AbstractContextManager[Callable[[], bool]]
"""Entered around the training steps; what it gives says whether to save and stop."""


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
class _Epoch:
    """An epoch that is under way."""

    number: int
    step: int  # steps done
    sums: dict[str, Tensor]  # loss term → its sum over them
    random: torch.Generator  # what the method draws from
    started: float  # on the clock, less what was spent before a stop

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Count a step that is done."""
        self.step = step
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + term.detach()

    def means(self) -> dict[str, float]:
        """The mean of each loss term over the steps."""
        return {name: float(value) / self.step for name, value in self.sums.items()}

    def loss(self) -> float:
        """The mean loss over the steps."""
        return sum(float(value) for value in self.sums.values()) / self.step

    def seconds(self) -> float:
        """Spent so far."""
        return time.perf_counter() - self.started


@dataclass
class Trainer:
    """Trains a method until the epochs are over or validation stops improving.

    After every validation the whole state is saved, so a killed training goes on from there; one
    that is asked to stop saves itself after the step. An epoch's randomness depends on the seed and
    its number alone: N epochs, a restart and M more give the weights of N + M, bit for bit on the
    CPU (with the same number of threads), if `eval_every` divides N: the last epoch is always
    validated, and may be the best.

    Several processes train together where each has a trainer of its own with the same `team`: they
    draw the same batches, learn their own columns, and the first of them saves.
    """

    method: TrainedMethod
    weighting: TaskWeighting
    sampler: BatchSampler
    config: TrainConfig
    seed: int
    checkpoints: Path
    validate: Validate | None = None  # None: nothing to validate on, the last epoch is kept
    observer: Observer = field(default_factory=Silent)
    origin: Mapping[str, Any] = field(default_factory=dict)  # what checkpoints are to be of
    stop: Callable[[], bool] = lambda: False  # asked after every step: stop and save?
    note: Callable[[Mapping[str, Any]], None] = lambda record: None  # an epoch, before it is saved
    team: Team = ALONE
    until: Mapping[str, int] = field(default_factory=dict)  # part of the method → its last epoch

    def __post_init__(self) -> None:
        self.progress = Progress()
        self._begun: Mapping[str, Tensor] = {}  # of an epoch that was stopped within
        self.optimizer = torch.optim.Adam(self.method.parameters(), lr=self.config.lr, fused=True)
        self.keeper = Keeper(
            self.method, self.config.average, self.checkpoints, self.origin, self.team
        )
        self._parts = (
            Part(self.method, self.optimizer, divided=self.method.divided()),
            Part(self.weighting, self.weighting.optimizer, "weighting-"),
            *self.keeper.saved(),
        )

    def resume(self) -> Progress:
        """Go on from the last checkpoint.

        Raises:
            ArtefactError: There is none, or it does not fit.
        """
        self.progress, self._begun = checkpoint.load(
            self.checkpoints / LAST, self._parts, self.origin, self.team
        )
        self.keeper.restored()
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
            StoppedError: `stop` asked for it. Everything up to the last step is saved.
        """
        keep_freed_memory()
        try:
            self._run()
        finally:
            return_freed_memory()
        return self.progress

    def _run(self) -> None:
        if self.team.first:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            sweep(self.checkpoints)  # where nothing is left to train, nothing is saved
        if self.progress == Progress():
            self._save(LAST, self.progress)
        while not self.finished:
            self._epoch(self.progress.epoch + 1)
        if self.progress.best_epoch:
            self.keeper.load()
        else:
            self.keeper.keep()

    def give_way(self) -> None:
        """For `validate` to call now and then: ends it where `stop` asks for that.

        Raises:
            StoppedError: It does.
        """
        if self.team.any(self.stop()):
            raise StoppedError("Stopped while validating.")

    def _epoch(self, epoch: int) -> None:
        under_way = self._begin(epoch)
        self._steps(under_way)
        losses, seconds = under_way.means(), under_way.seconds()
        due = epoch % self.config.eval_every == 0 or epoch == self.config.epochs
        try:
            found = self._validate() if due else {}
        except StoppedError:
            self._stop(under_way)
        progress = self.progress.after(epoch, found, seconds)
        record = {"epoch": epoch, "seconds": round(seconds, 3), "loss": losses}
        record["weights"] = self.weighting.weights()
        if found:
            record |= self._validated(found, progress)
        self.note(record)
        if due:
            self.keeper.save(progress, validated=bool(found))
            self._save(LAST, progress)
        self.progress = progress
        self.observer.epoch(record)

    def _validated(
        self, found: Mapping[str, Mapping[str, float]], progress: Progress
    ) -> dict[str, Any]:
        """What a record says of a validation; a part that rests counts with its best values."""
        now = [found.get(name, standing.values) for name, standing in progress.parts.items()]
        values = {name: sum(part[name] for part in now) / len(now) for name in now[0]}
        macro = sum(values.values()) / len(values)
        record: dict[str, Any] = {"valid": {"metric": self.config.metric, "macro": macro, **values}}
        record["best_epoch"] = progress.best_epoch
        if len(now) > 1:
            record["parts"] = {
                name: {"best_epoch": standing.best_epoch, "best": standing.best_value}
                for name, standing in progress.parts.items()
            }
        gates = gate_shares(self.method.gate_values())
        return {**record, "gates": gates} if gates else record

    def _begin(self, epoch: int) -> _Epoch:
        """The epoch at its first step, or where it was stopped."""
        device = self.sampler.device
        own = generator(self.seed, "method", epoch, device)
        self.method.train()
        self.keeper.rest(self.progress, self.config.patience, self.until)
        self.method.begin_epoch(epoch, own)
        begun, self._begun = self._begun, {}
        state = begun.get(f"random-{device.type}")
        if state is not None:
            own.set_state(state)
        sums = {n[4:]: value.to(device) for n, value in begun.items() if n.startswith("sum/")}
        at = self.progress
        return _Epoch(epoch, at.step, sums, own, time.perf_counter() - at.step_seconds)

    def _steps(self, epoch: _Epoch) -> None:
        """The epoch's steps that are not done yet, each over a batch."""
        watch, done = FiniteWatch(epoch.number), epoch.step
        random = generator(self.seed, "sampling", epoch.number, self.sampler.device)
        # The batches of the steps that are done are drawn again, for those after them to be the
        # same.
        for step, batch in enumerate(self.sampler.epoch(random), start=1):
            if step <= done:
                continue
            terms = self._step(step, batch)
            watch.add(step, terms)
            epoch.add(step, terms)
            self.observer.step(epoch.number, step, self.sampler.num_steps, epoch.loss)
            if self.team.any(self.stop()):
                watch.check()
                self._stop(epoch)
        watch.check()
        self._check_weights(epoch.number)

    def _step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.method.losses(self.method.propagate(), batch)
        total = self.weighting.total(terms, step)
        total.backward()  # type: ignore[no-untyped-call]
        self.method.join_gradients()
        self.optimizer.step()
        self.keeper.update()
        self.weighting.step()
        return terms

    def _stop(self, epoch: _Epoch) -> NoReturn:
        self._check_weights(epoch.number)
        at = replace(self.progress, step=epoch.step, step_seconds=epoch.seconds())
        state = {f"random-{self.sampler.device.type}": epoch.random.get_state()}
        sums = {f"sum/{name}": value for name, value in epoch.sums.items()}
        self._save(LAST, at, {**state, **sums})
        raise StoppedError(
            f"Stopped in epoch {epoch.number}, after step {epoch.step} of "
            f"{self.sampler.num_steps}; everything up to there is saved."
        )

    def _check_weights(self, epoch: int) -> None:
        """A gradient may overflow where the loss does not: such weights are not to be saved."""
        weights = dict(self.method.named_parameters())
        bad = torch.stack([w.isfinite().all().logical_not().int() for w in weights.values()])
        wrong = [name for name, no in zip(weights, self.team.sum(bad).tolist(), strict=True) if no]
        if wrong:
            raise TrainingError(
                f"The weights are not finite after epoch {epoch}: {', '.join(wrong)}.",
                "Lower train.lr; the last good checkpoint is kept.",
            )

    def _validate(self) -> Mapping[str, Mapping[str, float]]:
        if self.validate is None:
            return {}
        self.method.eval()
        return self.keeper.validate(self.validate)

    def _save(
        self, name: str, progress: Progress, loose: Mapping[str, Tensor] | None = None
    ) -> None:
        path = self.checkpoints / name
        checkpoint.save(path, self._parts, progress, loose, self.origin, self.team)
