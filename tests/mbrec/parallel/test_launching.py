"""If these fail, a rank that dies leaves the others hanging, or nobody says what happened."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mbrec.errors import RankError, UsageError
from mbrec.parallel import launching
from mbrec.parallel.launching import LOST, check_ranks, launch

ROLES = f"""
import os, signal, sys, time
from pathlib import Path
from typing import Any

role, ready, rank = sys.argv[1], Path(sys.argv[2]), int(os.environ["RANK"])
if role == "killed":
    os.kill(os.getpid(), signal.SIGKILL) if rank else sys.exit({LOST})
if role == "hangs":
    if rank:
        print("Error: There is no room.", file=sys.stderr)
        sys.exit(1)
    time.sleep(60)
if role == "tells":
    sys.exit({LOST} if rank else 2)
if role == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (ready / str(rank)).touch()
    time.sleep(60)
"""


@pytest.fixture
def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ranks run a script of roles instead of mbrec."""
    script = tmp_path / "roles.py"
    script.write_text(ROLES)
    monkeypatch.setattr(launching, "_COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(launching, "GRACE", 0.2)
    monkeypatch.setattr(launching, "_LAST_GRACE", 0.2)
    return tmp_path


def test_a_killed_rank_is_one_line_that_says_how_to_go_on(roles: Path) -> None:
    with pytest.raises(RankError, match=r"Rank 1 of 2 was ended by SIGKILL.*: do this"):
        launch(2, ["killed", str(roles)], lambda: "Now: do this")


def test_ranks_that_wait_for_one_that_failed_are_ended(roles: Path) -> None:
    start = time.monotonic()
    with pytest.raises(RankError, match=r"Rank 2 of 3: There is no room\.|Rank 1 of 3: There is"):
        launch(3, ["hangs", str(roles)], lambda: "")
    assert time.monotonic() - start < 50


def test_what_rank_0_has_said_is_not_said_again(roles: Path) -> None:
    assert launch(2, ["tells", str(roles)], lambda: "") == 2


def test_a_signal_reaches_all_ranks(roles: Path) -> None:
    def ask() -> None:
        while len(list(roles.glob("[01]"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    assert launch(2, ["waits", str(roles)], lambda: "") == 128 + signal.SIGTERM
    thread.join()


def test_a_signal_while_ranks_are_being_started_reaches_all_of_them(
    roles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, begun = launching._Rank.start, time.monotonic()

    def start(number: int, *rest: Any) -> Any:
        if number:
            while not (roles / "0").exists():
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)
        return true(number, *rest)

    monkeypatch.setattr(launching._Rank, "start", start)
    assert launch(2, ["waits", str(roles)], lambda: "") == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 50


def test_a_wrong_command_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(2, ["trian"], lambda: "") == 2
    assert capfd.readouterr().err.count("No such command") == 1


def test_the_number_of_processes_has_to_be_that_of_the_team(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_ranks(2)
    check_ranks(None)
    with pytest.raises(UsageError, match="--processes is 3 in a team of 2"):
        check_ranks(3)
