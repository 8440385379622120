"""The folder of a run when its training begins."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.errors import UsageError
from mbrec.files import refuse_existing, write_text
from mbrec.locks import LOCK
from mbrec.run import CONFIG, RUN, write_run_info


def refuse_run(out: Path, force: bool) -> None:
    """Raise a `UsageError` if a training in `out` would overwrite something unasked."""
    if (out / RUN).is_file() and not force:
        raise UsageError(
            f"{out} exists already and holds a run.",
            "Go on with it by --resume, replace it by --force, or choose another path.",
        )
    # Settings alone are what a training leaves that was killed when it had just begun.
    refuse_existing(out, force=force, marker=RUN, ours=(CONFIG,))


def start(out: Path, dataset: PreparedDataset, settings: Settings, info: Mapping[str, Any]) -> None:
    """Replace the run in `out`, if there is one, by one that has not been trained yet."""
    for entry in out.iterdir():  # it is a run, and meant: see `refuse_run`
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in (RUN, LOCK):
            entry.unlink()
    # Last: whoever is killed before leaves a run that can be replaced.
    (out / RUN).unlink(missing_ok=True)
    write_settings(out, settings)
    write_run_info(out, {**info, "status": "training"}, dataset, files={})


def write_settings(out: Path, settings: Settings) -> None:
    """Write `config.toml`."""
    write_text(out / CONFIG, settings.to_toml())
