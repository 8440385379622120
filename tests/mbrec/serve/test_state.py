"""A new run replaces the old one between two requests, or is refused; nobody waits for it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="fastapi (the extra `serve`) is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2", reason="httpx2, by which the tests ask, is not installed")

from starlette.testclient import TestClient

from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError
from mbrec.run import Run
from mbrec.scoring import Factors
from mbrec.serve.state import load

WritePlanted = Callable[..., PreparedDataset]


def reversed_factors(dataset: PreparedDataset) -> dict[str, Factors]:
    """The last items are the best for everybody."""
    items = torch.arange(float(dataset.num_items))[:, None]
    return {name: Factors(torch.ones(dataset.num_users, 1), items) for name in dataset.behaviors}


def best(client: TestClient) -> tuple[int, str]:
    found = client.get("/users/u1/top?behavior=click&exclude_seen=none&k=1").json()
    return found["items"][0]["item_id"], found["run"]


def replace_run(old: Run, new: Run) -> None:
    shutil.rmtree(old.path)
    new.path.rename(old.path)


def test_a_new_run_is_served_once_it_is_loaded(
    make_service: Callable[..., Any],
    tiny_run: Run,
    tiny_dataset: PreparedDataset,
    make_run: Callable[..., Run],
) -> None:
    app, shelf = make_service(tiny_run)
    with TestClient(app) as client:
        first, version = best(client)
        assert not shelf.changed()
        replace_run(tiny_run, make_run(tiny_dataset, reversed_factors(tiny_dataset), "new"))
        assert shelf.changed()
        assert best(client) == (first, version)
        held = shelf.current
        assert shelf.renew()
        assert not shelf.changed()
        assert best(client)[0] == 1029
        assert best(client)[1] != version
        assert held.top("u1", "click", 1, "none")[0].item_id == first  # for who began with it


@pytest.mark.parametrize("damage", ["cut", "gone", "unfinished", "other behaviors"])
def test_a_run_that_cannot_be_served_is_refused_and_the_old_one_goes_on(
    make_service: Callable[..., Any],
    tiny_run: Run,
    make_dataset: Callable[..., PreparedDataset],
    make_run: Callable[..., Run],
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    app, shelf = make_service(tiny_run)
    with TestClient(app) as client:
        before = best(client)
        if damage == "cut":
            file = tiny_run.path / "embeddings.safetensors"
            os.truncate(file, 100)
        elif damage == "gone":
            shutil.rmtree(tiny_run.path)
        elif damage == "unfinished":
            info = json.loads((tiny_run.path / "run.json").read_text())
            (tiny_run.path / "run.json").write_text(json.dumps({**info, "files": {}}))
        else:
            other = make_dataset([(0, 0, "buy", "train")], users=3, items=3, behaviors=("buy",))
            replace_run(tiny_run, make_run(other, reversed_factors(other), "new"))
        with caplog.at_level(logging.WARNING):
            assert not shelf.renew()
        assert best(client) == before
        assert f"run {before[1]} goes on" in caplog.text
        assert client.get("/health").json()["reload_error"].startswith("ArtefactError: ")


def test_writing_over_the_files_of_a_run_does_not_reach_what_is_served(
    make_service: Callable[..., Any], tiny_run: Run
) -> None:
    app, _ = make_service(tiny_run)
    with TestClient(app) as client:
        before = best(client)
        file = tiny_run.path / "embeddings.safetensors"
        with file.open("r+b") as stream:
            stream.seek(-2000, os.SEEK_END)
            stream.write(b"\xff" * 2000)
        assert best(client) == before


def test_a_service_does_not_start_without_its_dataset_unless_it_leaves_nothing_out(
    tiny_run: Run, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(ArtefactError, match="--data"):
        load(tiny_run.path, gone, "cpu", with_seen=True)
    assert not load(tiny_run.path, gone, "cpu", with_seen=False).seen
