"""What the verbs that train have in common: the bar, stopping, tracking, what is said at last."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbrec.cli.console import printable, show, show_json
from mbrec.cli.processes import own_team

if TYPE_CHECKING:
    from mbrec.config import Settings
    from mbrec.run import Run

track_option = click.option(
    "--track",
    multiple=True,
    metavar="KIND",
    help="Show the figures of every epoch elsewhere too: tensorboard (files in the run's folder), "
    "mlflow (files in mlruns/ beside it), mlflow:ADDRESS or wandb (files in wandb/ beside it); may "
    "be repeated.",
)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--resume`, `--force` and `--json`."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option("--force", is_flag=True, help="Replace the run that is in --out."),
        click.option("--resume", is_flag=True, help="Go on with the training that is in --out."),
    ):
        command = option(command)
    return command


def check_run_options(resume: bool, force: bool) -> None:
    """Refuse what contradicts itself.

    Raises:
        UsageError: Both are given.
    """
    from mbrec.errors import UsageError

    if resume and force:
        raise UsageError("--resume goes on with a run and --force replaces it.", "Give only one.")


def learn(
    work: Callable[..., Run],
    out: Path,
    again: str,
    settings: Settings,
    track: Sequence[str],
    as_json: bool,
) -> None:
    """Train, stop and save where a signal asks for it, and say what has come of it.

    Args:
        work: Trains, given `observer`, `stop` and `team`.
        out: The run's folder.
        again: The command that goes on after a stop.
        settings: What is trained.
        track: What `--track` says.
        as_json: Print the run's facts as JSON.
    """
    from mbrec.cli.main import Terminated
    from mbrec.cli.stopping import StopSignal
    from mbrec.errors import StoppedError, StorageError
    from mbrec.tracking import make_tracker, tracked

    stop = StopSignal()
    try:
        with own_team(settings.device) as team:
            trackers = [make_tracker(kind) for kind in track] if team.first else []
            with closing(_Observer()) as bar, tracked(bar, trackers, out, settings) as observer:
                run = work(observer=observer, stop=stop, team=team)
    except StoppedError as error:
        show(f"{error} Go on with: {again}", err=True)
        # In a team the signal may have come to another rank.
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise Terminated(stop.number or signal.SIGTERM) from error
    except (KeyboardInterrupt, Terminated, StorageError):
        if said := kept(out, again):
            show(said, err=True)
        raise
    if not team.first:
        return
    if as_json:
        show_json(run.info)
        return
    show(_table(run.info))
    then, place = "export" if run.refitted else "evaluate", shlex.quote(str(out))
    show(f"Run: {out}   Next: mbrec {then} {place}")


def kept(out: Path, again: str) -> str:
    """What to do after a training has broken off, if it can be gone on with."""
    from mbrec.run import CHECKPOINTS
    from mbrec.trainer import LAST

    saved = (out / CHECKPOINTS / LAST).is_file()
    return f"What was saved last is kept; go on with: {again}" if saved else ""


class _Observer:
    """A progress bar on a terminal, one line per epoch elsewhere; all on stderr."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._interactive = sys.stderr.isatty()
        self._bar = tqdm(disable=not self._interactive, leave=False, unit="step", file=sys.stderr)
        self._last = ""

    def step(self, epoch: int, step: int, steps: int, loss: Callable[[], float]) -> None:
        """Move the bar; the loss only now and then, since asking for it waits for a GPU."""
        if not self._interactive:
            return
        if step == 1:
            self._bar.reset(total=steps)
            self._bar.set_description(f"epoch {epoch}")
        self._bar.update()
        if step % 10 == 0 or step == steps:
            self._bar.set_postfix_str(f"loss {loss():.4f} {self._last}")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Print the epoch's line."""
        from tqdm import tqdm

        loss = sum(record["loss"].values())
        line = f"epoch {record['epoch']:>3}  loss {loss:.4f}"
        if "valid" in record:
            valid = dict(record["valid"])
            metric, macro = valid.pop("metric"), valid.pop("macro")
            self._last = f"{metric} {macro:.4f}"
            behaviors = "  ".join(f"{name} {value:.4f}" for name, value in valid.items())
            best = "  best" if record["best_epoch"] == record["epoch"] else ""
            line += f"  valid {self._last}  ({behaviors}){best}"
        weights = record.get("weights", {})
        if len(set(weights.values())) > 1:
            line += "  weights " + " ".join(f"{name} {w:.2f}" for name, w in weights.items())
        tqdm.write(printable(f"{line}  {record['seconds']:.1f} s"), file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def _table(info: Mapping[str, Any]) -> str:
    trained = f", {info['epochs']} epochs, best {info['best_epoch']}" if "epochs" in info else ""
    lines = [f"{info['model']}, seed {info['seed']}{trained}"]
    if info.get("valid"):
        for behavior, values in info["valid"]["behaviors"].items():
            if values["users"]:
                lines.append(
                    f"  valid {behavior:<10} users {values['users']:>7}  "
                    f"NDCG@5 {values['ndcg@5']:.4f}  HR@5 {values['hr@5']:.4f}"
                )
        if "note" in info["valid"]:
            lines.append(f"  {info['valid']['note']}")
    return "\n".join(lines)
