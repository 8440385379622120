"""If these fail, a report does not show how the settings of a run were found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the extra report is not installed")
pytest.importorskip("jinja2", reason="the extra report is not installed")

from mbrec.errors import ArtefactError
from mbrec.report import write_report
from mbrec.run import Run

Search = Callable[..., Any]


def test_a_report_shows_the_trials_and_what_mattered(
    search: Search, tiny_run: Run, tmp_path: Path
) -> None:
    found = search(trials=8)
    page = tmp_path / "report.html"
    report = write_report([tiny_run.path], page, users=0, studies=[tmp_path / "study"])
    assert "search" in report.sections
    text = page.read_text()
    assert "Trials in their order" in text and "What mattered" in text
    assert f"{found.best.value:.4f}" in text and "model.itself" in text
    with pytest.raises(ArtefactError, match="is no study"):
        write_report([tiny_run.path], tmp_path / "other.html", studies=[tiny_run.path])
