"""What Optuna knows of a study: it says what to try next, keeps the results and prunes.

Every draw comes from the seed and the number of trials before it, so that a search that was stopped
goes on as if it had not been: with one trial at a time, to the same study.

A trial that was under way when the search was stopped is over in Optuna, as failed; one with the
same settings waits in its place ("retry_of"), and it alone counts.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbrec.errors import ArtefactError, DeviceError
from mbrec.tune.coding import coded, decoded, distribution, grid
from mbrec.tune.space import Point, Space
from mbrec.tune.summary import State, TrialSummary
from mbrec.tune.trial import Outcome

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial
    from optuna.trial import FrozenTrial

NAME = "mbrec"
FEWEST = 8
"""Finished trials from which on importances are said."""

_LOSSES = 2  # how often a trial is tried whose process dies
_UNPRUNED_TRIALS, _UNPRUNED_EPOCHS = 5, 3
_OUTCOME = "outcome"


@dataclass(frozen=True)
class Asked:
    """A trial that is to be run."""

    number: int
    point: Point


def require_optuna() -> None:
    """Raise a `DeviceError` unless Optuna is installed."""
    if find_spec("optuna") is None:
        raise DeviceError(
            "A search needs the package optuna.", "Install it with: pip install 'mbrec[tune]'."
        )


class Study:
    """The trials of a study, in the file `storage`; nobody else may have it open.

    Args:
        storage: The file; it is made if it is not there.
        space: What to search.
        start: The point to begin with.
        seed: Of all draws.
        prune: Whether trials that are behind are ended early.

    Raises:
        ArtefactError: The file is damaged.
    """

    def __init__(self, storage: Path, space: Space, start: Point, seed: int, prune: bool) -> None:
        self._space, self._seed, self._prune = space, seed, prune
        self._distributions = {key: distribution(d) for key, d in space.domains.items()}
        self._running: dict[int, Trial] = {}
        self._filled = False
        self._study = _open(storage)
        self._settle()
        self._study.enqueue_trial(
            coded(space, start), user_attrs={"start": True}, skip_if_exists=True
        )

    def fill(self) -> None:
        """Let all points of a finite space wait for their turn, instead of drawing them."""
        for point in grid(self._space):
            self._study.enqueue_trial(coded(self._space, point), skip_if_exists=True)
        self._filled = True

    @property
    def exhausted(self) -> bool:
        """Whether every point of a finite space has had its turn."""
        return self._filled and all(trial.state.name != "WAITING" for trial in self._counted())

    @property
    def begun(self) -> int:
        """How many trials count: those that are over and those under way."""
        return sum(trial.state.name != "WAITING" for trial in self._counted())

    def ask(self) -> Asked:
        """The next trial; it is under way from now on."""
        from optuna.samplers import TPESampler

        stream = np.random.SeedSequence(self._seed, spawn_key=(self.begun,))
        self._study.sampler = TPESampler(seed=int(stream.generate_state(1)[0]))
        trial = self._study.ask(self._distributions)
        self._running[trial.number] = trial
        return Asked(trial.number, decoded(self._space, trial.params))

    def same(self, asked: Asked) -> int | None:
        """A finished trial with the same settings, by its number here."""
        return next(
            (
                trial.number
                for trial in self._study.trials
                if trial.state.name == "COMPLETE"
                and decoded(self._space, trial.params) == asked.point
            ),
            None,
        )

    def copy(self, number: int, source: int) -> None:
        """Give a trial the figures of another with the same settings."""
        other = self._study.trials[source]
        outcome = Outcome(**{**other.user_attrs[_OUTCOME], "seconds": 0.0})
        self._running[number].set_user_attr("same_as", source)
        self.tell(number, outcome)

    def report(self, number: int, record: Mapping[str, Any]) -> bool:
        """Note an epoch; says whether the trial is so far behind that it should end."""
        trial, valid = self._running[number], record.get("valid")
        if not valid:
            return False
        trial.report(valid["macro"], int(record["epoch"]))
        # The start is what all others are compared with.
        return self._prune and "start" not in trial.user_attrs and trial.should_prune()

    def tell(self, number: int, outcome: Outcome) -> None:
        """A trial is over."""
        trial = self._running.pop(number)
        losses = int(trial.user_attrs.get("losses", 0)) + 1
        if outcome.lost and losses < _LOSSES:
            self._again(self._study.trials[number], losses)
            return
        trial.set_user_attr(_OUTCOME, outcome.to_dict())
        if outcome.state == "finished":
            self._study.tell(number, outcome.value)
        else:
            self._study.tell(
                number, state=_state("PRUNED" if outcome.state == "pruned" else "FAIL")
            )

    def interrupt(self) -> None:
        """All that is under way has been stopped, and waits to be run anew."""
        for number in list(self._running):
            del self._running[number]
            self._again(self._study.trials[number])

    def trials(self) -> tuple[TrialSummary, ...]:
        """What is known of all trials that count, in their order."""
        counted = [trial for trial in self._counted() if trial.state.name != "WAITING"]
        numbers = {trial.number: place for place, trial in enumerate(counted, start=1)}
        return tuple(self._summary(trial, numbers) for trial in counted)

    def trial(self, number: int) -> TrialSummary | None:
        """A trial by the number that `ask` gave; None if another has taken its place."""
        counted = [trial for trial in self._counted() if trial.state.name != "WAITING"]
        place = next((n for n, t in enumerate(counted) if t.number == number), None)
        return None if place is None else self.trials()[place]

    def importances(self) -> dict[str, float]:
        """Setting → its share in what makes trials good, largest first (PED-ANOVA).

        Empty for fewer than `FEWEST` finished trials, or where all came out the same.
        """
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        values = [t.value for t in self._study.trials if t.state.name == "COMPLETE"]
        if len(values) < FEWEST or len(set(values)) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is called experimental in some releases
            found = get_param_importances(self._study, evaluator=PedAnovaImportanceEvaluator())
        return {key: round(float(share), 6) for key, share in found.items()}

    def _counted(self) -> list[FrozenTrial]:
        trials = self._study.trials
        replaced = {trial.user_attrs.get("retry_of") for trial in trials}
        return [trial for trial in trials if trial.number not in replaced]

    def _settle(self) -> None:
        """What is under way without us died with its search; a start that failed is run again."""
        counted = {trial.number for trial in self._counted()}
        for trial in self._study.trials:
            failed = trial.state.name == "FAIL" and "start" in trial.user_attrs
            if trial.state.name == "RUNNING" or (failed and trial.number in counted):
                self._again(trial)

    def _again(self, trial: FrozenTrial, losses: int = 0) -> None:
        """Let a trial wait anew; killed at any line, the next search finds what is left to do."""
        if trial.number in {other.number for other in self._counted()}:
            kept = {k: v for k, v in trial.user_attrs.items() if k == "start"}
            attributes = {**kept, "retry_of": trial.number, "losses": losses}
            self._study.enqueue_trial(trial.params, user_attrs=attributes)
        if trial.state.name == "RUNNING":
            self._study.tell(trial.number, state=_state("FAIL"))

    def _summary(self, trial: FrozenTrial, numbers: Mapping[int, int]) -> TrialSummary:
        states: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
        outcome = Outcome(**trial.user_attrs.get(_OUTCOME, {"state": "running"}))
        return TrialSummary(
            number=numbers[trial.number],
            state=states.get(trial.state.name, "running"),
            settings=decoded(self._space, trial.params),
            value=trial.value if trial.state.name == "COMPLETE" else None,
            behaviors=outcome.behaviors or None,
            curve=tuple(sorted(trial.intermediate_values.items())),
            epochs=outcome.epochs,
            best_epoch=outcome.best_epoch,
            seconds=outcome.seconds,
            error=outcome.error,
            start="start" in trial.user_attrs,
            same_as=numbers.get(trial.user_attrs.get("same_as", -1)),
        )


def _open(storage: Path) -> OptunaStudy:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(logging.ERROR)
    _mend(storage)
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(storage))),
            pruner=optuna.pruners.MedianPruner(_UNPRUNED_TRIALS, _UNPRUNED_EPOCHS),
            study_name=NAME,
            direction="maximize",
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:
        raise ArtefactError(
            f"{storage} is damaged: {error}.", "Search again, in another folder."
        ) from error


def _mend(storage: Path) -> None:
    """Remove what a search left that was killed while it wrote: half a line, and Optuna's lock.

    Optuna would write the next line onto the half one, and then read neither.
    """
    Path(f"{storage}.lock").unlink(missing_ok=True)
    if storage.is_file():
        content = storage.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with storage.open("r+b") as file:
                file.truncate(whole)


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]
