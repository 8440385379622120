"""`mbrec refit`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbrec.cli.learning import check_run_options, kept, learn, run_options, track_option
from mbrec.cli.options import PATH, data_option
from mbrec.cli.processes import processes_option, start_ranks

if TYPE_CHECKING:
    from mbrec.run import Run


@click.command("refit")
@click.argument("path", metavar="RUN", type=PATH)
@click.option("--out", required=True, type=PATH, help="The new run's folder.")
@data_option
@track_option
@processes_option("Train columns of the embeddings apart")
@run_options
@click.pass_context
def command(
    context: click.Context,
    /,
    path: Path,
    out: Path,
    data: Path | None,
    track: tuple[str, ...],
    processes: int | None,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    r"""Train the model of RUN once more, on its training and validation rows together.

    Validation rows have chosen the epochs, and what the parts of BiGEL+ count; now they are learned
    from, too, for as many epochs. Take it for the lists that are used: it knows of the days before
    them. It has no figures on validation rows; test rows, if there are some, can measure it as they
    measure RUN, which stays as it is.

    \b
    mbrec refit runs/ub --out runs/ub-all
    mbrec export runs/ub-all --out lists.parquet
    """
    again = shlex.join(["mbrec", "refit", str(path), "--out", str(out), "--resume"])
    again += f" --data {shlex.quote(str(data))}" if data else ""
    again += f" --processes {processes}" if processes else ""
    start_ranks(context, processes, lambda: kept(out, again))

    from mbrec.refitting import plan_refit
    from mbrec.run import Run as FinishedRun
    from mbrec.training import refit_run

    check_run_options(resume, force)
    settings, _ = plan_refit(FinishedRun(path))

    def work(**how: Any) -> Run:
        return refit_run(path, out, data=data, resume=resume, force=force, **how)

    learn(work, out, again, settings, track, as_json)
