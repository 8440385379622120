"""If these fail, two trainings write into one folder, or a crash locks a folder for ever."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mbrec.errors import BusyError
from mbrec.files import atomic_folder, atomic_path
from mbrec.locks import LOCK, locked

HOLD = """
import sys
from pathlib import Path
from mbrec.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of `folder` until it is killed."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_is_there_and_a_crash_of_the_first_blocks_nobody(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    with another_process(folder) as process:
        with pytest.raises(BusyError) as caught, locked(folder):
            pytest.fail("both are in")
        said = str(caught.value)
        assert (
            f"{folder} is being written by process {process.pid} on {socket.gethostname()}" in said
        )
        assert "since 20" in said
        assert "\n" not in said
        assert caught.value.exit_code == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (folder / LOCK).exists()  # what is left of it is an empty name
        with locked(folder):
            assert f"process {os.getpid()} on" in (folder / LOCK).read_text()
    assert list(folder.iterdir()) == []


def test_a_folder_that_was_made_for_nothing_is_gone_and_others_stay(tmp_path: Path) -> None:
    with locked(tmp_path / "new"):
        pass
    with locked(tmp_path / "filled"):
        (tmp_path / "filled" / "file").touch()
    (tmp_path / "old").mkdir()
    with locked(tmp_path / "old"):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["filled", "old"]


def test_never_two_at_once_though_the_lock_file_comes_and_goes(tmp_path: Path) -> None:
    inside: list[int] = []
    most, entered = [0], [0]

    def hammer(number: int) -> None:
        own = 0
        while own < 40:  # who waits for its turn may be refused any number of times
            try:
                with locked(tmp_path / "run"):
                    inside.append(number)
                    most[0] = max(most[0], len(inside))
                    entered[0] += 1
                    own += 1
                    inside.remove(number)
            except BusyError:
                continue

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert entered[0] == 3 * 40


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"), locked(tmp_path / "run"):
        pytest.fail("it is locked")
    assert (tmp_path / "precious").read_text() == "mine"


def test_where_there_are_no_locks_it_is_said_and_the_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    for name in (".mbrec-left.csv", ".mbrec-left.guard"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING), locked(tmp_path / "run"):
        assert "has no locks" in caplog.text
    with atomic_path(tmp_path / "lists.csv") as temporary:
        temporary.write_text("all")
    assert (tmp_path / "lists.csv").read_text() == "all"
    assert (tmp_path / ".mbrec-left.csv").exists()  # nobody knows whether it is in use


def test_a_folder_that_another_is_making_is_refused(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "data") as temporary:
        (temporary / "file").touch()
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "data")
        for path in (tmp_path / "data", tmp_path / "." / "data", link):
            with pytest.raises(BusyError, match="is being written"), atomic_folder(path):
                pytest.fail("both make it")
    assert (tmp_path / "data" / "file").exists()
