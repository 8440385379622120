"""The `mbrec` command: finds the verb, runs it, and turns every error into one readable line."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click
from click.shell_completion import shell_complete

from mbrec.cli.console import one_line
from mbrec.errors import RIGHTS, MbrecError
from mbrec.version import __version__

# Verb → one line of help. Each verb's command is `mbrec.cli.<verb>:command`; it is imported only
# when it is run, so that `mbrec --help` loads neither torch nor DGL.
VERBS = {
    "prep": "Turn a raw event log into a prepared dataset.",
    "train": "Train a model on a prepared dataset.",
    "refit": "Train the model of a run once more, on its validation rows, too.",
    "tune": "Search for a model's settings that do best on validation; resumable.",
    "evaluate": "Rank all items for every user and behavior, and measure it.",
    "compare": "Say which of two runs is better, and whether that can be chance.",
    "inspect": "Say what a prepared dataset or a run is, in figures.",
    "report": "Put runs and their data on one HTML page that works offline.",
    "explain": "Say which behaviors and neighbors carried a score.",
    "bench": "Compare methods under the same search budget, over seeds; resumable.",
    "export": "Write the top-K lists of a run, with the shop's own ids.",
    "serve": "Answer over HTTP: the list of a user, now.",
    "synth": "Write a synthetic raw log with planted preferences.",
    "demo": "The whole road in about a minute, on a synthetic log.",
    "doctor": "Say which versions and devices are here, and what to do about what is not.",
}
LOGGER = logging.getLogger("mbrec")
_NO_MEMORY = "Out of memory. Where the command has batch or memory options, lower them."
TERMINATING = ("SIGTERM", "SIGHUP")


class Terminated(BaseException):
    """The process was asked to end; like `KeyboardInterrupt`, only `main` ends it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb, and give it what all verbs share."""
        if name not in VERBS:
            return None
        command = importlib.import_module(f"mbrec.cli.{name}").command
        assert isinstance(command, click.Command)
        command.help = _keep_lines(command.help)
        if all(parameter.name != "verbose" for parameter in command.params):
            command.params.append(_verbose_option())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(VERBS)}."
            raise click.UsageError(f"No such command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.help = _keep_lines(self.help)
        super().format_help_text(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


class LineFormatter(logging.Formatter):
    """One line per record; warnings and worse say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"{record.levelname.capitalize()}: " if record.levelno >= logging.WARNING else ""
        return prefix + one_line(super().format(record))


def _keep_lines(text: str | None) -> str | None:
    r"""Turn a written-out ``\b`` into the mark by which Click keeps a paragraph's line breaks.

    Docstrings with a backslash are raw strings, where it is two characters.
    """
    return text.replace("\\b\n", "\b\n") if text else text


def _set_verbosity(ctx: click.Context, parameter: click.Parameter, count: int) -> None:
    if count == 0 and ctx.parent is not None:
        return  # said nothing after the verb: what stands before it holds
    handler = logging.StreamHandler()  # the standard error of now: tests and callers replace it
    handler.setFormatter(LineFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(count, 2)])


def _verbose_option() -> click.Option:
    return click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        is_eager=True,
        callback=_set_verbosity,
        help="Say more (-vv: still more); with errors, show the traceback.",
    )


@click.group(
    cls=LazyGroup,
    params=[_verbose_option()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="mbrec")
def group() -> None:
    r"""Ranked lists for every user and every behavior, from the event log of a shop.

    \b
    mbrec prep --source ub --input UserBehavior.csv --out data/ub
    mbrec train data/ub --out runs/ub
    mbrec evaluate runs/ub
    mbrec export runs/ub --k 20 --out lists.parquet

    `mbrec demo` shows all of it at work on a synthetic log.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Exit codes: 0, 1 (bad data, failed run), 2 (wrong usage), 130 (interrupted), 143 (terminated).
    """
    # OpenMP threads wait for each other by spinning: where other programs use the cores, training
    # then took 4 to 8 times as long, and as much more of their time. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with _own_logging():
        _guarded(arguments)


def _guarded(arguments: Sequence[str] | None) -> NoReturn:
    try:
        with _terminable():
            code = _run(sys.argv[1:] if arguments is None else list(arguments))
    except MbrecError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        _fail(_usage_message(error), error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("Interrupted.", 128 + signal.SIGINT)
    except Terminated as error:
        _fail(f"Ended by {error}.", error.exit_code)
    except Exception as error:
        if _interrupted(error):
            _fail("Interrupted.", 128 + signal.SIGINT)
        _fail(_explain(error), 1)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """What Click's own `main` does, without its handling of errors, which differs by release."""
    instruction = os.environ.get("_MBREC_COMPLETE")
    if instruction:
        return shell_complete(group, {}, "mbrec", "_MBREC_COMPLETE", instruction)
    try:
        with group.make_context("mbrec", arguments, obj=tuple(arguments)) as context:
            group.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        # The reader of a pipe has gone (`mbrec … | head`): nothing is wrong. What is still in the
        # buffer goes nowhere, or the interpreter would complain about it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C stopped a library: Arrow and DuckDB say so in words of their own."""
    while error is not None:
        if type(error).__name__ in ("KeyboardInterrupt", "ArrowCancelled", "InterruptException"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _explain(error: Exception) -> str:
    """The message for what was not raised by mbrec on purpose."""
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):  # torch
        return _NO_MEMORY
    if isinstance(error, ImportError):
        return f"{error}. `mbrec doctor` says what this installation lacks."
    if isinstance(error, UnicodeEncodeError) and error.reason.startswith("surrogates"):
        near = error.object[max(error.start - 40, 0) : error.end + 40]
        return f"A name or path is not UTF-8, near {near!r}. Give it another name."
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        remedy = f" {RIGHTS}" if isinstance(error, PermissionError) else ""
        return f"{error.strerror or error}{place}.{remedy}"
    what = f"{type(error).__name__}: {error}"
    return f"mbrec failed in a way it should not: {what}. Add -v to see where."


def _usage_message(error: click.UsageError) -> str:
    verb = error.ctx.command_path if error.ctx else "mbrec"
    return f"{error.format_message()} See `{verb} --help`."


def _fail(message: str, code: int) -> NoReturn:
    if LOGGER.isEnabledFor(logging.INFO):
        traceback.print_exc()
    click.echo(f"Error: {one_line(message)}", err=True)
    sys.exit(code)


@contextmanager
def _own_logging() -> Iterator[None]:
    """Leave the logging of a caller in the same process, such as a test, as it was."""
    before = list(LOGGER.handlers), LOGGER.level
    try:
        yield
    finally:
        LOGGER.handlers[:], level = before
        LOGGER.setLevel(level)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a request to end unwind the stack, so that temporary files are removed."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in TERMINATING:
            number = getattr(signal, name, None)
            # What is ignored stays ignored: `nohup mbrec train …` outlives its terminal.
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # asked twice, it ends at once
    raise Terminated(number)


if __name__ == "__main__":
    main()
