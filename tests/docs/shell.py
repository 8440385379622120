"""Running the commands of a page: those of mbrec in this process, which is much quicker."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mbrec.cli import main as cli

# What pages do at a length that a test has no time for. Of options given twice the last counts.
SHORTER = {
    "train": ["--set", "train.epochs=1"],
    "tune": ["--trials", "2", "--jobs", "0", "--set", "train.epochs=1"],
}
SPECIAL = re.compile(r"[|&;<>$`]|\bfor\b")
PORT = "8000"
SECONDS = 300  # far more than needed, on a machine that has other things to do


def run_shell(code: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a block up to its first command that fails.

    Returns:
        The exit code, and what was printed.
    """
    lines = [line for line in code.replace("\\\n", " ").splitlines() if line.split("#")[0].strip()]
    capfd.readouterr()
    if any(SPECIAL.search(re.sub(r"'[^']*'", "", line)) for line in lines):
        return _bash(code, folder), "".join(capfd.readouterr())
    result = 0
    for line in lines:
        words = shlex.split(line, comments=True)
        result = _here(shorter(words[1:])) if words[0] == "mbrec" else _bash(line, folder)
        if result:
            break
    return result, "".join(capfd.readouterr())


def shorter(arguments: list[str]) -> list[str]:
    """The arguments of mbrec, with less to do."""
    if {"--resume", "--list-settings"} & set(arguments):
        return arguments
    return [*arguments, *SHORTER.get(arguments[0], [])]


def _here(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return int(stop.value.code or 0)


def _bash(code: str, folder: Path) -> int:
    """Run in a group of its own, and end what is left of the group afterwards."""
    program = folder / ".bin" / "mbrec"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mbrec "$@"\n')
    program.chmod(0o755)
    python = program.with_name("python")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", code.replace(PORT, str(_free_port()))],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        return process.wait(SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
