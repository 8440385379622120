"""The command itself: help, wrong usage, errors, signals, pipes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from mbrec.cli import main as cli
from mbrec.errors import DataError, UsageError

MBREC = [sys.executable, "-m", "mbrec"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MBREC, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Puts a verb `try` on the command line that calls a function."""

    def install(function: Callable[[], object]) -> None:
        command = click.Command("try", callback=function)
        module = type(sys)("mbrec.cli.try")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mbrec.cli.try", module)
        monkeypatch.setitem(cli.VERBS, "try", "For tests.")

    return install


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    assert isinstance(stop.value.code, int)
    return stop.value.code


HELP = """
import sys, time
start = time.process_time()
from mbrec.cli.main import main
try:
    main([*sys.argv[1:], "--help"])
except SystemExit:
    pass
heavy = {"torch", "dgl", "numpy", "pandas", "pyarrow", "duckdb", "ibis"} & set(sys.modules)
print(sorted(heavy), time.process_time() - start)
"""


@pytest.mark.parametrize("arguments", [[], *([verb] for verb in cli.VERBS)], ids=str)
def test_help_comes_at_once_and_loads_no_heavy_library(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=True
    )
    *shown, last = done.stdout.splitlines()
    heavy, seconds = last.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 0.4
    assert any(line.strip().startswith(" ".join(["mbrec", *arguments])) for line in shown)


def test_help_names_every_verb() -> None:
    shown = [line.strip() for line in run("--help").stdout.splitlines()]
    assert all(any(line.startswith(verb) for line in shown) for verb in cli.VERBS)


def test_help_keeps_the_lines_of_its_examples() -> None:
    lines = [line.strip() for line in run("--help").stdout.splitlines()]
    assert "mbrec evaluate runs/ub" in lines
    assert not any("\\b" in line for line in lines)


def test_a_mistyped_verb_is_answered_with_the_right_one() -> None:
    done = run("trian")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: No such command 'trian'. Did you mean 'train'? See `mbrec --help`.\n"
    )


def test_a_verb_like_no_other_is_answered_with_the_list() -> None:
    done = run("xyzzy")
    assert done.returncode == 2
    assert "There are prep, train," in done.stderr


def test_a_mistyped_option_is_answered_with_the_right_one() -> None:
    done = run("synth", "--sed", "3")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--seed" in done.stderr
    assert "See `mbrec synth --help`." in done.stderr


def test_without_a_verb_the_help_is_shown() -> None:
    done = run()
    assert done.returncode == 2
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("log.csv is empty.", "Give another."), 1, "log.csv is empty. Give another."),
        (UsageError("No such key."), 2, "No such key."),
        (FileNotFoundError(2, "No such file or directory", "x.csv"), 1,
         "No such file or directory: x.csv."),
        (PermissionError(13, "Permission denied", "x.csv"), 1,
         "Permission denied: x.csv. See to the rights of the file, and of the folders above it."),
        (UnicodeEncodeError("utf-8", "l\udcfc", 1, 2, "surrogates not allowed"), 1,
         r"A name or path is not UTF-8, near 'l\udcfc'. Give it another name."),
        (OSError("odd"), 1, "odd."),
        (MemoryError(), 1,
         "Out of memory. Where the command has batch or memory options, lower them."),
        (ModuleNotFoundError("No module named 'torch'"), 1,
         "No module named 'torch'. `mbrec doctor` says what this installation lacks."),
        (KeyError("x"), 1,
         "mbrec failed in a way it should not: KeyError: 'x'. Add -v to see where."),
        (EOFError("cut"), 1,
         "mbrec failed in a way it should not: EOFError: cut. Add -v to see where."),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)  # fmt: skip
def test_every_error_is_one_line_and_has_its_exit_code(
    verb: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    verb(raising(error))
    assert exit_code("try") == code
    assert capsys.readouterr().err.strip() == f"Error: {line}"


@pytest.mark.parametrize("arguments", [("-v", "try"), ("try", "-v"), ("try", "--verbose")])
def test_the_traceback_is_shown_with_v_only_and_on_either_side_of_the_verb(
    verb: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    verb(raising(DataError("bad row")))
    assert exit_code("try") == 1
    assert "Traceback" not in capsys.readouterr().err
    assert exit_code(*arguments) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_terminal_is_not_driven_by_what_a_message_quotes(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(raising(DataError("user '\x1b[2J\x07\nx\u202e' 中文")))
    exit_code("try")
    assert capsys.readouterr().err == "Error: user '\\x1b[2J\\x07 x\\u202e' 中文\n"


def test_log_lines_are_escaped_too(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(lambda: cli.LOGGER.warning("item %s", "\x1b[2J"))
    assert exit_code("try") == 0
    assert capsys.readouterr().err == "Warning: item \\x1b[2J\n"


def test_what_a_verb_returns_is_no_exit_code_unless_it_is_meant(
    verb: Callable[[Callable[[], object]], None],
) -> None:
    verb(lambda: "done")
    assert exit_code("try") == 0
    verb(lambda: click.get_current_context().exit(1))
    assert exit_code("try") == 1


def test_signal_handlers_are_put_back(verb: Callable[[Callable[[], object]], None]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    verb(lambda: None)
    exit_code("try")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_with_its_code_and_leaves_no_temporary_file(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    script = (
        "import sys, time, types, click\n"
        "from pathlib import Path\n"
        "from mbrec.cli import main as cli\n"
        "from mbrec.files import atomic_path\n"
        "def work():\n"
        "    with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "        temporary.write_text('half')\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "module = types.ModuleType('m'); module.command = click.Command('try', callback=work)\n"
        "sys.modules['mbrec.cli.try'] = module; cli.VERBS['try'] = ''\n"
        "cli.main(['try'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out.txt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # pytest-xdist and some shells ignore signals, and a child would inherit that.
        preexec_fn=lambda: [signal.signal(s, signal.SIG_DFL) for s in (1, 15)],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, message = process.communicate(timeout=10)
    assert process.returncode == code
    assert "Traceback" not in message
    assert message.strip().startswith("Error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [*MBREC, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    message = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert message == ""


def test_the_shell_completes_verbs() -> None:
    done = subprocess.run(
        MBREC,
        env={"_MBREC_COMPLETE": "bash_complete", "COMP_WORDS": "mbrec sy", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "plain,synth\n"
