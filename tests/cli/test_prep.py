"""If these fail, `mbrec prep` leaves its callers without a reason, or with half a dataset."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mbrec.dataset import PreparedDataset

Mbrec = Callable[..., tuple[int, str, str]]  # the fixture of conftest.py
GOOD = "".join(
    f"{n % 5},{n % 7},1,{('pv', 'fav', 'cart', 'buy')[n % 4]},{1511544000 + n}\n"
    for n in range(140)
)
HEADER = "user_id,item_id,category_id,behavior,timestamp\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "UserBehavior.csv"
    path.write_text(GOOD)
    return path


def test_the_funnel_goes_to_stderr_and_the_result_to_stdout(
    mbrec: Mbrec, log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    code, said, progress = mbrec("prep", "--source", "ub", "--input", log, "--out", out)
    assert code == 0
    assert [line.split("  ")[0] for line in progress.splitlines()] == [
        "step",
        "read",
        "rejected",
        "other behaviors",
        "duplicates",
    ]
    assert f"5 users, 7 items, 140 interactions in {out}" in said
    assert PreparedDataset(out).behaviors == ("click", "favorite", "cart", "purchase")


def test_json_is_all_that_a_script_sees(mbrec: Mbrec, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    code, said, _ = mbrec(
        "prep", "--source", "ub", "--input", log, "--out", out, "--json", "--min-user", 2
    )
    assert code == 0
    found = json.loads(said)
    assert found["out"] == str(out)
    assert found["counts"]["rows_read"] == 140
    assert found["content_hash"] == PreparedDataset(out).content_hash
    assert [step["name"] for step in found["funnel"]][:2] == ["read", "rejected"]


def test_a_shop_log_goes_in_by_options_or_by_a_mapping_file(mbrec: Mbrec, tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    kinds = ("view", "addtocart", "transaction")
    rows = (f"{1433221332117 + n},{n % 4},{kinds[n % 3]},{n % 5}," for n in range(60))
    events.write_text("timestamp,visitorid,event,itemid,transactionid\n" + "\n".join(rows) + "\n")
    base = ["prep", "--source", "csv", "--input", events]
    options = ["--user-col", "visitorid", "--item-col", "itemid", "--behavior-col", "event"]
    options += ["--time-format", "ms", "--map", "view=click", "--map", "addtocart=cart"]
    options += ["--map", "transaction=purchase", "--ratios", "8:2:0"]
    code, _, _ = mbrec(*base, *options, "--split", "leave-one-out", "--out", tmp_path / "a")
    assert code == 0
    mapping = tmp_path / "shop.toml"
    mapping.write_text(
        'user = "visitorid"\nitem = "itemid"\nbehavior = "event"\ntime_format = "ms"\n'
        '[map]\nview = "click"\naddtocart = "cart"\ntransaction = "purchase"\n'
    )
    file = ["--mapping", mapping, "--split", "leave-one-out", "--out", tmp_path / "b"]
    assert mbrec(*base, *file)[0] == 0
    by_options, by_file = PreparedDataset(tmp_path / "a"), PreparedDataset(tmp_path / "b")
    assert by_options.content_hash == by_file.content_hash
    assert by_file.behaviors == ("click", "cart", "purchase")


BAD_LOGS: list[tuple[str, str, bytes, list[str], int, str]] = [
    ("empty file", "ub", b"", [], 1, "is empty. Check"),
    ("header only", "jd", b"user_id,sku_id,action_time,module_id,type\n", [], 1, "has no rows"),
    ("cut last line", "ub", b"1,2,3,pv,1511544000\n1,2,3,bu", [], 1, "log.csv:2, last line is cut"),
    ("unknown code", "ub", b"1,2,3,view,1511544000\n", [], 1, "known codes are pv, fav, cart, buy"),
    ("no number", "ub", b"1,2,3,pv,noon\n", [], 1, "log.csv:1, timestamp is not Unix time"),
    ("a header", "ub", HEADER.encode() + GOOD.encode(), [], 1, "line 1 is a header"),
    ("no header", "jd", GOOD.encode(), [], 1, "line 1 is no JData header"),
    ("jd as ub", "ub", b"user_id,sku_id,action_time,module_id,type\n", [], 1, "Use --source jd"),
    ("parquet as ub", "ub", b"PAR1....PAR1", [], 1, "is a Parquet file"),
    ("damaged parquet", "csv", b"PAR1....PAR1", ["--behaviors", "a"], 1, "damaged Parquet file"),
    ("cut gzip", "ub", gzip.compress(GOOD.encode())[:-20], [], 1, "is damaged or cut short"),
    ("binary", "ub", bytes(range(256)) * 9, [], 1, "rows are malformed"),
    ("utf-16", "csv", HEADER.encode("utf-16"), ["--behaviors", "a"], 1, "is UTF-16"),
    (
        "no column",
        "csv",
        HEADER.encode(),
        ["--behaviors", "a", "--user-col", "usr"],
        1,
        "'user_id'?",
    ),
    ("no behaviors", "csv", HEADER.encode(), [], 2, "behaviors of this log are not named"),
    ("nothing given", "given", GOOD.encode(), [], 1, "no file named <behavior>"),
    ("no such behavior", "ub", GOOD.encode(), ["--behaviors", "favourite"], 2, "mean favorite?"),
    ("empty core", "ub", GOOD.encode(), ["--min-user", "99"], 1, "'k-core round 1' dropped all"),
    ("empty window", "ub", GOOD.encode(), ["--end", "2016-01-01"], 1, "'outside the time window'"),
    ("bad date", "ub", GOOD.encode(), ["--start", "soon"], 2, "--start 'soon' is no date"),
    ("bad ratios", "ub", GOOD.encode(), ["--ratios", "8:1"], 2, "8:1:1"),
    ("bad share", "ub", GOOD.encode(), ["--max-rejects", "5"], 2, "is no share"),
    ("bad size", "ub", GOOD.encode(), ["--memory-limit", "much"], 2, "is no size"),
    ("bad map", "csv", HEADER.encode(), ["--map", "view"], 2, "--map 'view' is no pair"),
    ("other preset", "ub", GOOD.encode(), ["--preset", "jd-paper"], 2, "is for --source jd"),
    ("bad source", "bu", GOOD.encode(), [], 2, "'bu' is not one of"),
]


@pytest.mark.parametrize(
    ("source", "content", "options", "code", "message"),
    [case[1:] for case in BAD_LOGS],
    ids=[case[0] for case in BAD_LOGS],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    mbrec: Mbrec,
    tmp_path: Path,
    source: str,
    content: bytes,
    options: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    found, said, errors = mbrec(
        "prep", "--source", source, "--input", tmp_path / "log.csv",
        "--out", tmp_path / "out", *options,
    )  # fmt: skip
    assert found == code
    assert said == ""
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert lines == errors.splitlines()[-1:]
    assert message in lines[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]


def test_a_missing_file_is_named(mbrec: Mbrec, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / "*.csv"
    out = tmp_path / "deep" / "out"
    code, _, errors = mbrec("prep", "--source", "ub", "--input", nowhere, "--out", out)
    assert code == 1
    assert errors == f"Error: {nowhere} does not exist. Check the path given with --input.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone_unless_forced(
    mbrec: Mbrec, log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call = ["prep", "--source", "ub", "--input", log, "--out", out]
    assert mbrec(*call, "--behaviors", "purchase")[0] == 0
    before = PreparedDataset(out).content_hash
    code, _, errors = mbrec(*call)
    assert (code, "--force" in errors) == (2, True)
    assert mbrec(*call, "--force", "--min-user", 99)[0] == 1
    assert PreparedDataset(out).content_hash == before
    assert mbrec(*call, "--force")[0] == 0
    assert PreparedDataset(out).content_hash != before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["UserBehavior.csv", "out"]


def test_even_force_does_not_replace_a_folder_of_other_things(
    mbrec: Mbrec, log: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    code, _, errors = mbrec("prep", "--source", "ub", "--input", log, "--out", tmp_path, "--force")
    assert (code, "holds other things" in errors) == (2, True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_an_interrupt_cleans_up(tmp_path: Path) -> None:
    big = tmp_path / "UserBehavior.csv"
    with big.open("w") as stream:
        for _ in range(40):
            stream.write(GOOD * 1000)
    call = [sys.executable, "-m", "mbrec", "prep", "--source", "ub", "--input", str(big)]
    process = subprocess.Popen(
        [*call, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".mbrec-*/**/prep.duckdb")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "Error: Interrupted."
    assert "Traceback" not in errors
    assert [entry.name for entry in tmp_path.iterdir()] == ["UserBehavior.csv"]


def test_help_ends_with_an_example_and_is_quick(mbrec: Mbrec) -> None:
    code, said, _ = mbrec("prep", "--help")
    assert code == 0
    assert "mbrec prep --source ub --input UserBehavior.csv.gz --out data/ub" in said
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, mbrec.cli.prep; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert not {"torch", "dgl", "ibis", "duckdb", "pandas", "pyarrow"} & set(loaded)
