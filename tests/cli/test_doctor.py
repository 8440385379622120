"""`mbrec doctor` as a user calls it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mbrec import doctor
from mbrec.cli.doctor import command
from mbrec.doctor import Finding, Report

FINE = Report((Finding("torch", "ok", "2.9"),), ("torch on cpu",))
BROKEN = Report((Finding("torch", "problem", "odd \x1b[2J", "Install it anew."),), ())


def test_it_ends_with_0_where_training_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: FINE)
    done = CliRunner().invoke(command)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "Training is possible: torch on cpu."


def test_it_ends_with_1_where_it_is_not_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: BROKEN)
    done = CliRunner().invoke(command)
    assert done.exit_code == 1
    assert "→ Install it anew." in done.stdout
    assert "\x1b" not in done.stdout


def test_json_is_for_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: BROKEN)
    done = CliRunner().invoke(command, ["--json"])
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert said["ready"] is False
    assert said["findings"][0]["remedy"] == "Install it anew."
