"""`mbrec export` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mbrec.cli import main as cli
from mbrec.cli.export import command
from mbrec.run import Run


def test_it_says_what_it_wrote(tiny_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    done = CliRunner().invoke(command, [str(tiny_run.path), "--out", str(out), "--k", "7"])
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"Wrote 504 rows to {out}: the best 7 items for each of 24 users "
        "in click, favorite, purchase.\n"
    )
    assert pq.read_metadata(out).num_rows == 504


def test_unknown_users_are_counted_on_both_streams(
    tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users, out = tmp_path / "users.txt", tmp_path / "lists.csv"
    users.write_text("u3\nnobody\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["export", str(tiny_run.path), "--out", str(out), "--users", str(users), "--json",
             "--behavior", "purchase", "--behavior", "click", "--exclude-seen", "any", "--k", "3"]
        )  # fmt: skip
    assert stop.value.code in (None, 0)
    said = capsys.readouterr()
    assert "1 of the 2 users" in said.err
    assert json.loads(said.out) == {
        "out": str(out),
        "k": 3,
        "exclude_seen": "any",
        "behaviors": ["click", "purchase"],
        "users": 1,
        "rows": 6,
        "short_lists": 0,
        "unknown_users": {"count": 1, "first": ["nobody"]},
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--out", "{tmp}/lists.xlsx"], 2, "Use .parquet, .csv or .jsonl"),
        (["--out", "{tmp}/old.csv"], 2, "add --force"),
        (["--out", "{tmp}/a.csv", "--behavior", "buy"], 2, "It has click, favorite, purchase."),
        (["--out", "{tmp}/a.csv", "--k", "0"], 2, "--k"),
        (["--out", "{tmp}/a.csv", "--exclude-seen", "all"], 2, "'same', 'any', 'none'"),
        (["--out", "{tmp}/a.csv", "--users", "{tmp}/gone.txt"], 1, "There is no file"),
        (["--out", "{tmp}/a.csv", "--users", "{tmp}/empty.txt"], 1, "names no user"),
        (["--out", "{tmp}/old.csv/a.csv"], 2, "old.csv is no folder"),
        (["--embeddings", "{tmp}/run"], 2, "add --force"),
        (["--embeddings", "{tmp}/run", "--force"], 2, "holds other things"),
        (["--embeddings", "{tmp}/old.csv"], 2, "is a file, not a folder"),
        (["--embeddings", "{tmp}/a", "--k", "5"], 2, "--embeddings does not go with --k."),
        (["--fold-in", "{tmp}/old.csv"], 2, "Missing option '--out'"),
        (["--out", "{tmp}/a.csv", "--fold-in", "{tmp}/gone.csv"], 1, "There is no file"),
        (["--out", "{tmp}/a.csv", "--fold-in", "{tmp}"], 1, "is a folder. Give the file of a log."),
        (["--out", "{tmp}/a.csv", "--fold-in", "{tmp}/empty.txt"], 1, "empty.txt"),
        (["--out", "{tmp}/a.csv", "--fold-in", "{tmp}/old.csv"], 1, "no column 'user_id'"),
        (["--out", "{tmp}/a.csv", "--fold-in", "x", "--users", "y"], 2, "not go with --users"),
        (["--out", "{tmp}/a.csv", "--faiss"], 2, "--faiss goes with --embeddings."),
        ([], 2, "Missing option '--out' (or '--embeddings')."),
    ],
)
def test_wrong_usage_is_said_in_a_line_and_leaves_nothing_behind(
    tiny_run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    (tmp_path / "old.csv").write_text("mine")
    (tmp_path / "empty.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(tiny_run.path), *filled])
    assert stop.value.code == code
    said = capsys.readouterr()
    assert words in said.err.splitlines()[-1]
    assert said.out == ""
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "old.csv").read_text() == "mine"


def test_vectors_are_written_in_place_of_lists(tiny_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    arguments = [str(tiny_run.path), "--embeddings", str(out), "--behavior", "purchase"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"Wrote the vectors of 24 users and 30 items to {out}: purchase (4). "
        "Their inner product is the score.\n"
    )
    done = CliRunner().invoke(command, [*arguments, "--force", "--json"])
    assert json.loads(done.stdout)["sizes"] == {"purchase": 4}


def test_new_users_get_lists_and_everything_else_in_their_log_is_counted(
    tiny_run: Run, tmp_path: Path
) -> None:
    log, out = tmp_path / "today.csv", tmp_path / "new.csv"
    log.write_text(
        "user_id,item_id,behavior,timestamp\n"
        "zoe,1001,click,1\nzoe,1004,click,2\nzoe,1001,click,3\nzoe,5,click,4\n"
        "u3,1001,click,5\namy,5,click,6\nzoe,1001,wave,7\n"
    )
    arguments = [str(tiny_run.path), "--fold-in", str(log), "--out", str(out), "--k", "3"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"Wrote 9 rows to {out}: the best 3 items for each of 1 new users in "
        "click, favorite, purchase.",
        "1 users of the log are known and have no list here.",
        "2 events of new users are of 1 items that the run does not know; 1 users have no others "
        "and no list.",
        "1 rows of the log: unknown behavior",
    ]
    frame = pd.read_csv(out)
    assert set(frame.user_id) == {"zoe"}
    assert frame.item_id.iloc[0] == 1007  # of her taste, and the first that is not in the log
    done = CliRunner().invoke(command, [*arguments, "--force", "--json"])
    said = json.loads(done.stdout)
    assert (said["users"], said["log_rows"], said["rejected"]) == (1, 7, {"unknown behavior": 1})
