"""The folder of a run when its training begins."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.errors import UsageError
from mbrec.evaluation import EVALUATION, PER_USER, SAMPLED, SLICES
from mbrec.files import refuse_existing, write_text
from mbrec.locks import LOCK
from mbrec.model_card import CARD
from mbrec.parallel.team import Team
from mbrec.run import (
    CHECKPOINTS,
    CONFIG,
    EMBEDDINGS,
    ITEMS,
    LAST_LINE,
    METRICS,
    RUN,
    USERS,
    write_run_info,
)
from mbrec.tracking import TENSORBOARD, WANDB_ID
from mbrec.versions import versions

_MEASURED = (EVALUATION, PER_USER, SLICES, SAMPLED)
FILES = (
    *(RUN, CONFIG, METRICS, EMBEDDINGS, USERS, ITEMS, CHECKPOINTS, CARD, TENSORBOARD, WANDB_ID),
    *(name.format(split=split, count="*") for name in _MEASURED for split in ("valid", "test")),
)
"""All that mbrec writes into a run of its own accord, as patterns of `fnmatch`."""


def refuse_run(out: Path, force: bool) -> None:
    """Raise a `UsageError` if a training in `out` would overwrite something unasked."""
    if (out / RUN).is_file() and not force:
        raise UsageError(
            f"{out} exists already and holds a run.",
            "Go on with it by --resume, replace it by --force, or choose another path.",
        )
    # Settings alone are what a training leaves that was killed when it had just begun.
    # What else was put there, lists and notes, datasets and other runs, is not ours to delete.
    refuse_existing(out, force=force, marker=RUN, ours=(CONFIG,), known=FILES)


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
    """Write `config.toml`; its last line is there to tell a whole file from one that was cut."""
    write_text(out / CONFIG, f"{settings.to_toml()}\n{LAST_LINE}\n")


def first_info(settings: Settings, device: torch.device, team: Team) -> dict[str, Any]:
    """What `run.json` says of a training before its first step."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "model": settings.method,
        "seed": settings.seed,
        "rows": settings.rows,
        "engine": settings.engine,
        "device": name,
        "threads": torch.get_num_threads(),
        **({"processes": team.ranks} if team.ranks > 1 else {}),
        "versions": versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
