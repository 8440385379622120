"""Fixtures that prepare tiny logs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.options import PrepOptions
from mbrec.data_prep.pipeline import Listener, prepare
from mbrec.dataset import GRAPH, INTERACTIONS, PreparedDataset
from mbrec.errors import DataError

_KEYS = ("content_hash", "inputs", "funnel", "counts", "split", "behaviors", "options")

Row = tuple[Any, Any, str, int | None, str]  # user id, item id, behavior, timestamp, split


class Recorder(Listener):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: Any) -> None:
        self.steps.append(step.name)


class Prepared:
    """A prepared dataset, and what was said while it was made."""

    def __init__(self, dataset: PreparedDataset, recorder: Recorder) -> None:
        self.dataset = dataset
        self.manifest = dataset.manifest
        self.notes = recorder.notes
        self.steps = recorder.steps

    @cached_property
    def rows(self) -> list[Row]:
        """The interactions with raw ids, sorted."""
        users, items = self.dataset.user_ids.to_pylist(), self.dataset.item_ids.to_pylist()
        table = pq.read_table(self.dataset.path / INTERACTIONS).to_pylist()
        return sorted(
            (users[r["user_idx"]], items[r["item_idx"]], r["behavior"], r["timestamp"], r["split"])
            for r in table
        )

    @property
    def rejects(self) -> list[tuple[int, str, str]]:
        """Line, reason and text of the malformed rows."""
        table = pq.read_table(self.dataset.path / "rejects.parquet").to_pylist()
        return [(r["line"], r["reason"], r["text"]) for r in table]

    @property
    def dropped(self) -> dict[str, int]:
        """Step → rows dropped, without the steps that dropped none."""
        return {s["name"]: s["dropped"] for s in self.manifest["funnel"] if s["dropped"]}


@pytest.fixture
def prep(tmp_path: Path) -> Callable[..., Prepared]:
    """Write files (name → content) and prepare them: ``prep("ub", {"a.csv": "…"})``."""
    return make_prep(tmp_path)


def make_prep(folder: Path) -> Callable[..., Prepared]:
    numbers = itertools.count()

    def run(source: str, files: dict[str, str | bytes], **options: Any) -> Prepared:
        place = folder / f"log{next(numbers)}"
        place.mkdir()
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            (place / name).write_bytes(data)
        out = folder / f"{place.name}.prepared"
        recorder = Recorder()
        if "inputs" not in options:
            run.last = place  # type: ignore[attr-defined]
        options.setdefault("inputs", (str(place),))
        return Prepared(prepare(PrepOptions(source, out=out, **options), recorder), recorder)

    return run


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckEngine]:
    folder = tmp_path / "engine"
    folder.mkdir()
    with DuckEngine(folder) as opened:
        yield opened


@pytest.fixture
def assert_same(prep: Callable[..., Prepared]) -> Callable[..., Prepared | None]:
    """Prepare with two engines; ``assert_same(("auto", "spark"), "ub", files)`` compares them."""
    return functools.partial(_compare, prep)


def _compare(
    prep: Callable[..., Any],
    engines: tuple[str, str],
    source: str,
    files: dict[str, str | bytes],
    **options: Any,
) -> Any:
    """Prepare the same files with both; all that is on disk has to be the same to the byte.

    Returns:
        What the first made; None if both refused the log for the same reason.
    """
    made: list[Any] = []
    place: tuple[str, ...] | None = None
    for engine in engines:
        given = {**options, "engine": engine}
        if place is not None:
            given["inputs"] = place
        try:
            made.append(prep(source, {} if place else files, **given))
        except DataError as error:
            made.append(str(error))
        place = (str(prep.last),)  # type: ignore[attr-defined]
    first, second = made
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
        return None
    for key in _KEYS:
        assert first.manifest[key] == second.manifest[key], key
    assert _hashes(first) == _hashes(second)
    assert first.notes == second.notes
    names = {path.name for path in Path(first.dataset.path).iterdir()}
    assert names == {path.name for path in Path(second.dataset.path).iterdir()}
    return first


def _hashes(made: Any) -> dict[str, str]:
    """Of all files but the graph's: DGL leaves bytes of it undefined."""
    files: dict[str, str] = made.manifest["files"]
    return {name: digest for name, digest in files.items() if name != GRAPH}
