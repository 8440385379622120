"""`mbrec synth` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mbrec.cli import main as cli
from mbrec.cli.synth import command

SMALL = ["--users", "20", "--items", "30", "--events", "500"]


def test_it_says_what_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "log.csv"
    done = CliRunner().invoke(command, [*SMALL, "--out", str(out)])
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{out}: 500 rows (pv ")
    assert len(out.read_text().splitlines()) == 500


def test_json_is_all_that_stands_on_stdout(tmp_path: Path) -> None:
    out = tmp_path / "log.csv.gz"
    done = CliRunner().invoke(command, [*SMALL, "--format", "jd2016", "--out", str(out), "--json"])
    said = json.loads(done.stdout)
    assert said["rows"] == sum(said["by_code"].values()) == 500
    assert said["options"]["format"] == "jd2016"
    assert out.read_bytes()[:2] == b"\x1f\x8b"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--events", "3"], "number of events is 3"),
        (["--format", "taobao"], "'ub', 'jd2019', 'jd2016'"),
        (["--out", "."], "is a folder"),
        (["--out", "no/such/folder/log.csv"], "does not exist"),
    ],
)
def test_wrong_use_ends_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["synth", "--out", str(tmp_path / "log.csv"), *arguments])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_shows_defaults_and_an_example() -> None:
    shown = CliRunner().invoke(command, ["--help"]).output
    assert "[default: 200000]" in shown
    assert "mbrec synth --format ub" in shown
