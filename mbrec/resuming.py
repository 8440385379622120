"""Going on with a training: whether what is in its folder is sound, and belongs together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mbrec import config as configuration
from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, UsageError
from mbrec.guard import inside, read_object
from mbrec.run import CHECKPOINTS, CONFIG, LAST_LINE, METRICS, RUN, SCHEMA_VERSION
from mbrec.trainer import LAST

CHANGEABLE = {"train.epochs", "train.patience", "device"}  # by a resumed training
_REMEDY = "Put back what was there, or train again with --force."


def check_resumable(out: Path, dataset: PreparedDataset, settings: Settings) -> None:
    """Check that the training in `out` is of this dataset and these settings.

    Raises:
        ArtefactError: There is none, it is damaged, or on another dataset.
        UsageError: A setting that has to stay has changed.
    """
    for name in (RUN, CONFIG, METRICS, f"{CHECKPOINTS}/{LAST}"):
        inside(out, name)  # a stranger's run must not have us write elsewhere
    if not (out / RUN).is_file():
        raise ArtefactError(
            f"{out} has no training to go on with.", "Start one by leaving --resume out."
        )
    info = read_object(out / RUN, "run", SCHEMA_VERSION, _REMEDY)
    # A training that was killed before its first checkpoint begins anew.
    if info.get("status") != "training" and not (out / CHECKPOINTS / LAST).is_file():
        raise ArtefactError(f"{out} has no training to go on with.", "Start anew with --force.")
    old = own_settings(out)
    changed = [key for key in configuration.differences(old, settings) if key not in CHANGEABLE]
    if changed:
        raise UsageError(
            f"{out} was started with another {', '.join(changed)}.",
            "A resumed training keeps its settings; start a new run to change them.",
        )
    started_on = info.get("dataset")
    if not isinstance(started_on, dict):
        raise ArtefactError(f"{out / RUN} is damaged: it names no dataset.", _REMEDY)
    if started_on.get("content_hash") != dataset.content_hash:
        raise ArtefactError(
            f"{dataset.path} is not the dataset that {out} was started on.",
            "Give the same dataset, or start a new run.",
        )
    _check_journal(out / METRICS)


def own_settings(out: Path) -> Settings:
    """The settings that a run was started with.

    Raises:
        ArtefactError: Its `config.toml` is missing or damaged, or may not be read.
    """
    path = inside(out, CONFIG)
    try:
        found = configuration.from_dict(configuration.read_toml(path))
    except UsageError as error:
        if isinstance(error.__cause__, PermissionError):
            raise ArtefactError(error.message, error.remedy) from error
        raise ArtefactError(
            f"{path} is missing or damaged: {error.message}",
            _REMEDY,
        ) from error
    # What is cut off would have its default, which may be what it was: nothing else would tell.
    if not path.read_text(encoding="utf-8").rstrip().endswith(LAST_LINE):
        raise ArtefactError(f"{path} is damaged: its end is missing.", _REMEDY)
    return found


def origin_of(dataset: PreparedDataset, settings: Settings) -> dict[str, Any]:
    """What a checkpoint has to be of to be gone on with."""
    values = configuration.flat(settings.to_dict())
    kept = {key: value for key, value in values.items() if key not in CHANGEABLE}
    return {"dataset": dataset.content_hash, **kept}


def _check_journal(path: Path) -> None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                if number == len(lines):  # older releases may have been killed within it
                    continue
                raise
            float(record["epoch"])
            valid = record.get("valid", {})
            [float(value) for name, value in valid.items() if name != "metric"]
            [(one["finding"], one["behavior"]) for one in record.get("health", ())]
    except PermissionError:
        raise  # not damaged: to delete it would lose the figures
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{path} is damaged: {error}.",
            "Delete it: the training goes on, without the figures of the epochs so far.",
        ) from error
