"""If these fail, people cannot bring a method of their own as docs/methods.md promises."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import UsageError
from mbrec.evaluation import evaluate_run
from mbrec.models import registry
from mbrec.models.base import Entry
from mbrec.training import train_run

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def example() -> str:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    (tmp_path / "outside_method.py").write_text(example(), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    result: Entry = import_module("outside_method").ENTRY
    return result


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})


def test_the_example_is_as_short_as_promised() -> None:
    assert len(example().splitlines()) < 60


def test_a_registered_method_trains_and_is_evaluated(
    entry: Entry, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    registry.register("deep", entry)
    assert "deep" in registry.names()
    settings = from_dict({"method": "deep", "device": "cpu", "train": {"epochs": 20, "lr": 0.05}})
    run = train_run(tiny_dataset.path, tmp_path / "run", settings)
    summary = evaluate_run(run.path, split="valid", device="cpu").summary()
    assert summary["behaviors"]["purchase"]["ndcg@5"] > 0.3  # a third of the items is to her taste


def test_a_method_of_an_installed_package_is_found(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Offered(EntryPoint):
        def load(self) -> Any:
            return entry if self.value == "package:ENTRY" else object()

    points = [
        Offered("deep", "package:ENTRY", registry.GROUP),
        Offered("broken", "package:OTHER", registry.GROUP),
    ]
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda group, name=None: [p for p in points if name in (None, p.name)],
    )
    assert registry.find("deep") is entry
    assert {"deep", "bigel"} <= set(registry.names())
    with pytest.raises(UsageError, match="broken"):
        registry.find("broken")
    with pytest.raises(UsageError, match="Did you mean 'deep'"):
        registry.find("deeep")


def test_a_name_is_not_taken_twice(entry: Entry) -> None:
    with pytest.raises(UsageError, match="already"):
        registry.register("bigel", entry)
