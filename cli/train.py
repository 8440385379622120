"""`mbrec train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbrec.cli.console import show
from mbrec.cli.learning import check_run_options, kept, learn, run_options, track_option
from mbrec.cli.options import PATH, engine_option, training_device_option
from mbrec.cli.processes import processes_option, start_ranks
from mbrec.models import BUILT_IN

if TYPE_CHECKING:
    from mbrec.run import Run


@click.command("train")
@click.argument("data", type=PATH)
@click.option("--out", required=True, type=PATH, help="The run's folder.")
@click.option("--model", "method", help=f"{', '.join(BUILT_IN)}.  [default: bigel]")
@click.option("--config", type=PATH, help="A TOML file of settings.")
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
@training_device_option
@engine_option
@track_option
@processes_option("Train columns of the embeddings apart")
@run_options
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
    start_ranks(context, processes, lambda: kept(out, again))

    from mbrec.config import resolve
    from mbrec.resuming import own_settings
    from mbrec.run import CONFIG
    from mbrec.training import train_run

    check_run_options(resume, force)
    if resume and config is None and (out / CONFIG).exists():
        own_settings(out)  # says so if the file is damaged
        config = out / CONFIG
    options = {"method": method, "seed": seed, "device": device, "engine": engine}
    settings = resolve(config, options, overrides)

    def work(**how: Any) -> Run:
        return train_run(data, out, settings, resume=resume, force=force, **how)

    learn(work, out, again, settings, track, as_json)


def _list_settings(context: click.Context, method: str | None) -> None:
    if method is None:
        return
    import json

    from mbrec.config import describe

    for key, default, text in describe(method):
        show(f"{key} = {json.dumps(default)}")
        show(click.wrap_text(text, initial_indent="    ", subsequent_indent="    "))
    context.exit()
