"""mbrec: ranked lists for every user and every behavior, from the event log of a shop.

The road from Python; raw logs are prepared by `mbrec.data_prep.prepare`:

    from mbrec import evaluate_run, export_run, settings, train_run
    from mbrec.data_prep import prepare
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mbrec.version import __version__

if TYPE_CHECKING:
    from mbrec.comparison import compare_runs
    from mbrec.config import resolve as settings
    from mbrec.dataset import PreparedDataset
    from mbrec.evaluation import evaluate_run
    from mbrec.export import export_run
    from mbrec.run import Run
    from mbrec.training import refit_run, train_run

_WHERE = {
    "PreparedDataset": ("mbrec.dataset", "PreparedDataset"),
    "Run": ("mbrec.run", "Run"),
    "compare_runs": ("mbrec.comparison", "compare_runs"),
    "evaluate_run": ("mbrec.evaluation", "evaluate_run"),
    "export_run": ("mbrec.export", "export_run"),
    "refit_run": ("mbrec.training", "refit_run"),
    "settings": ("mbrec.config", "resolve"),
    "train_run": ("mbrec.training", "train_run"),
}

__all__ = [
    "PreparedDataset",
    "Run",
    "__version__",
    "compare_runs",
    "evaluate_run",
    "export_run",
    "refit_run",
    "settings",
    "train_run",
]


def __getattr__(name: str) -> Any:
    # On first use, so that `import mbrec` and `mbrec --help` load neither torch nor DGL.
    if name not in _WHERE:
        raise AttributeError(f"module 'mbrec' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
