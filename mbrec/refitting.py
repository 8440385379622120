"""Refitting: a last training on all rows but the test part, with what a run before has chosen.

Validation rows choose the epochs and what the parts of a stack count. Once they have, they are the
rows nearest to what is to be predicted: a list for tomorrow should know of them. So the method is
trained anew, on training and validation rows together, for as many epochs as each of its parts took
to its best, and takes over what was learned from the validation rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mbrec.config import Settings
from mbrec.errors import ArtefactError, UsageError
from mbrec.guard import inside, read_object
from mbrec.resuming import own_settings
from mbrec.run import RUN, SCHEMA_VERSION, Run

_REMEDY = "Refit the first run again, with --force."


@dataclass(frozen=True)
class Plan:
    """What a refit takes over from the run that it follows."""

    run: str  # its folder
    scores: str  # the hash of its scores
    epochs: dict[str, int] = field(default_factory=dict)  # part of the method → its best epoch
    calibration: dict[str, Any] = field(default_factory=dict)
    """What `TrainedMethod.calibrate` chose."""

    def plain(self) -> dict[str, Any]:
        """Plain values, for `run.json`."""
        return asdict(self)


def plan_refit(run: Run) -> tuple[Settings, Plan]:
    """The settings of a refit of `run`, and what it takes over.

    Raises:
        UsageError: The run has been refitted already, or had nothing to choose by.
        ArtefactError: Its settings are damaged.
    """
    if run.refitted:
        raise UsageError(
            f"{run.path} was trained on the validation rows already.",
            "Refit the run that it follows, or train a new one.",
        )
    if not run.info.get("valid"):
        raise UsageError(
            f"{run.path} was trained without validation rows: a refit would be the same again.",
            "Prepare the data with a validation part.",
        )
    settings = own_settings(run.path)
    best = run.info.get("best_epoch")
    if best is not None:
        train = settings.train.model_copy(update={"epochs": int(best)})
        settings = settings.model_copy(update={"train": train})
    # What is taken over is of the cascade that was trained; all rows might speak for another.
    order = tuple(run.behaviors) if settings.order == "learned" else settings.order
    return settings.model_copy(update={"rows": "train+valid", "order": order}), Plan(
        run=str(run.path.resolve()),
        scores=run.source["scores"],
        epochs={name: int(epoch) for name, epoch in run.info.get("best_epochs", {}).items()},
        calibration=dict(run.info.get("calibration") or {}),
    )


def plan_of(out: Path) -> Plan | None:
    """What the training in `out` takes over, if it is a refit.

    Raises:
        ArtefactError: Its `run.json` is damaged.
    """
    if not (out / RUN).is_file():
        return None
    found = read_object(inside(out, RUN), "run", SCHEMA_VERSION, _REMEDY).get("refit")
    if found is None:
        return None
    try:
        return Plan(**found)
    except TypeError as error:
        raise ArtefactError(f"{out / RUN} is damaged: {error}.", _REMEDY) from error
