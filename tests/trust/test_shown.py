"""What strangers wrote into a log is data: no terminal obeys it, no spreadsheet runs it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import mbrec.cli
from mbrec.cli.console import one_line, printable, show, show_json
from mbrec.errors import UsageError
from mbrec.tables import count_risky, table_writer

Mbrec = Callable[..., Any]
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\x7f\r\x08"
RISKY = [
    "=1+1",
    "+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "'=1",
    "＝1",
]


def test_every_character_that_drives_a_terminal_is_shown_as_an_escape() -> None:
    shown = printable(ESCAPES)
    assert shown.isprintable()
    assert shown.startswith(r"\x1b]0;owned\x07") and r"\u202e" in shown and r"\x9b" in shown
    assert printable("Größe 加购 ✓\nnext") == "Größe 加购 ✓\nnext"
    assert one_line("a\n\x1b[2Jb") == r"a \x1b[2Jb"


@given(st.text(st.characters(codec=None)))
@settings(max_examples=200, deadline=None)
def test_json_for_scripts_is_safe_to_look_at_and_loses_nothing(text: str) -> None:
    stream = io.StringIO()
    with redirect_stdout(stream):
        show_json({"id": text})
    seen = stream.getvalue()
    assert all(c.isprintable() or c == "\n" for c in seen)
    assert json.loads(seen) == {"id": text}


def test_show_is_what_all_commands_print_with() -> None:
    assert mbrec.cli.__file__
    for file in sorted(Path(mbrec.cli.__file__).parent.glob("*.py")):
        if file.name == "console.py":
            continue
        for call in re.findall(
            r"(?:\bprint|click\.echo|click\.secho|tqdm\.write)\(.*", file.read_text()
        ):
            # Errors are brought on one line; the two others move the cursor, on purpose.
            fine = ("one_line(", r"\r\033[K", "printable(")
            after = file.read_text().split(call, 1)[1][:40]
            assert any(word in call + after for word in fine), (file.name, call)


def test_ids_from_the_log_do_not_reach_the_terminal_as_they_are(copy: Path, mbrec: Mbrec) -> None:
    users = copy / "users.txt"
    users.write_text("u1\n\x1b[2Jevil\x9b31m\n", encoding="utf-8")
    answer = mbrec("export", copy / "run", "--users", users, "--out", copy / "\x1b[31m.csv")
    assert answer.code == 0
    assert r"\x1b[2Jevil\x9b31m" in answer.err and r"\x1b[31m.csv" in answer.out
    assert all(c.isprintable() or c == "\n" for c in answer.out + answer.err)
    answer = mbrec("export", copy / "run", "--users", users, "--out", copy / "l.csv", "--json")
    assert json.loads(answer.out)["unknown_users"]["first"] == ["\x1b[2Jevil\x9b31m"]
    assert all(c.isprintable() or c == "\n" for c in answer.out)


def test_a_path_that_is_no_text_is_refused_before_anything_is_made(
    copy: Path, mbrec: Mbrec
) -> None:
    before = sorted(copy.rglob("*"))
    for call in (("train", copy / "data", "--out", copy / "l\udcfc"), ("inspect", "l\udcfc")):
        answer = mbrec(*call)
        assert answer.code == 2
        assert r"l\udcfc is not UTF-8. Give it another name." in answer.error
    assert sorted(copy.rglob("*")) == before


def test_codes_and_file_names_of_a_log_are_escaped(tmp_path: Path, mbrec: Mbrec) -> None:
    log = tmp_path / "l\x1b[2Jog.csv"
    log.write_text(
        "user_id,item_id,behavior,timestamp\n1,2,\x1b[31mred,1\n1,3,\x1b[31mred,2\n",
        encoding="utf-8",
    )
    call = ("prep", "--source", "csv", "--input", log, "--out", tmp_path / "data")
    answer = mbrec(*call, "--behaviors", "\x1b[31mred")
    assert answer.code == 1
    assert "cannot be the name of a behavior" in answer.error
    assert "\x1b" not in answer.out + answer.err


def test_help_says_what_becomes_of_formulas() -> None:
    from mbrec.cli.export import command

    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "--spreadsheet-safe" in text and "ids are written as they are" in text


def write(path: Path, ids: list[str], *, spreadsheet: bool) -> list[list[str]]:
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.int64()), ("score", pa.float32())])
    table = pa.table([ids, [-7] * len(ids), [-0.5] * len(ids)], schema=schema)
    with table_writer(path, spreadsheet=spreadsheet)(path, schema) as put:
        put(table)
    with path.open(encoding="utf-8", newline="") as stream:
        head, *rows = csv.reader(stream)
    assert head == ["user_id", "item_id", "score"]
    return rows


def test_by_default_ids_come_back_as_they_were(tmp_path: Path) -> None:
    ids = [*RISKY, "plain", 'a"b', "a,b", "a;b", ""]
    assert [row[0] for row in write(tmp_path / "l.csv", ids, spreadsheet=False)] == ids


def test_for_spreadsheets_no_cell_begins_a_formula_and_each_can_be_undone(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    ids = [*RISKY, "plain", 'a"b', "a,b", "a;=b", "-", "u-1"]
    rows = write(path, ids, spreadsheet=True)
    cells = [row[0] for row in rows]
    assert not any(re.match(r"[\s=+\-@＝]", cell) for cell in cells)
    assert [cell.removeprefix("'") for cell in cells] == ids
    assert cells[len(RISKY) :] == ["plain", 'a"b', "a,b", "a;=b", "'-", "u-1"]
    assert rows[0][1:] == ["-7", "-0.5"]  # numbers are numbers
    assert path.read_text().splitlines()[-1] == '"u-1","-7","-0.5"'


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1))
@settings(max_examples=50, deadline=None)
def test_any_id_survives_both_ways(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "l.csv"
    assert [row[0] for row in write(path, ids, spreadsheet=False)] == ids
    safe = [row[0] for row in write(path, ids, spreadsheet=True)]
    assert [cell.removeprefix("'") for cell in safe] == ids


def test_formulas_are_counted_and_only_csv_needs_the_option(tmp_path: Path) -> None:
    assert count_risky(pa.array([*RISKY, "plain"])) == len(RISKY)
    assert count_risky(pa.array([-1, -2])) == 0
    with pytest.raises(UsageError, match="is no CSV file"):
        table_writer(tmp_path / "l.parquet", spreadsheet=True)


def test_show_keeps_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show("a\nb\x1b")
    assert capsys.readouterr().out == "a\nb\\x1b\n"
