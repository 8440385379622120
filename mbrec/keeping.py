"""The best weights of a training, and the files that hold them.

A method may be made of several that share no weights (`TrainedMethod.parts`), and
they do not learn at the same pace. Each is validated by itself, kept as it was at its own best
epoch, and rests once it has not improved for as many validations as patience allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mbrec import checkpoint
from mbrec.averaging import WeightAverage
from mbrec.checkpoint import Origin, Part, Progress
from mbrec.models.base import TrainedMethod
from mbrec.parallel.columns import Columns
from mbrec.parallel.team import ALONE, Team

BEST = "best.safetensors"

Validate = Callable[[TrainedMethod], Mapping[str, float]]
"""Behavior → validation metric, for the behaviors with validation rows."""


class Keeper:
    """The parts of a method with their averages, and the best weights of each in a file of its own.

    Args:
        method: What learns; without `parts`, it is the one part, called "".
        decay: Of `WeightAverage`.
        folder: Of the files.
        origin: What they are to be of.
        team: The processes that train together.
    """

    def __init__(
        self,
        method: TrainedMethod,
        decay: float,
        folder: Path,
        origin: Origin | None = None,
        team: Team = ALONE,
    ) -> None:
        self.parts: dict[str, TrainedMethod] = dict(method.parts()) or {"": method}
        self.averages = {name: WeightAverage(part, decay) for name, part in self.parts.items()}
        for name, part in self.parts.items():
            self.averages[name].to(next(part.parameters()).device)
        self.learning = tuple(self.parts)
        self._method, self._folder = method, folder
        self._origin, self._team = origin, team

    def path(self, name: str) -> Path:
        """Where the best weights of a part are."""
        return self._folder / (f"best.{name}.safetensors" if name else BEST)

    @property
    def complete(self) -> bool:
        """Whether all files are there."""
        return all(self.path(name).is_file() for name in self.parts)

    def saved(self) -> list[Part]:
        """The averages, as a checkpoint of the whole training holds them."""
        return [self._average(name) for name in self.parts]

    def restored(self) -> None:
        """Say that the averages were loaded from a checkpoint."""
        for average in self.averages.values():
            average.restored()

    def rest(self, at: Progress, patience: int, until: Mapping[str, int]) -> None:
        """Let the parts rest that have waited for `patience` validations, and the others learn.

        Args:
            at: Where the training stands.
            patience: How long a part is trained without a better validation.
            until: Part → its last epoch, where that is known beforehand.
        """
        self.learning = tuple(
            name
            for name in self.parts
            if at.waited_of(name) < patience and at.epoch < until.get(name, at.epoch + 1)
        )
        self._method.learn(self.learning)

    def update(self) -> None:
        """Count the weights after a step."""
        for name in self.learning:
            self.averages[name].update()

    def validate(self, validate: Validate) -> dict[str, Mapping[str, float]]:
        """Part → behavior → metric, of the parts that learn, by the average of their weights."""
        found = {}
        for name in self.learning:
            with self.averages[name].applied():
                found[name] = validate(self.parts[name])
        return found

    def save(self, at: Progress, *, validated: bool) -> None:
        """Write the parts whose best epoch is the last one; without validation, all of them."""
        for name in self.parts:
            if not validated or at.best_epoch_of(name) == at.epoch:
                self._save(name, at)

    def load(self) -> None:
        """Give every part its best weights, averaged.

        Raises:
            ArtefactError: A file is missing, damaged, or of another model or run.
        """
        for name in self.parts:
            checkpoint.load(self.path(name), self._files(name), self._origin, self._team)
        self.keep()

    def keep(self) -> None:
        """Give every part the average of its weights for good."""
        for average in self.averages.values():
            average.keep()

    def _save(self, name: str, at: Progress) -> None:
        files = self._files(name)
        checkpoint.save(self.path(name), files, at, None, self._origin, self._team)

    def _files(self, name: str) -> list[Part]:
        part = self.parts[name]
        return [Part(part, None, divided=part.divided()), self._average(name)]

    def _average(self, name: str) -> Part:
        prefix = f"average-{name}-" if name else "average-"
        return Part(self.averages[name], None, prefix, self._columns(name))

    def _columns(self, name: str) -> dict[str, Columns]:
        """`TrainedMethod.divided`, by the names within the average, which are numbers."""
        divided = self.parts[name].divided()
        names = [own for own, _ in self.parts[name].named_parameters()]
        return {str(place): divided[own] for place, own in enumerate(names) if own in divided}
