"""From a prepared dataset and settings to a finished run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mbrec import config as configuration
from mbrec.arrangement import arrange
from mbrec.building import build_method
from mbrec.checkpoint import Progress
from mbrec.columns import VISIBLE
from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.device import pick_device
from mbrec.errors import DataError, TrainingError, UsageError
from mbrec.evaluation import evaluate
from mbrec.files import refuse_loss
from mbrec.health import Finding, HealthWatch, sparse_behaviors
from mbrec.journal import Journal
from mbrec.locks import locked
from mbrec.memory import require_learning
from mbrec.model_card import write_card
from mbrec.models.base import Method, TrainedMethod
from mbrec.packing import pack
from mbrec.parallel import tensor_file
from mbrec.parallel.columns import Columns
from mbrec.parallel.dividing import check_dividable
from mbrec.parallel.ranking import WholeFactors
from mbrec.parallel.team import ALONE, Team
from mbrec.refitting import Plan, plan_of, plan_refit
from mbrec.resuming import check_resumable, origin_of
from mbrec.run import CHECKPOINTS, METRICS, Run, finish_run
from mbrec.sampling import BatchSampler
from mbrec.starting import first_info, refuse_run, start, write_settings
from mbrec.storage import storage_errors
from mbrec.trainer import LAST, Observer, Silent, Stop, Trainer
from mbrec.weighting import TaskWeighting, make_weighting

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
    plan: Plan | None = None,
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
        plan: What the run before has chosen, if this refits one (`refit_run`); a training that is
            resumed has it already.

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
        return _train(out, dataset, settings, resume, Silent(), stop, team, plan)

    def check() -> None:
        if resume:
            check_resumable(out, dataset, settings)
        else:
            refuse_run(out, force)
            refuse_loss(out, [dataset.path])

    check()  # before anything is made there
    with storage_errors(out), locked(out):
        check()  # another process may have come first
        return _train(out, dataset, settings, resume, observer or Silent(), stop, team, plan)


def refit_run(
    path: Path | str, out: Path | str, *, data: Path | str | None = None, **how: Any
) -> Run:
    """Train the method of a run anew, on its training and validation rows; see `mbrec.refitting`.

    Args:
        path: The run, which stays as it is.
        out: The new run's folder.
        data: Where the dataset is; by default, where it was at training.
        how: `resume`, `force`, `observer`, `stop` and `team`, as for `train_run`.

    Returns:
        The finished run. It has no figures on validation rows.

    Raises:
        UsageError: The run was refitted already or had no validation rows, or see `train_run`.
        ArtefactError: The run or the dataset is missing, damaged, or they do not belong together.
        MbrecError: See `train_run`.
    """
    run = Run(path)
    settings, plan = plan_refit(run)
    return train_run(run.dataset(data, VISIBLE).path, out, settings, plan=plan, **how)


def _train(
    out: Path,
    dataset: PreparedDataset,
    settings: Settings,
    resume: bool,
    observer: Observer,
    stop: Stop | None,
    team: Team,
    plan: Plan | None,
) -> Run:
    """`train_run`, alone in `out`."""
    plan = plan_of(out) if resume else plan
    device = pick_device(settings.device)
    method = build_method(dataset, settings, device, team)
    weighting = _weighting(method, dataset, settings, team)
    if isinstance(method, TrainedMethod):
        averaged, validated = settings.train.average > 0, bool(_held_out(dataset))
        require_learning(method.parameters(), averaged=averaged, validated=validated)
    info = first_info(settings, device, team) | ({"refit": plan.plain()} if plan else {})
    # Written at the end, read now: by then the dataset may be gone.
    _ = dataset.user_ids, dataset.item_ids
    if not resume and team.first:
        start(out, dataset, settings, info)
    team.wait()
    if isinstance(method, TrainedMethod) and weighting is not None:
        health = HealthWatch(dataset.target, _sparse(dataset) if team.first else [])
        journal = Journal(out / METRICS, health, observer) if team.first else None
        trainer = _trainer(method, weighting, dataset, settings, out, journal, team)
        if plan is not None:
            method.adopt(plan.calibration)  # now: what does not fit must not cost a training
            trainer.until = plan.epochs
        if resume and team.first:
            write_settings(out, settings)
        if resume and team.any((out / CHECKPOINTS / LAST).is_file()):
            trainer.resume()
        at = _trained(trainer, journal, stop or nullcontext(lambda: False))
        info.update(epochs=at.epoch, best_epoch=at.best_epoch or at.epoch, seconds=at.seconds)
        if len(at.parts) > 1:
            info["best_epochs"] = {name: at.best_epoch_of(name) for name in at.parts}
        info.update(_calibrated(method, dataset, settings, plan))
    _finish(out, method, info, dataset, team)
    return Run(out)


def _finish(
    out: Path, method: Method, info: dict[str, Any], dataset: PreparedDataset, team: Team
) -> None:
    """Evaluate the method and write the run; with a team, as if one process had trained it."""
    scorers = method.scorers()
    columns = method.columns if isinstance(method, TrainedMethod) else Columns()
    crossed = method.cross_fitted() if isinstance(method, TrainedMethod) else {}
    whole = WholeFactors({**scorers, **crossed}, columns)
    result = evaluate(whole, dataset, "valid", team=team) if _held_out(dataset) else None
    info["valid"] = result.summary() if result is not None else None

    def save(tensors: Mapping[str, Tensor], path: Path | None) -> None:
        tensor_file.write(path, tensors, dict.fromkeys(tensors, columns))

    if not team.first:
        save(pack(scorers, crossed)[1], None)
    else:
        given = {"save": save} if columns.split else {}
        finish_run(out, {**info, "status": "finished"}, scorers, dataset, crossed, **given)
        write_card(out, dataset.manifest)
    team.wait()


def _calibrated(
    method: TrainedMethod, dataset: PreparedDataset, settings: Settings, plan: Plan | None
) -> dict[str, Any]:
    if plan is not None:
        return {"calibration": plan.calibration} if plan.calibration else {}
    valid = {name: dataset.pairs(name, "valid") for name in _held_out(dataset)}
    metric = settings.train.metric.partition("@")[0]
    chosen = method.calibrate(valid, metric, settings.train.metric_k) if valid else {}
    return {"calibration": chosen} if chosen else {}


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
        if not any(map(len, dataset.train_relations().values())):
            raise DataError(f"{dataset.path} has no training pair to learn from.")
        raise DataError(
            f"No training pair of {dataset.path} can be learned from: who has one has all items.",
            "There has to be an item that she did not take: prepare the data with more items.",
        )
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

    if not held_out and settings.rows == "train":
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
