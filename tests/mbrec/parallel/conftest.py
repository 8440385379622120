"""Teams of processes for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mbrec.parallel.launching import MEETING

HERE = Path(__file__).parent
TIMEOUT = 600  # seconds; a team that hangs fails its test

Teams = Callable[..., list["subprocess.CompletedProcess[str]"]]


@pytest.fixture
def team_of(tmp_path: Path) -> Teams:
    """Run a script of this folder once per rank, and wait for all."""

    def start(ranks: int, script: str, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
        meeting = tmp_path / f"meeting-{len(list(tmp_path.glob('meeting-*')))}"
        common = {
            **os.environ,
            "WORLD_SIZE": str(ranks),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
            MEETING: str(meeting),
        }
        command = [sys.executable, "-W", "error", str(HERE / script), *arguments]
        processes = [
            subprocess.Popen(
                command, env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True
            )
            for rank in range(ranks)
        ]
        done = []
        for process in processes:
            try:
                _, errors = process.communicate(timeout=TIMEOUT)
            finally:
                process.kill()
            done.append(subprocess.CompletedProcess(command, process.returncode, stderr=errors))
        return done

    return start
