"""`mbrec train`."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from mbrec.cli.console import printable, show, show_json
from mbrec.cli.processes import own_team, processes_option, start_ranks
from mbrec.models import BUILT_IN


@click.command("train")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--model", "method", help=f"{', '.join(BUILT_IN)}.  [default: bigel]")
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, e.g. model.cgf=false or train.epochs=20; may be repeated.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="The one source of randomness.  [default: 1]"
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to train; auto takes CUDA where there is one.  [default: auto]",
)
@click.option(
    "--engine",
    type=click.Choice(["dgl", "torch"]),
    help="Who passes the messages; torch needs no DGL.  [default: dgl]",
)
@click.option(
    "--track",
    multiple=True,
    metavar="KIND",
    help="Show the figures of every epoch elsewhere too: tensorboard (files in the run's folder), "
    "mlflow (files in mlruns/ beside it), mlflow:ADDRESS or wandb (files in wandb/ beside it); may "
    "be repeated.",
)
@processes_option("Train columns of the embeddings apart")
@click.option("--resume", is_flag=True, help="Go on with the training that is in --out.")
@click.option("--force", is_flag=True, help="Replace the run that is in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--list-settings",
    metavar="MODEL",
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, name: _list_settings(context, name),
    help="Show every setting of a model with its default, and exit.",
)
@click.pass_context
def command(
    context: click.Context,
    /,
    data: Path,
    out: Path,
    method: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str | None,
    engine: str | None,
    track: tuple[str, ...],
    processes: int | None,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    r"""Train a model on the prepared dataset DATA.

    Settings come from --config, then from the options, then from --set; the run's config.toml
    holds all of them, and with --resume it is where they come from. Training stops when validation
    does not improve any more; test rows are never read. Interrupted (Ctrl-C) or terminated, it
    finishes the step and saves, and --resume comes to the same result; a second time ends at once.

    \b
    mbrec train data/ub --out runs/ub
    mbrec train data/ub --out runs/no-gce --set model.gce=false --seed 7
    mbrec train data/ub --out runs/ub --track tensorboard
    mbrec train data/ub --out runs/ub --resume
    mbrec train data/ub --out runs/ub --processes 2
    """
    again = shlex.join(["mbrec", "train", str(data), "--out", str(out), "--resume"])
    again += f" --processes {processes}" if processes else ""
    start_ranks(context, processes, lambda: _kept(out, again))

    from mbrec.cli.main import Terminated
    from mbrec.cli.stopping import StopSignal
    from mbrec.config import resolve
    from mbrec.errors import StoppedError, StorageError, UsageError
    from mbrec.resuming import own_settings
    from mbrec.run import CONFIG
    from mbrec.tracking import make_tracker, tracked
    from mbrec.training import train_run

    if resume and force:
        raise UsageError("--resume goes on with a run and --force replaces it.", "Give only one.")
    if resume and config is None and (out / CONFIG).exists():
        own_settings(out)  # says so if the file is damaged
        config = out / CONFIG
    options = {"method": method, "seed": seed, "device": device, "engine": engine}
    settings = resolve(config, options, overrides)
    stop = StopSignal()
    try:
        with own_team(settings.device) as team:
            trackers = [make_tracker(kind) for kind in track] if team.first else []
            with closing(_Observer()) as bar, tracked(bar, trackers, out, settings) as observer:
                run = train_run(
                    data,
                    out,
                    settings,
                    resume=resume,
                    force=force,
                    observer=observer,
                    stop=stop,
                    team=team,
                )
    except StoppedError as error:
        show(f"{error} Go on with: {again}", err=True)
        # In a team the signal may have come to another rank.
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise Terminated(stop.number or signal.SIGTERM) from error
    except (KeyboardInterrupt, Terminated, StorageError):
        if kept := _kept(out, again):
            show(kept, err=True)
        raise
    if not team.first:
        return
    if as_json:
        show_json(run.info)
        return
    show(_table(run.info))
    show(f"Run: {out}   Next: mbrec evaluate {out}")


def _kept(out: Path, again: str) -> str:
    """What to do after a training has broken off, if it can be gone on with."""
    from mbrec.run import CHECKPOINTS
    from mbrec.trainer import LAST

    saved = (out / CHECKPOINTS / LAST).is_file()
    return f"What was saved last is kept; go on with: {again}" if saved else ""


def _list_settings(context: click.Context, method: str | None) -> None:
    if method is None:
        return
    import json

    from mbrec.config import describe

    for key, default, text in describe(method):
        show(f"{key} = {json.dumps(default)}")
        show(click.wrap_text(text, initial_indent="    ", subsequent_indent="    "))
    context.exit()


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
    return "\n".join(lines)
