"""`mbrec report` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mbrec.run import Run

pytest.importorskip("matplotlib", reason="the extra report is not installed")
pytest.importorskip("jinja2", reason="the extra report is not installed")

Mbrec = Callable[..., tuple[int, str, str]]


def test_a_page_is_written_and_told_of(mbrec: Mbrec, tiny_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    code, said, _ = mbrec("report", tiny_run.path, "--out", out, "--users", 2, "--json")
    told = json.loads(said)
    assert code == 0
    assert told["bytes"] == out.stat().st_size
    assert told["split"] == "valid" and told["runs"] == 1
    assert {"data", "metrics", "slices", "map", "users"} <= set(told["sections"])


def test_a_page_is_not_written_over_unasked(mbrec: Mbrec, tiny_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    code, _, said = mbrec("report", tiny_run.path, "--out", out)
    assert code == 2 and "exists already. Choose another path, or add --force." in said
    assert out.read_text() == "mine"
    code, said, _ = mbrec("report", tiny_run.path, "--out", out, "--split", "test", "--force")
    assert code == 0 and "a report of 1 run on test rows" in said
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_a_wrong_path_is_one_line(mbrec: Mbrec, tmp_path: Path) -> None:
    code, _, said = mbrec("report", tmp_path / "nothing", "--out", tmp_path / "report.html")
    assert code == 1 and said.count("\n") == 1 and "is no run" in said
    assert list(tmp_path.iterdir()) == []


def test_at_least_one_run_is_named(mbrec: Mbrec, tmp_path: Path) -> None:
    code, _, said = mbrec("report", "--out", tmp_path / "report.html")
    assert code == 2 and "RUN" in said


def test_the_help_ends_with_examples(mbrec: Mbrec) -> None:
    code, said, _ = mbrec("report", "--help")
    assert code == 0 and "mbrec report runs/ub --out report.html" in said
