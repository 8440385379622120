"""`mbrec demo`: all steps, once, on a small log; and what it leaves if it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from mbrec.cli import demo
from mbrec.cli import main as cli
from mbrec.cli.demo_report import lists_text, metrics_text

SMALL = ["--users", "120", "--items", "60", "--events", "8000"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A demo that has come to its end."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "TRAINING", {"train.epochs": "2"})
        result = CliRunner().invoke(demo.command, ["--out", str(out), *SMALL])
    assert result.exit_code == 0, result.output
    return out, result


def test_every_step_is_shown_as_the_command_that_does_it(finished: tuple[Path, Result]) -> None:
    out, result = finished
    calls = [line for line in result.stderr.splitlines() if line.startswith("$ mbrec ")]
    verbs = [call.split()[2] for call in calls]
    assert verbs == ["synth", "prep", "train", "train", "evaluate", "evaluate", "export"]
    assert all(str(out) in call for call in calls)


def test_the_commands_shown_are_commands_that_mbrec_takes(finished: tuple[Path, Result]) -> None:
    for line in finished[1].stderr.splitlines():
        if line.startswith("$ mbrec "):
            verb, *arguments = line.split()[2:]
            context = cli.group.make_context("mbrec", [verb], resilient_parsing=True)
            command = cli.group.get_command(context, verb)
            assert command is not None
            command.make_context(verb, arguments)  # raises if it does not


def test_it_ends_with_figures_lists_and_places(finished: tuple[Path, Result]) -> None:
    out, result = finished
    for words in ("BiGEL NDCG@5", "purchase", "gets ", "Where everything lies"):
        assert words in result.stdout
    shown = [line.split()[0] for line in result.stdout.splitlines() if str(out) in line]
    assert len(shown) == 5
    assert all(Path(place).exists() for place in shown)


def test_the_lists_are_of_items_the_log_knows(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    lists = pd.read_csv(out / "lists.csv")
    log = pd.read_csv(out / "log.csv", header=None)
    assert set(lists["item_id"]) <= set(log[1])
    assert set(lists["user_id"]) <= set(log[0])


def test_an_earlier_demo_is_replaced_only_with_force(
    finished: tuple[Path, Result], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--out", str(finished[0])])
    assert stop.value.code == 2
    assert "exists already" in capsys.readouterr().err
    assert (finished[0] / "lists.csv").exists()


def test_force_does_not_replace_what_is_no_demo(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--out", str(tmp_path), "--force"])
    assert stop.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_demo_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(self: demo.Road) -> str:
        raise error

    monkeypatch.setattr(demo.Road, "_prep", fail)
    with pytest.raises(SystemExit):
        cli.main(["demo", "--out", str(tmp_path / "out"), *SMALL])
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_is_too_thin_is_one_readable_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--out", str(out), "--users", "5", "--items", "500", "--events", "20"])
    assert stop.value.code == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "Error:" in line]
    assert len(error) == 1
    assert not out.exists()


def test_a_behavior_without_test_rows_is_a_dash(tmp_path: Path) -> None:
    row = {"users": 0, "ndcg@5": None, "hr@5": None}
    summary = {"behaviors": {"click": row}, "macro": {"ndcg@5": 0.25, "hr@5": 0.5}}
    text = metrics_text({"bigel": summary, "mostpop": summary})
    assert text.splitlines()[-2].split() == ["click", "0", "-", "-", "-", "-"]
    assert text.splitlines()[-1].split() == ["macro", "0.2500", "0.2500", "0.5000", "0.5000"]


def test_histories_and_lists_stand_side_by_side(tmp_path: Path) -> None:
    log, lists = tmp_path / "log.csv", tmp_path / "lists.csv"
    log.write_text("7,70,2,pv,1\n7,71,1,pv,2\n7,70,2,buy,3\n7,72,1,fav,4\n")
    lists.write_text("user_id,behavior,rank,item_id,score\n7,click,2,70,0.1\n7,click,1,72,0.2\n")
    lines = [line.split() for line in lists_text(log, lists).splitlines()]
    assert ["click", "did", "A:71", "B:70"] in lines
    assert ["gets", "A:72", "B:70"] in lines
    assert ["purchase", "did", "B:70"] in lines


def test_json_is_all_that_stands_on_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(self: demo.Road) -> None:
        self.metrics = {"bigel": {}, "mostpop": {}}

    monkeypatch.setattr(demo.Road, "walk", walk)
    out = tmp_path / "out"
    said = json.loads(CliRunner().invoke(demo.command, ["--out", str(out), "--json"]).stdout)
    assert set(said["metrics"]) == {"bigel", "mostpop"}
    assert json.loads((out / "demo.json").read_text())["status"] == "finished"
