"""Where a training is followed: TensorBoard, MLflow, W&B, or whatever keeps to `Tracker`.

metrics.jsonl stays the record of a run; a tracker shows the same numbers elsewhere. Nothing is
sent anywhere unless that is asked for: all keep files on this machine by default.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from mbrec.errors import DeviceError, StoppedError, UsageError

if TYPE_CHECKING:
    from mbrec.config import Settings

KINDS = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard"),
    "mlflow": ("mlflow", "mlflow"),
    "wandb": ("wandb", "wandb"),
}
"""Kind → the module that it needs, and the package behind it."""

TENSORBOARD, WANDB_ID = "tensorboard", "wandb.id"  # in the run's folder

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Is told of a training from its first epoch on."""

    def start(self, run: Path, settings: Mapping[str, Any], epoch: int) -> None:
        """An epoch is done, the first that this tracker sees.

        Args:
            run: The run's folder, which exists.
            settings: Dotted key → value.
            epoch: Its number; above 1 where a training is gone on with.
        """

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done; `record` is its line of metrics.jsonl."""

    def end(self, status: str) -> None:
        """The training is over: "finished", "stopped" or "failed"."""


class Watch(Protocol):
    """What follows a training already; `mbrec.trainer.Observer`, which needs torch to import."""

    def step(self, epoch: int, step: int, steps: int, loss: Callable[[], float]) -> None:
        """A step is done."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done."""


class Tracked:
    """An observer that tells trackers too.

    Args:
        observer: What else is told.
        trackers: Started at the first epoch, when the run's folder is there.
        run: The run's folder.
        settings: Dotted key → value.
    """

    def __init__(
        self,
        observer: Watch,
        trackers: Sequence[Tracker],
        run: Path,
        settings: Mapping[str, Any],
    ) -> None:
        self._observer, self._trackers = observer, list(trackers)
        self._run, self._settings = run, settings
        self._started = False
        self.step = observer.step

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Pass it on to all."""
        self._observer.epoch(record)

        def tell(tracker: Tracker) -> None:
            if not self._started:
                tracker.start(self._run, self._settings, int(record["epoch"]))
            tracker.epoch(record)

        self._tell(tell)
        self._started = True

    def end(self, status: str) -> None:
        """Tell all trackers that it is over; nothing where no epoch was trained."""
        if self._started:
            self._tell(lambda tracker: tracker.end(status))
        self._started = False

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        """A tracker that fails is told no more; the training goes on."""
        for tracker in list(self._trackers):
            try:
                tell(tracker)
            except Exception as error:
                kind = type(tracker).__name__
                log.warning("%s failed and is told no more: %s", kind, error)
                self._trackers.remove(tracker)


@contextmanager
def tracked(
    observer: Watch, trackers: Sequence[Tracker], run: Path, settings: Settings
) -> Iterator[Tracked]:
    """A `Tracked` around a training; how it ended is told when it is left."""
    from mbrec.config import flat  # imports torch, which readers of `scalars` do without

    told = Tracked(observer, trackers, run, flat(settings.to_dict()))
    try:
        yield told
    except Exception as error:
        told.end("stopped" if isinstance(error, StoppedError) else "failed")
        raise
    except BaseException:  # interrupted
        told.end("stopped")
        raise
    told.end("finished")


def make_tracker(wanted: str) -> Tracker:
    """The tracker of "tensorboard", "mlflow", "mlflow:ADDRESS" or "wandb".

    Raises:
        UsageError: Another name.
        DeviceError: Its package is not installed.
    """
    kind, _, address = wanted.partition(":")
    if kind not in KINDS or (address and kind != "mlflow"):
        raise UsageError(
            f"There is no tracker {wanted!r}.",
            "Give tensorboard, mlflow, mlflow:ADDRESS or wandb.",
        )
    module, package = KINDS[kind]
    if find_spec(package) is None:
        raise DeviceError(
            f"Tracking by {kind} needs the package {package}.",
            f"Install it with: pip install 'mbrec[{kind}]'.",
        )
    if kind == "tensorboard":
        return TensorBoard(import_module(module).SummaryWriter)
    return MlFlow(address) if kind == "mlflow" else Wandb()


def scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of an epoch as (tag, value): {"loss": {"l2": 1}} gives ("loss/l2", 1.0).

    Validation figures go by their metric: "valid/ndcg@5/click".
    """
    metric = record.get("metric")  # the record says which metric the figures beside it are of
    here = f"{prefix}{metric}/" if isinstance(metric, str) else prefix
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{here}{name}/")
        elif isinstance(value, int | float) and name != "epoch":
            yield f"{here}{name}", float(value)


class TensorBoard:
    """Event files in the run's folder `tensorboard`.

    Args:
        writer: `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, writer: Callable[..., Any]) -> None:
        self._make = writer
        self._writer: Any = None

    def start(self, run: Path, settings: Mapping[str, Any], epoch: int) -> None:
        """Open an event file; what an earlier one says of this epoch on does not count any more."""
        self._writer = self._make(str(run / TENSORBOARD), purge_step=epoch if epoch > 1 else None)
        lines = [f"    {key} = {value!r}" for key, value in settings.items()]
        self._writer.add_text("settings", "\n".join(lines), epoch)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """All numbers of the epoch."""
        for tag, value in scalars(record):
            self._writer.add_scalar(tag, value, record["epoch"])
        for finding in record.get("health", ()):
            self._writer.add_text("health", finding["message"], record["epoch"])
        self._writer.flush()

    def end(self, status: str) -> None:
        """Close the file."""
        self._writer.close()


class MlFlow:
    """A run of MLflow, in the experiment "mbrec".

    Args:
        address: Of a tracking server or store; empty: the folder `mlruns` beside the run's folder.
    """

    def __init__(self, address: str) -> None:
        # MLflow reports on its use to its makers unless told otherwise, before it is imported. Its
        # files are "in maintenance", and refused unless asked for; they alone need no database.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._address = address
        self._client: Any = None
        self._id = ""

    def start(self, run: Path, settings: Mapping[str, Any], epoch: int) -> None:
        """Begin a run named after the folder; go on with it where a training is gone on with."""
        address = self._address or (run.resolve().parent / "mlruns").as_uri()
        self._client = import_module("mlflow.tracking").MlflowClient(tracking_uri=address)
        experiment = self._client.get_experiment_by_name("mbrec")
        place = experiment.experiment_id if experiment else self._client.create_experiment("mbrec")
        folder = str(run.resolve())
        tag = f"tags.`mbrec.run` = '{folder}'"
        before = self._client.search_runs([place], tag, max_results=1) if epoch > 1 else []
        if before:
            self._id = before[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        made = self._client.create_run(place, run_name=run.name, tags={"mbrec.run": folder})
        self._id = made.info.run_id
        for key, value in settings.items():
            self._client.log_param(self._id, _name(key), str(value))

    def epoch(self, record: Mapping[str, Any]) -> None:
        """All numbers of the epoch."""
        for tag, value in scalars(record):
            self._client.log_metric(self._id, _name(tag), value, step=record["epoch"])

    def end(self, status: str) -> None:
        """Say how it ended."""
        states = {"finished": "FINISHED", "stopped": "KILLED"}
        self._client.set_terminated(self._id, states.get(status, "FAILED"))


class Wandb:
    """A run of Weights & Biases: files in `wandb` beside the run's folder.

    They stay there, unless WANDB_MODE=online is set or `wandb sync` is called.
    """

    def __init__(self) -> None:
        # Offline is said of the run alone: the makers still hear of errors, from the import on.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._run: Any = None

    def start(self, run: Path, settings: Mapping[str, Any], epoch: int) -> None:
        """Begin a run named after the folder; go on with it where a training is gone on with."""
        wandb, place = import_module("wandb"), run / WANDB_ID
        known = place.read_text(encoding="utf-8").strip() if epoch > 1 and place.is_file() else ""
        identity = known or uuid4().hex[:16]
        place.write_text(identity, encoding="utf-8")
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project="mbrec",
            name=run.name,
            id=identity,
            dir=str(run.resolve().parent),
            config={_name(key): value for key, value in settings.items()},
            mode=mode,
            resume="allow" if known and mode == "online" else None,  # offline knows no resuming
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )

    def epoch(self, record: Mapping[str, Any]) -> None:
        """All numbers of the epoch."""
        self._run.log({_name(t): value for t, value in scalars(record)}, step=record["epoch"])

    def end(self, status: str) -> None:
        """Say how it ended, and wait for the files."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _name(tag: str) -> str:
    """As MLflow takes names: letters, digits and _ - . / and blanks; "@" is none of them."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in tag.replace("@", "_at_"))
