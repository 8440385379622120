"""Trackers show what metrics.jsonl says, stay on this machine, and say what they lack."""

from __future__ import annotations

import json
import os
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mbrec import tracking
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import DeviceError, UsageError
from mbrec.tracking import Tracked, make_tracker, scalars, tracked
from mbrec.trainer import Silent
from mbrec.training import train_run

RECORD = {
    "epoch": 1,
    "seconds": 2,
    "loss": {"bpr/click": 0.5, "l2": 0.25},
    "weights": {"click": 1.0},
    "valid": {"metric": "ndcg@5", "macro": 0.2, "click": 0.2},
    "best_epoch": 1,
    "gates": {"click": {"cgf": {"closed": 0.1, "open": 0.0}}},
}


class Recorder:
    """Notes what it is told, as tracker and as observer."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def step(self, *arguments: Any) -> None:
        self.told.append("step")

    def start(self, run: Path, settings: Mapping[str, Any], epoch: int) -> None:
        self.told.append(("start", run.name, epoch))

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.told.append(record["epoch"])

    def end(self, status: str) -> None:
        self.told.append(status)


def test_every_number_of_an_epoch_has_a_tag() -> None:
    assert dict(scalars(RECORD)) == {
        "seconds": 2.0,
        "loss/bpr/click": 0.5,
        "loss/l2": 0.25,
        "weights/click": 1.0,
        "valid/ndcg@5/macro": 0.2,
        "valid/ndcg@5/click": 0.2,
        "best_epoch": 1.0,
        "gates/click/cgf/closed": 0.1,
        "gates/click/cgf/open": 0.0,
    }


def test_a_tracker_starts_with_the_first_epoch_and_ends_once(tmp_path: Path) -> None:
    tracker, observer = Recorder(), Recorder()
    tracked = Tracked(observer, [tracker], tmp_path / "run", {})
    tracked.step(1, 1, 2, lambda: 0.0)
    tracked.epoch({"epoch": 3})
    tracked.epoch({"epoch": 4})
    tracked.end("finished")
    tracked.end("failed")
    assert tracker.told == [("start", "run", 3), 3, 4, "finished"]
    assert observer.told == ["step", 3, 4]


def test_a_training_that_never_began_leaves_no_trace(tmp_path: Path) -> None:
    tracker = Recorder()
    Tracked(Recorder(), [tracker], tmp_path, {}).end("failed")
    assert tracker.told == []


def test_a_server_that_goes_away_does_not_end_a_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, here = Recorder(), Recorder()
    monkeypatch.setattr(gone, "epoch", lambda record: 1 / 0)
    told = Tracked(Recorder(), [gone, here], tmp_path, {})
    told.epoch({"epoch": 1})
    told.epoch({"epoch": 2})
    assert here.told == [("start", tmp_path.name, 1), 1, 2]
    assert caplog.text.count("told no more") == 1


def test_a_training_is_followed_and_a_failed_one_is_said_to_be(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    steps = {"epochs": 2, "batch_size": 64}
    settings = from_dict({"method": "mf-bpr", "model": {"size": 4}, "train": steps})
    tracker = Recorder()
    with tracked(Silent(), [tracker], tmp_path / "run", settings) as observer:
        train_run(tiny_dataset.path, tmp_path / "run", settings, observer=observer)
    assert tracker.told == [("start", "run", 1), 1, 2, "finished"]
    failing = Recorder()
    with (
        pytest.raises(ZeroDivisionError),
        tracked(Silent(), [failing], tmp_path, settings) as observer,
    ):
        observer.epoch({"epoch": 1})
        raise ZeroDivisionError
    assert failing.told[-1] == "failed"


@pytest.mark.parametrize("wanted", ["comet", "tensorboard:6006", "wandb:x", ""])
def test_an_unknown_tracker_is_refused_before_the_training(wanted: str) -> None:
    with pytest.raises(UsageError, match="tensorboard, mlflow, mlflow:ADDRESS or wandb"):
        make_tracker(wanted)


@pytest.mark.parametrize("kind", ["mlflow", "wandb"])
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=rf"pip install 'mbrec\[{kind}\]'"):
        make_tracker(kind)


def test_tensorboard_reads_back_what_an_epoch_says(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        tracker = make_tracker("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        tracker.start(tmp_path, {"seed": 1}, 1)
        tracker.epoch(RECORD)
        tracker.end("finished")
        shown = EventAccumulator(str(tmp_path / "tensorboard"))
        shown.Reload()
    found = {tag: shown.Scalars(tag)[0].value for tag in shown.Tags()["scalars"]}
    assert found == pytest.approx(dict(scalars(RECORD)))


def test_mlflow_keeps_files_beside_the_run_and_reports_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    run = tmp_path / "runs" / "ub"
    run.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for first in (1, 2):  # the second goes on with the training
            tracker = make_tracker("mlflow")
            tracker.start(run, {"train.lr": 0.1}, first)
            tracker.epoch({**RECORD, "epoch": first})
            tracker.end("finished")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    written = list((run.parent / "mlruns").rglob("metrics/valid/ndcg_at_5/click"))
    assert len(written) == 1
    values = [line.split()[1:] for line in written[0].read_text().splitlines()]
    assert [(float(value), int(step)) for value, step, *_ in values] == [(0.2, 1), (0.2, 2)]
    assert json.dumps("mlruns") not in json.dumps([str(path) for path in run.iterdir()])


def test_wandb_keeps_files_beside_the_run_and_calls_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = tmp_path / "runs" / "ub"
    run.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server.setblocking(False)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        for first in (1, 2):  # the second goes on with the training
            tracker = make_tracker("wandb")
            tracker.start(run, {"train.lr": 0.1}, first)
            tracker.epoch({**RECORD, "epoch": first})
            tracker.end("finished")
        with pytest.raises(BlockingIOError):
            server.accept()  # whoever had called would stand in line here
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    identity = (run / "wandb.id").read_text()
    written = list((run.parent / "wandb").glob(f"offline-run-*/run-{identity}.wandb"))
    assert len(written) == 2
    for file in written:
        until = time.monotonic() + 60  # W&B's own process may still be writing
        while b"valid/ndcg_at_5/click" not in file.read_bytes() and time.monotonic() < until:
            time.sleep(0.1)
        content = file.read_bytes()
        assert b"valid/ndcg_at_5/click" in content and b"train.lr" in content
    assert [path.name for path in run.iterdir()] == ["wandb.id"]
