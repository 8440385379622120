"""If these fail, a service that trains every night dies after some weeks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("each", "name"),
    [
        ({"rss": 5 << 20}, "memory"),
        ({"open_files": 1}, "open_files"),
        ({"left": 2}, "left"),
        ({}, ""),
    ],
)
def test_what_grows_is_named(soak: ModuleType, each: dict[str, int], name: str) -> None:
    start = {"rss": 400 << 20, "open_files": 9, "threads": 3, "temporary": 0, "left": 30}
    rounds = [
        soak.Round(
            number, 1.0, **{key: value + number * each.get(key, 0) for key, value in start.items()}
        )
        for number in range(1, 40)
    ]
    found = soak.grown(rounds)
    assert [line.partition(":")[0] for line in found] == ([name] if name else [])


@pytest.mark.slow
def test_two_minutes_of_the_whole_road_leave_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--minutes", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "nothing grew" in done.stdout
