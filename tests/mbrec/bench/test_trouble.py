"""If these fail, a full disk, a killed worker or a damaged file costs more than one run."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mbrec.bench import cells, workers
from mbrec.bench.bench import Quiet, run_bench
from mbrec.bench.plan import Cell, make_plan
from mbrec.bench.store import Store
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, BusyError, StorageError, UsageError
from mbrec.locks import locked

from .conftest import VALID, MakeSpec, results


class Disturb(Quiet):
    """Does something at the first epoch that a worker reports."""

    def __init__(self, what: Callable[[], None]) -> None:
        self.what: Callable[[], None] | None = what

    def epoch(self, cell: Cell, record: Mapping[str, Any]) -> None:
        if self.what is not None:
            what, self.what = self.what, None
            what()


def stop() -> None:
    raise KeyboardInterrupt


def told_by_a_worker(cell: Cell, out: Path) -> object:
    """What the loop of a worker, here in a thread, wants to be raised."""
    here, there = multiprocessing.Pipe()
    thread = threading.Thread(target=workers._work, args=(there, out, False, os.getppid()))
    thread.start()
    here.send(cell)
    found: object = here.recv()["raise"]
    here.close()
    thread.join()
    return found


def test_a_full_disk_ends_the_bench_and_the_run_goes_on_afterwards(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise StorageError("Cannot write: no space left.", "Make room.")

    spec, out = make_spec(VALID, ["seeds=[1]"]), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(cells, "train_run", full)
        with pytest.raises(StorageError, match=r"no space left\. Make room"):
            run_bench(spec, out, jobs=0)
        error = told_by_a_worker(make_plan(spec)[0].finals(0)[0], out)
        assert isinstance(error, StorageError)
        assert error.remedy == "Make room."
    assert not list((out / "cells").iterdir())
    run_bench(spec, out, jobs=0)
    assert set(results(out)["status"]) == {"finished"}


def test_a_dataset_that_goes_away_ends_the_bench(
    make_spec: MakeSpec, tmp_path: Path, tiny_dataset: PreparedDataset
) -> None:
    data = shutil.copytree(tiny_dataset.path, tmp_path / "data")
    spec, store = make_spec(VALID, data=[f"tiny={data}"]), Store(tmp_path / "out")
    (cell, *_) = make_plan(spec)[0].finals(0)
    shutil.rmtree(data)
    with store.opened({}), pytest.raises(ArtefactError, match="is no prepared dataset"):
        cells.run_cell(cell, store)
    assert not list((store.path / "cells").iterdir())


def test_a_run_that_another_process_trains_is_left_alone(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    spec = make_spec(VALID, ["train.epochs=30"])
    with pytest.raises(KeyboardInterrupt):
        run_bench(spec, out, jobs=1, only=["lightgcn"], watcher=Disturb(stop))
    (half,) = (out / "runs").iterdir()
    before = sorted(half.rglob("*"))
    with locked(half), pytest.raises(BusyError):
        run_bench(spec, out, jobs=0, only=["lightgcn"])
    assert sorted(half.rglob("*")) == before


def test_a_damaged_record_is_made_again(
    make_spec: MakeSpec, tmp_path: Path, runs: list[Cell]
) -> None:
    out = tmp_path / "out"
    run_bench(make_spec(VALID), out, jobs=0, only=["mostpop"])
    (out / "cells" / f"{runs[0].key}.json").write_text("{half")
    run_bench(make_spec(VALID), out, jobs=0, only=["mostpop"])
    assert [cell.key for cell in runs] == [runs[0].key] * 2


def test_damaged_figures_of_users_are_named(make_spec: MakeSpec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_bench(make_spec(VALID), out, jobs=0)
    for path in (out / "users").iterdir():
        path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(
        ArtefactError, match=r"users/.*\.parquet is damaged: .*Delete it and .*json"
    ):
        run_bench(make_spec(VALID), out, jobs=0)


def test_a_folder_of_something_else_and_one_in_use_are_refused(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    with pytest.raises(UsageError, match="holds other things"):
        run_bench(make_spec(), tmp_path / "photos", jobs=0)
    store = Store(tmp_path / "out")
    with store.opened({}), pytest.raises(BusyError, match="is being written by process"):
        run_bench(make_spec(), tmp_path / "out", jobs=0)
    with pytest.raises(UsageError, match="no method 'bigl'"):
        run_bench(make_spec(), tmp_path / "out", jobs=0, only=["bigl"])


def test_workers_that_are_killed_or_stopped_cost_one_run(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    def kill() -> None:
        multiprocessing.active_children()[0].kill()

    spec, out = make_spec(VALID, ["train.epochs=30"]), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_bench(spec, out, jobs=1, only=["lightgcn"], watcher=Disturb(stop))
    assert not multiprocessing.active_children()
    assert len(list((out / "runs").iterdir())) == 1  # half trained, to be gone on with
    run_bench(spec, out, jobs=1, only=["lightgcn"], watcher=Disturb(kill))
    found = results(out).drop_duplicates("run")
    (error,) = found.loc[found["status"] == "failed", "error"]
    assert error == "The process ended (SIGKILL); it may have run out of memory."
    assert (found["status"] == "finished").sum() == 2  # the other trial, and its second seed
    run_bench(spec, out, jobs=0, retry=True)
    assert set(results(out)["status"]) == {"finished"}
