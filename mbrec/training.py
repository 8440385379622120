"""From a prepared dataset and settings to a finished run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from mbrec import config as configuration
from mbrec.arrangement import arrange
from mbrec.checkpoint import Progress
from mbrec.columns import Split
from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.device import make_engine, pick_device
from mbrec.errors import DataError, TrainingError, UsageError
from mbrec.evaluation import evaluate
from mbrec.health import Finding, HealthWatch, sparse_behaviors
from mbrec.journal import Journal
from mbrec.locks import locked
from mbrec.model_card import write_card
from mbrec.models.base import Context, Method, Times, TrainedMethod, check_names
from mbrec.models.registry import find
from mbrec.packing import pack
from mbrec.parallel import tensor_file
from mbrec.parallel.columns import Columns
from mbrec.parallel.dividing import check_dividable
from mbrec.parallel.ranking import WholeFactors
from mbrec.parallel.team import ALONE, Team
from mbrec.randomness import generator
from mbrec.resuming import check_resumable, origin_of
from mbrec.run import CHECKPOINTS, METRICS, Run, finish_run
from mbrec.sampling import BatchSampler
from mbrec.starting import first_info, refuse_run, start, write_settings
from mbrec.storage import storage_errors
from mbrec.trainer import LAST, Observer, Silent, Stop, Trainer
from mbrec.weighting import TaskWeighting, make_weighting

VISIBLE: tuple[Split, ...] = ("train", "valid")  # training never sees a test row

log = logging.getLogger(__name__)


def train_run(
    data: Path | str,
    out: Path | str,
    settings: Settings | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    observer: Observer | None = None,
    stop: Stop | None = None,
    team: Team = ALONE,
) -> Run:
    """Train a method on a prepared dataset.

    Args:
        data: The folder that `mbrec prep` wrote.
        out: The run's folder.
        settings: What to train and how; BiGEL with its defaults if None.
        resume: Go on with the training in `out`; only epochs and patience may have changed.
        force: Replace a run that is in `out`.
        observer: Is told how training goes.
        stop: Entered around the training steps; what it gives is called after each step and now and
            then while validating, and says whether to save and stop. See `mbrec train`.
        team: The processes that train together, of which all call this; see `docs/processes.md`.

    Returns:
        The finished run.

    Raises:
        UsageError: `out` exists, or the settings of a resumed training have changed.
        BusyError: Another process writes into `out`.
        RankError: One of the team has ended; `resume` goes on after the last checkpoint.
        StorageError: The disk is full; `resume` goes on after the last checkpoint.
        ArtefactError: `data` is no dataset, or there is nothing to resume.
        DeviceError: The device or engine is not there.
        TrainingError: A loss is not finite.
        StoppedError: `stop` asked for it; `resume` goes on after the last step, to the same result.
    """
    out, settings = Path(out), settings or configuration.from_dict({})
    dataset = arrange(PreparedDataset(data, VISIBLE), settings)
    check_dividable(settings, team)
    if not team.first:
        return _train(out, dataset, settings, resume, Silent(), stop, team)

    def check() -> None:
        if resume:
            check_resumable(out, dataset, settings)
        else:
            refuse_run(out, force)

    check()  # before anything is made there
    with storage_errors(out), locked(out):
        check()  # another process may have come first
        return _train(out, dataset, settings, resume, observer or Silent(), stop, team)


def _train(
    out: Path,
    dataset: PreparedDataset,
    settings: Settings,
    resume: bool,
    observer: Observer,
    stop: Stop | None,
    team: Team,
) -> Run:
    """`train_run`, alone in `out`."""
    device = pick_device(settings.device)
    method = build_method(dataset, settings, device, team)
    weighting = _weighting(method, dataset, settings, team)
    info = first_info(settings, device, team)
    # Written at the end, read now: by then the dataset may be gone.
    _ = dataset.user_ids, dataset.item_ids
    if not resume and team.first:
        start(out, dataset, settings, info)
    team.wait()
    if isinstance(method, TrainedMethod) and weighting is not None:
        health = HealthWatch(dataset.target, _sparse(dataset) if team.first else [])
        journal = Journal(out / METRICS, health, observer) if team.first else None
        trainer = _trainer(method, weighting, dataset, settings, out, journal, team)
        if resume and team.first:
            write_settings(out, settings)
        if resume and team.any((out / CHECKPOINTS / LAST).is_file()):
            trainer.resume()
        at = _trained(trainer, journal, stop or nullcontext(lambda: False))
        info.update(epochs=at.epoch, best_epoch=at.best_epoch or at.epoch, seconds=at.seconds)
        info.update(_calibrated(method, dataset, settings))
    _finish(out, method, info, dataset, team)
    return Run(out)


def _finish(
    out: Path, method: Method, info: dict[str, Any], dataset: PreparedDataset, team: Team
) -> None:
    """Evaluate the method and write the run; with a team, as if one process had trained it."""
    scorers = method.scorers()
    columns = method.columns if isinstance(method, TrainedMethod) else Columns()
    whole = WholeFactors(scorers, columns)
    result = evaluate(whole, dataset, "valid", team=team) if _held_out(dataset) else None
    info["valid"] = result.summary() if result is not None else None

    def save(tensors: Mapping[str, Tensor], path: Path | None) -> None:
        tensor_file.write(path, tensors, dict.fromkeys(tensors, columns))

    if not team.first:
        save(pack(scorers)[1], None)
    else:
        given = {"save": save} if columns.split else {}
        finish_run(out, {**info, "status": "finished"}, scorers, dataset, **given)
        write_card(out, dataset.manifest)
    team.wait()


def _calibrated(
    method: TrainedMethod, dataset: PreparedDataset, settings: Settings
) -> dict[str, Any]:
    valid = {name: dataset.pairs(name, "valid") for name in _held_out(dataset)}
    metric = settings.train.metric.partition("@")[0]
    chosen = method.calibrate(valid, metric, settings.train.metric_k) if valid else {}
    return {"calibration": chosen} if chosen else {}


def build_method(
    dataset: PreparedDataset, settings: Settings, device: torch.device, team: Team = ALONE
) -> Method:
    """The method of `settings`, untrained, over the training part of `dataset`."""
    entry = find(settings.method)
    for name, value in settings.model:
        if isinstance(value, Mapping):
            check_names(f"model.{name}", value, dataset.behaviors)
    context = Context(
        behaviors=dataset.behaviors,
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        train=dataset.train_relations(),
        engine=make_engine(settings.engine, dataset, device) if entry.needs_engine else None,
        generator=generator(settings.seed, "init"),
        device=device,
        times=_times(dataset),
        team=team,
    )
    method = entry.build(settings.model, context)
    return method.to(device) if isinstance(method, TrainedMethod) else method


def _times(dataset: PreparedDataset) -> dict[str, Times]:
    """`Context.times`: without the behaviors of which no training row has a time."""
    found = {behavior: dataset.timestamps(behavior, "train") for behavior in dataset.behaviors}
    return {
        behavior: pc.fill_null(times, np.iinfo(np.int64).min).to_numpy()
        for behavior, times in found.items()
        if times.null_count < len(times)
    }


def _weighting(
    method: Method, dataset: PreparedDataset, settings: Settings, team: Team
) -> TaskWeighting | None:
    if isinstance(method, TrainedMethod):
        shared = method.shared_parameters()
        return make_weighting(settings.train, dataset.behaviors, shared, team)
    if settings.train.weighting != "equal" or settings.train.task_weights:
        raise UsageError(
            f"{settings.method} does not learn by steps: there are no task losses to weight.",
            "Leave train.weighting and train.task_weights out.",
        )
    return None


def _trainer(
    method: TrainedMethod,
    weighting: TaskWeighting,
    dataset: PreparedDataset,
    settings: Settings,
    out: Path,
    observer: Observer | None,
    team: Team,
) -> Trainer:
    device = next(method.parameters()).device
    sampler = BatchSampler(
        dataset.train_relations(),
        dataset.num_users,
        dataset.num_items,
        batch_size=settings.train.batch_size,
        negatives=settings.train.negatives,
        device=device,
    )
    if not sampler.num_pairs:
        raise DataError(f"{dataset.path} has no training pair to learn from.")
    held_out = _held_out(dataset)
    metric, k = settings.train.metric, settings.train.metric_k

    def validate(method: TrainedMethod) -> dict[str, float]:
        scorers = WholeFactors(
            {name: found for name, found in method.scorers().items() if name in held_out},
            method.columns,
        )
        result = evaluate(
            scorers,
            dataset,
            "valid",
            ks=(k,),
            progress=lambda *_: trainer.give_way(),
            team=team,
        )
        return {name: result.summary()["behaviors"][name][metric] for name in held_out}

    if not held_out:
        log.warning("No behavior has validation rows: all epochs are trained, the last is kept.")
    for behavior in set(dataset.behaviors) - set(held_out if held_out else dataset.behaviors):
        log.warning("%r has no validation rows and does not count in early stopping.", behavior)
    trainer = Trainer(
        method,
        weighting.to(device),
        sampler,
        settings.train,
        settings.seed,
        out / CHECKPOINTS,
        validate if held_out else None,
        observer or Silent(),
        origin_of(dataset, settings),
        team=team,
    )
    return trainer


def _trained(trainer: Trainer, journal: Journal | None, stop: Stop) -> Progress:
    """Train to the end; what breaks it stands in the journal."""
    if journal is not None:
        journal.start(trainer.progress.epoch)
        trainer.note = journal.note
    try:
        with stop as trainer.stop:
            return trainer.run()
    except TrainingError as error:
        if journal is not None:
            journal.failed(trainer.progress.epoch + 1, str(error))
        raise


def _sparse(dataset: PreparedDataset) -> list[Finding]:
    names = dataset.behaviors
    return sparse_behaviors(
        {name: len(dataset.pairs(name, "train")) for name in names},
        {name: len(np.unique(dataset.pairs(name, "valid").user_idx)) for name in names},
        dataset.num_users,
    )


def _held_out(dataset: PreparedDataset) -> list[str]:
    return [name for name in dataset.behaviors if len(dataset.pairs(name, "valid"))]
