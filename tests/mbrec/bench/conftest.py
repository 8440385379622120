"""A small bench on the planted dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mbrec.bench import cells, workers
from mbrec.bench.plan import Cell
from mbrec.bench.spec import BenchSpec, load_spec
from mbrec.bench.store import Store
from mbrec.dataset import PreparedDataset

SMALL = """
seeds = [1, 2]
trials = 2
ours = ["lightgcn"]
[datasets]
tiny = "DATA"
[settings]
device = "cpu"
engine = "torch"
train.epochs = 2
train.batch_size = 64
[methods.mostpop]
[methods.lightgcn]
settings = {"model.size" = 4}
grid = {"train.lr" = [0.02, 0.05, 0.1]}
"""

VALID = 'report = "valid"\n' + SMALL

MakeSpec = Callable[..., BenchSpec]


@pytest.fixture
def make_spec(tmp_path: Path, tiny_dataset: PreparedDataset) -> MakeSpec:
    """A spec of some TOML; DATA in it stands for the planted dataset."""

    def make(
        text: str = SMALL, overrides: Iterable[str] = (), data: Iterable[str] = ()
    ) -> BenchSpec:
        file = tmp_path / "small.toml"
        file.write_text(text.replace("DATA", str(tiny_dataset.path)))
        return load_spec(file, overrides, data)

    return make


def results(out: Path) -> pd.DataFrame:
    return pq.read_table(out / "results.parquet").to_pandas()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that are run, in order."""
    seen: list[Cell] = []
    true = cells.run_cell

    def spy(cell: Cell, store: Store, **options: Any) -> Any:
        seen.append(cell)
        return true(cell, store, **options)

    monkeypatch.setattr(workers, "run_cell", spy)
    return seen
