"""`mbrec evaluate` as a user calls it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from mbrec.cli import main as cli
from mbrec.cli.evaluate import command
from mbrec.cli.evaluation_tables import metrics_table
from mbrec.run import Run


def test_the_table_has_a_line_per_behavior_and_length(
    tiny_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mbrec"):
        done = CliRunner().invoke(command, [str(tiny_run.path), "--k", "10,5"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    names = ["click", "favorite", "purchase", "macro"]
    assert [line[:8].strip() for line in lines if line][1:-1] == ["K = 5", *names, "K = 10", *names]
    assert lines[2].split()[3:] == ["users", "HR", "NDCG", "Recall", "Precision", "MRR", "MAP"]
    assert {len(line) for line in lines[2:7]} == {len(lines[2])}
    assert len(lines[2]) < 80
    assert "evaluation.test.json" in lines[-1]
    assert (tiny_run.path / "evaluation.test.json").is_file()
    assert "'favorite' has no test rows" in caplog.text


def test_json_on_stdout_is_what_is_written(tiny_run: Run) -> None:
    done = CliRunner().invoke(command, [str(tiny_run.path), "--split", "valid", "--json"])
    said = json.loads(done.stdout)
    assert said == json.loads((tiny_run.path / "evaluation.valid.json").read_text())
    assert list(said) == ["split", "behaviors", "macro"]
    assert list(said["behaviors"]["click"])[:3] == ["users", "hr@5", "ndcg@5"]


def test_a_behavior_without_figures_shows_dashes() -> None:
    nothing = dict.fromkeys(("hr@1", "ndcg@1", "recall@1", "precision@1", "mrr@1", "map@1"))
    summary = {"split": "test", "behaviors": {"click": {"users": 0, **nothing}}, "macro": nothing}
    assert metrics_table(summary, [1]).splitlines()[-2].split() == ["click", "0", *"------"]


def test_slices_are_shown_as_a_table_that_fits_a_terminal(tiny_run: Run) -> None:
    done = CliRunner().invoke(command, [str(tiny_run.path), "--slices", "--k", "5,20"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines[:-1]) <= 80
    start = next(n for n, line in enumerate(lines) if line.startswith("Slices of the test rows"))
    purchase = next(n for n in range(start, len(lines)) if lines[n].startswith("purchase"))
    assert lines[purchase].split()[1:] == ["users", "held", "out", "HR", "NDCG", "Recall", "MRR"]
    block = lines[purchase : purchase + 11]
    assert {len(line) for line in block} == {len(block[0])}
    assert [line.split()[0] for line in block[1:3]] == ["explored", "new"]
    assert [" ".join(line.split()[:2]) for line in block[3:5]] == ["item warm", "item cold"]
    assert block[7].startswith("  q1: 13 to 13 pairs ")
    assert block[10].startswith("  q4: nobody ")
    assert any(line.split() == ["favorite", "20", "-", "-", "-"] for line in lines)
    assert "slices.test.json" in lines[-1]
    plain = CliRunner().invoke(command, [str(tiny_run.path)]).stdout
    assert "Slices" not in plain


def test_sampled_figures_are_never_shown_without_their_warning(tiny_run: Run) -> None:
    done = CliRunner().invoke(command, [str(tiny_run.path), "--sampled", "4", "--k", "5"])
    assert done.exit_code == 0, done.output
    full, _, sampled = done.stdout.partition("WARNING: Not comparable")
    assert "sampled4" not in full
    assert "sampled4_…@5" in sampled
    assert "evaluation.test.sampled4.json" in sampled.splitlines()[-1]
    assert "sampled4" not in CliRunner().invoke(command, [str(tiny_run.path)]).stdout


def test_json_holds_slices_and_sampled_figures_if_asked(tiny_run: Run) -> None:
    asked = [str(tiny_run.path), "--slices", "--sampled", "4", "--json"]
    said = json.loads(CliRunner().invoke(command, asked).stdout)
    assert list(said) == ["split", "behaviors", "macro", "slices", "sampled"]
    for key, file in (("slices", "slices.test"), ("sampled", "evaluation.test.sampled4")):
        written = json.loads((tiny_run.path / f"{file}.json").read_text())
        assert {"source": tiny_run.source, **said[key]} == written
    assert said["sampled"]["comparable"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{run}", "--k", "5,x"], 2, "'5,x' is no list"),
        (["{run}", "--k", "0"], 2, "'0' is no list"),
        (["{run}", "--sampled", "0"], 2, "'--sampled': 0 is not in the range"),
        (["{run}", "--split", "train"], 2, "'train' is not one of"),
        (["{run}/gone"], 1, "is no run (it has no run.json). Make one with `mbrec train`."),
        (["{run}", "--data", "{run}"], 1, "is no prepared dataset"),
        (["{run}", "--data", "gone"], 1, "--data"),
        ([], 2, "Missing argument 'RUN'"),
    ],
)
def test_wrong_usage_is_said_in_a_line(
    tiny_run: Run,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    filled = [argument.format(run=tiny_run.path) for argument in arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", *filled])
    assert stop.value.code == code
    said = capsys.readouterr()
    assert words in said.err.splitlines()[-1]
    assert said.out == ""


def test_a_damaged_run_is_named_and_nothing_is_written(
    tiny_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    file: Path = tiny_run.path / "embeddings.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    before = sorted(tiny_run.path.iterdir())
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(tiny_run.path)])
    assert f"{file} is damaged" in capsys.readouterr().err
    assert sorted(tiny_run.path.iterdir()) == before
