"""If these fail, the first thing that a new user types does not work."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mbrec.cli import main as cli
from mbrec.data_prep.synth import SynthOptions, write_log

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a UserBehavior log, as the README supposes."""
    path = tmp_path_factory.mktemp("shop")
    write_log(path / "UserBehavior.csv", SynthOptions("ub", 150, 80, 6_000, 3))
    write_log(path / "UserBehavior.csv.gz", SynthOptions("ub", 300, 120, 30_000, 3))
    return path


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_example_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (code,) = blocks("python")
    exec(compile(code, str(README), "exec"), {})
    assert "ndcg@5" in capsys.readouterr().out
    lists = pq.read_table(folder / "lists.parquet")
    assert lists.column_names == ["user_id", "behavior", "rank", "item_id", "score"]


def test_the_commands_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (text,) = [block for block in blocks("sh") if "mbrec prep" in block]
    for line in text.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "mbrec"
        cli_arguments = [*arguments, "--force"] if arguments[0] != "evaluate" else arguments
        code = 0
        try:
            cli.main(cli_arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        assert code == 0, (line, capsys.readouterr().err)
    summary = json.loads((folder / "runs" / "ub" / "evaluation.test.json").read_text())
    assert set(summary["behaviors"]) == {"click", "favorite", "cart", "purchase"}
