"""`mbrec tune`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbrec.cli.console import printable, show, show_json
from mbrec.cli.options import PATH, engine_option, training_device_option
from mbrec.models import BUILT_IN

if TYPE_CHECKING:
    from mbrec.tune.summary import StudySummary, TrialSummary


@click.command("tune")
@click.argument("data", type=PATH)
@click.option("--out", required=True, type=PATH, help="The study's folder.")
@click.option("--model", "method", help=f"{', '.join(BUILT_IN)}.  [default: bigel]")
@click.option(
    "--trials",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many trainings in all, those of earlier calls with the same --out among them.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Begin no trial after this time; those under way are finished.",
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(min=0),
    help="Trials at a time, each in a process with its share of the cores; 0: in this process.",
)
@click.option(
    "--space",
    type=PATH,
    help="A TOML file: what to search.  [default: the method's space, see --list-space]",
)
@click.option("--no-prune", is_flag=True, help="Train every trial to its end.")
@click.option("--config", type=PATH, help="A TOML file: where to begin.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of where to begin, e.g. train.metric=recall@20; may be repeated.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the search and of every training.")
@training_device_option
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Print the study as JSON.")
@click.option(
    "--list-space",
    metavar="MODEL",
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, name: _list_space(context, name),
    help="Show what is searched for a model, and exit.",
)
def command(
    data: Path,
    out: Path,
    method: str | None,
    trials: int,
    timeout: float | None,
    jobs: int,
    space: Path | None,
    no_prune: bool,
    config: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str | None,
    engine: str | None,
    as_json: bool,
) -> None:
    r"""Search for settings of a model that do best on the validation rows of DATA.

    The first trial has the method's defaults (or what --config and --set say), so the best is never
    worse than they are. Test rows are never read. The best settings are in best.toml of --out. Stop
    it at any time: the same command goes on, and with a larger --trials it adds some. Needs the
    extra `tune`; docs/tuning.md says more.

    \b
    mbrec tune data/jd --model ease --trials 30 --out studies/ease
    mbrec tune data/jd --model lightgcn --trials 40 --jobs 2 --set train.epochs=40 --out studies/l
    mbrec train data/jd --config studies/ease/best.toml --out runs/ease
    """
    from mbrec.cli.main import Terminated
    from mbrec.config import resolve
    from mbrec.tune.space import load_space
    from mbrec.tune.study import require_optuna
    from mbrec.tune.summary import STUDY
    from mbrec.tune.tune import tune

    require_optuna()
    options = {"method": method, "seed": seed, "device": device, "engine": engine}
    settings = resolve(config, options, overrides)
    domains = load_space(settings, space)
    prune = not no_prune
    try:
        with closing(_Watcher(trials)) as watcher:
            found = tune(
                data,
                out,
                settings,
                domains,
                trials=trials,
                timeout=timeout,
                jobs=jobs,
                prune=prune,
                watcher=watcher,
            )
    except (KeyboardInterrupt, Terminated):
        if (out / STUDY).is_file():
            show(f"Finished trials are kept in {out}; the same command goes on.", err=True)
        raise
    if as_json:
        show_json(found.to_dict())
        return
    show(_result(found, settings.to_dict()))
    if found.best is not None:
        train = ["mbrec", "train", str(data), "--config", str(out / "best.toml"), "--out", "RUN"]
        show(f"All trials: {out / 'trials.md'}   Next: {shlex.join(train)}")


def _list_space(context: click.Context, method: str | None) -> None:
    if method is None:
        return
    from mbrec.config import from_dict
    from mbrec.tune.space import load_space

    settings = from_dict({"method": method})
    space = load_space(settings)
    start = space.start(settings)
    for key, text in space.describe().items():
        show(f"{key} = {_value(start[key])}    of {text}")
    context.exit()


def _value(value: Any) -> str:
    from mbrec.tune.markdown import text

    return text(value)


def _result(summary: StudySummary, settings: Mapping[str, Any]) -> str:
    from mbrec.cli.plots import Plots

    best, start = summary.best, summary.start
    if best is None:
        return f"{summary.method}: no trial has finished."
    states = [trial.state for trial in summary.trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    lines = [f"{summary.method}, seed {summary.seed}: {len(states)} trials ({counts})"]
    if start is not None:
        lines.append(f"  valid {summary.metric} {start.value:.4f}  where it began")
    gain = "" if summary.gain is None or best.start else f" ({summary.gain:+.1%})"
    what = "the same: nothing better was found" if best.start else f"trial {best.number}{gain}"
    lines.append(f"  valid {summary.metric} {best.value:.4f}  {what}")
    origin = start.settings if start is not None else {}
    lines += [
        f"    {key} = {_value(value)}" + (f"    was {_value(origin[key])}" if key in origin else "")
        for key, value in best.settings.items()
        if origin.get(key) != value
    ]
    if summary.importances:
        plots, width = Plots.for_output(), max(map(len, summary.importances))
        lines.append("What mattered:")
        lines += [
            f"  {key:<{width}}  {plots.bar(share)} {share:.2f}"
            for key, share in summary.importances.items()
        ]
    return "\n".join(lines)


class _Watcher:
    """One line per trial on stderr; on a terminal also the epochs of those under way."""

    def __init__(self, trials: int) -> None:
        from tqdm import tqdm

        self._trials = trials
        self._bar = tqdm(
            disable=not sys.stderr.isatty(), leave=False, file=sys.stderr, bar_format="{desc}"
        )
        self._epochs: dict[int, str] = {}

    def epoch(self, number: int, record: Mapping[str, Any]) -> None:
        """Show that a trial is alive."""
        self._epochs[number] = f"epoch {int(record['epoch'])}"
        self._bar.set_description_str(printable("  ".join(self._epochs.values())))

    def trial(self, trial: TrialSummary, summary: StudySummary) -> None:
        """Print the trial's line."""
        from tqdm import tqdm

        self._epochs.clear()  # those of other trials come back with their next epoch
        point = ", ".join(f"{key} = {_value(value)}" for key, value in trial.settings.items())
        result = {
            "finished": f"{summary.metric} {trial.value or 0.0:.4f}",
            "pruned": f"ended early after epoch {trial.epochs}",
            "failed": f"failed: {trial.error}",
        }[trial.state]
        best = f"  best {summary.best.value:.4f}" if summary.best else ""
        again = f" as trial {trial.same_as}" if trial.same_as else ""
        tqdm.write(
            printable(
                f"[{trial.number}/{max(self._trials, trial.number)}] {point}  {result}{again}{best}"
                f"  {trial.seconds:.1f} s"
            ),
            file=sys.stderr,
        )

    def close(self) -> None:
        """Take the live line away."""
        self._bar.close()
