"""`mbrec inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbrec.cli.options import PATH

if TYPE_CHECKING:
    from mbrec.cli.plots import Plots


@click.command("inspect")
@click.argument("path", type=PATH)
@click.option("--ascii", "plain", is_flag=True, help="Draw with plain ASCII characters.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def command(path: Path, plain: bool, as_json: bool) -> None:
    r"""Say what a prepared dataset or a run is.

    Of a dataset: users, items and interactions, the long tail, how active users are, how behaviors
    overlap, what of the held-out rows training cannot know, and the funnel of the preparation.
    Of a run: what was trained, how it went (finished or not), the figures that were measured, and
    the commands that go on from here. docs/inspect.md says what each figure means.

    \b
    mbrec inspect data/ub
    mbrec inspect runs/ub --json
    """
    from mbrec.cli.console import show, show_json
    from mbrec.cli.plots import Plots
    from mbrec.dataset import MANIFEST
    from mbrec.errors import ArtefactError
    from mbrec.run import RUN

    plots = Plots(False) if plain else Plots.for_output()
    if (path / MANIFEST).is_file():
        shown, text = _dataset(path, plots)
    elif (path / RUN).is_file():
        shown, text = _run(path, plots)
    else:
        what = f"is neither a prepared dataset (no {MANIFEST}) nor a run (no {RUN})"
        raise ArtefactError(
            f"{path} {what}." if path.exists() else f"There is no {path}.",
            "Give what `mbrec prep` or `mbrec train` wrote with --out.",
        )
    if as_json:
        show_json(shown)
    else:
        show(text)


def _dataset(path: Path, plots: Plots) -> tuple[dict[str, Any], str]:
    from mbrec.cli.inspect_dataset import dataset_text
    from mbrec.dataset import PreparedDataset
    from mbrec.statistics import dataset_statistics

    dataset = PreparedDataset(path)
    manifest = dataset.manifest
    shown = {
        "kind": "dataset",
        "path": str(path),
        "source": manifest.get("source"),
        "content_hash": dataset.content_hash,
        "split": manifest.get("split", {}).get("protocol"),
        **dataset_statistics(dataset),
        "funnel": manifest.get("funnel", []),
    }
    return shown, dataset_text(shown, plots)


def _run(path: Path, plots: Plots) -> tuple[dict[str, Any], str]:
    from mbrec.cli.inspect_run import run_text
    from mbrec.summary import run_summary

    shown = run_summary(path)
    return shown, run_text(shown, plots)
