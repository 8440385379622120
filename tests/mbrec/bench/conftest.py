"""A small bench on the planted dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from mbrec.bench.spec import BenchSpec, load_spec
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
