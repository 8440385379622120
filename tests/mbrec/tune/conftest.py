"""A small search for the tests of the tuner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra tune is not installed")

from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.tune.space import load_space
from mbrec.tune.summary import StudySummary
from mbrec.tune.tune import tune

Search = Callable[..., StudySummary]


@pytest.fixture
def search(tiny_dataset: PreparedDataset, tmp_path: Path) -> Search:
    """Tune ease, or another method, on the tiny dataset, in this process."""

    def run(out: str = "study", method: str = "ease", **options: Any) -> StudySummary:
        small = {"epochs": 4, "batch_size": 64} if method == "mf-bpr" else {}
        settings = from_dict({"method": method, "device": "cpu", "train": small})
        settings = options.pop("settings", settings)
        data = options.pop("data", tiny_dataset.path)
        space = load_space(settings, options.pop("space", None))
        return tune(data, tmp_path / out, settings, space, **{"trials": 4, "jobs": 0, **options})

    return run
