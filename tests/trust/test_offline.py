"""At run time mbrec needs no network, and no library of it asks for one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ASKING = {
    "python": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "C": "import ctypes; ctypes.CDLL(None).socket(2, 1, 0)",
}
LOCAL = "import os, socket; socket.socketpair(); print(os.environ['NO_NETWORK'])"


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that ends where it asks for the network."""
    shutil.copy(HERE / "no_network.py", tmp_path / "sitecustomize.py")
    return {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("by", ASKING)
def test_the_guard_sees_who_asks(offline: dict[str, str], by: str) -> None:
    assert run(offline, "-c", "print(1)").returncode == 0
    local = run(offline, "-c", LOCAL)
    assert local.returncode == 0, local.stderr
    if by == "C" and local.stdout.strip() != "kernel":
        pytest.skip("the kernel lets no process give up its network here")
    assert run(offline, "-c", ASKING[by]).returncode != 0


def test_the_demo_runs_without_a_network(offline: dict[str, str], tmp_path: Path) -> None:
    size = ("--users", "300", "--items", "120", "--events", "20000")
    done = run(offline, "-m", "mbrec", "demo", "--out", str(tmp_path / "demo"), *size)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "lists.csv").stat().st_size
