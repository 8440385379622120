"""If these fail, trials in processes of their own are lost, or end the search with them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra tune is not installed")

from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.tune.pool import make_pool
from mbrec.tune.trial import Job, Outcome


@pytest.mark.slow
def test_a_process_reports_is_told_to_end_a_trial_and_is_replaced_when_it_dies(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    train = {"epochs": 3, "batch_size": 64}
    settings = from_dict({"method": "mf-bpr", "device": "cpu", "train": train})
    heard: list[int] = []

    def decide(number: int, record: Mapping[str, Any]) -> bool:
        heard.append(int(record["epoch"]))
        return number == 1  # the second trial is behind

    with contextlib.closing(make_pool(1)) as pool:

        def run(number: int, kill: bool = False) -> Outcome:
            pool.submit(Job(number, settings, tiny_dataset.path, tmp_path / str(number)))
            if kill:
                (worker,) = pool._crew._workers  # type: ignore[attr-defined]
                os.kill(worker.process.pid, signal.SIGKILL)
            while not (over := pool.ended(decide)):
                pass
            assert [n for n, _ in over] == [number]
            return over[0][1]

        first = run(0)
        assert (first.state, first.epochs, heard) == ("finished", 3, [1, 2, 3])
        assert run(1).state == "pruned"
        lost = run(2, kill=True)
        assert lost.lost and "SIGKILL" in lost.error
        again = run(3)
        assert again.value == first.value
    assert not list(tmp_path.iterdir())
