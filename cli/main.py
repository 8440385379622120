"""The `mbrec` command: finds the verb, runs it, and turns every error into one readable line."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import traceback
from typing import Any

import click

from mbrec.errors import MbrecError
from mbrec.version import __version__

# Verb → one line of help. Each verb's command is `mbrec.cli.<verb>:command`; it is imported only
# when it is run, so that `mbrec --help` loads neither torch nor DGL.
VERBS = {
    "prep": "Turn a raw event log into a prepared dataset.",
    "train": "Train a model on a prepared dataset.",
    "evaluate": "Rank all items for every user and behavior, and measure it.",
    "export": "Write the top-K lists of a run, with the shop's own ids.",
    "synth": "Write a synthetic raw log with planted preferences.",
    "demo": "The whole road in about a minute, on a synthetic log.",
    "doctor": "Say which versions and devices are here, and what to do about what is not.",
}


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = importlib.import_module(f"mbrec.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mbrec")
@click.option("-v", "--verbose", count=True, help="Say more; with errors, show the traceback.")
def group(verbose: int) -> None:
    r"""Ranked lists for every user and every behavior, from the event log of a shop.

    \b
    mbrec prep --source ub --input UserBehavior.csv --out data/ub
    mbrec train data/ub --out runs/ub
    mbrec evaluate runs/ub
    mbrec export runs/ub --k 20 --out lists.parquet
    """
    level = logging.DEBUG if verbose > 1 else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit with 0, 1 (bad data, failed run), 2 (usage) or 130."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        group.main(args=arguments, prog_name="mbrec", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except MbrecError as error:
        _fail(arguments, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail(arguments, "Interrupted.", 128 + signal.SIGINT)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone; nothing is wrong
        sys.exit(0)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        _fail(arguments, f"{error.strerror or error}{place}.", 1)
    except MemoryError:
        _fail(arguments, "Out of memory. See the memory and batch options of this command.", 1)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        _fail(arguments, f"mbrec failed in a way it should not: {what}. Add -v to see where.", 1)


def _fail(arguments: list[str], message: str, code: int) -> None:
    if _is_verbose(arguments):
        traceback.print_exc()
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _is_verbose(arguments: list[str]) -> bool:
    short = (a[1:] for a in arguments if a[:1] == "-" and a[:2] != "--" and len(a) > 1)
    return "--verbose" in arguments or any(set(letters) == {"v"} for letters in short)


if __name__ == "__main__":
    main()
