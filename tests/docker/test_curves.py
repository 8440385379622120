"""The curves that the TensorBoard service shows are those of metrics.jsonl."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "curves.py"
EPOCH = {"epoch": 1, "seconds": 2, "loss": {"bpr/click": 0.5}, "best_epoch": 1}
VALID = {"metric": "ndcg@5", "macro": 0.2, "click": 0.1}


@pytest.fixture
def curves() -> ModuleType:
    spec = importlib.util.spec_from_file_location("curves", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def written(curves, monkeypatch) -> list[tuple[str, list[int]]]:
    """Instead of event files: (name of the run, epochs), for each file that would be written."""
    found: list[tuple[str, list[int]]] = []

    def write(folder: Path, records: list[dict[str, int]], end: float) -> None:
        found.append((folder.name, [record["epoch"] for record in records]))

    monkeypatch.setattr(curves, "_write", write)
    return found


def save(run: Path, *epochs: int, rest: str = "") -> None:
    run.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(EPOCH | {"epoch": epoch}) + "\n" for epoch in epochs)
    (run / "metrics.jsonl").write_text(lines + rest)


def test_every_number_of_a_line_is_a_curve(curves):
    assert dict(curves.scalars(EPOCH | {"valid": VALID})) == {
        "seconds": 2.0,
        "loss/bpr/click": 0.5,
        "best_epoch": 1.0,
        "valid/ndcg@5/macro": 0.2,
        "valid/ndcg@5/click": 0.1,
    }


def test_a_running_training_grows_and_a_half_written_line_waits(curves, written, tmp_path):
    mirror = curves.Mirror(tmp_path, tmp_path / "events")
    save(tmp_path / "a", 1, 2, rest='{"epoch": 3, "sec')
    assert mirror.update() == 2
    assert mirror.update() == 0
    save(tmp_path / "a", 1, 2, 3)
    save(tmp_path / "b", 1)
    assert mirror.update() == 2
    assert written == [("a", [1, 2]), ("a", [3]), ("b", [1])]


def test_epochs_that_a_resumed_training_took_back_are_not_shown(curves, written, tmp_path):
    mirror = curves.Mirror(tmp_path, tmp_path / "events")
    save(tmp_path / "a", 1, 2, 3)
    mirror.update()
    save(tmp_path / "a", 1, 2)
    mirror.update()
    assert written == [("a", [1, 2, 3]), ("a", [1, 2])]


def test_a_run_that_has_event_files_is_left_as_it_is(curves, written, tmp_path):
    save(tmp_path / "a", 1)
    (tmp_path / "a" / "events.out.tfevents.1").touch()
    assert curves.Mirror(tmp_path, tmp_path / "events").update() == 0
    assert written == []


def test_tensorboard_reads_what_is_written(curves, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard, which the image has",
    )
    run, events = tmp_path / "runs" / "a", tmp_path / "events"
    save(run, 1, 2)
    os.utime(run / "metrics.jsonl", (1000, 1000))
    curves.Mirror(tmp_path / "runs", events).update()
    read = accumulator.EventAccumulator(str(events / "a")).Reload()
    points = read.Tensors("loss/bpr/click")
    assert [(point.step, point.wall_time) for point in points] == [(1, 998), (2, 1000)]
