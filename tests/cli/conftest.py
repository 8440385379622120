"""How the tests call the command line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mbrec.cli import main as cli

Mbrec = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mbrec(capsys: pytest.CaptureFixture[str]) -> Mbrec:
    """Calls `mbrec` with some arguments; gives exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
