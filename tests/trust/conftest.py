"""A prepared dataset, runs on it, and what the command line says of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mbrec.cli import main as cli
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.evaluation import evaluate_run
from mbrec.files import sha256
from mbrec.guard import seal
from mbrec.training import train_run

Write = Callable[..., PreparedDataset]
Row = tuple[int, int, str, str]
SETTINGS = {
    "method": "lightgcn",
    "device": "cpu",
    "model": {"size": 4, "layers": 1},
    "train": {"epochs": 1},
}


@dataclass(frozen=True)
class Answer:
    """What a call of `mbrec` came to."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


Mbrec = Callable[..., Answer]


@pytest.fixture
def mbrec(capsys: pytest.CaptureFixture[str]) -> Iterator[Mbrec]:
    """Calls `mbrec` with some arguments."""

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    yield call
    cli.LOGGER.handlers.clear()  # they write to a stream that ends with the test


def rows(shift: int) -> list[Row]:
    """8 users × 9 items; each behavior has rows in every split."""
    made: list[Row] = []
    for user in range(8):
        items = [(user + step + shift) % 9 for step in range(6)]
        splits = ["train"] * 4 + ["valid", "test"]
        made += [(user, item, "click", split) for item, split in zip(items, splits, strict=True)]
        made += [(user, items[3], "purchase", "train"), (user, items[4], "purchase", "valid")]
        made.append((user, items[5], "purchase", "test"))
    return made


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, write_planted: Write) -> Path:
    """data and run; other-data and other-run, on another dataset; rival, another run on data."""
    place = tmp_path_factory.mktemp("shop")
    names = ("click", "purchase")
    write_planted(place / "data", rows(0), users=8, items=9, behaviors=names)
    write_planted(place / "other-data", rows(2), users=9, items=10, behaviors=names)
    for run, data, seed in (
        ("run", "data", 1),
        ("rival", "data", 2),
        ("other-run", "other-data", 1),
    ):
        train_run(place / data, place / run, from_dict({**SETTINGS, "seed": seed}))
        evaluate_run(place / run, device="cpu")
    return place


@pytest.fixture
def copy(shop: Path, tmp_path: Path) -> Path:
    """A copy of `shop` to be damaged."""
    place = tmp_path / "shop"
    shutil.copytree(shop, place)
    return place


@pytest.fixture
def bless() -> Callable[[Path, str], None]:
    """Makes the hashes of an index right again, as a stranger would, and seals it."""

    def blessed(folder: Path, index: str) -> None:
        values = json.loads((folder / index).read_text())
        for name in values["files"]:
            if (folder / name).is_file():
                values["files"][name] = sha256(folder / name)
        (folder / index).write_text(json.dumps(seal(values)))

    return blessed
