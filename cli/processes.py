"""`--processes`: what the verbs that several processes can share have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mbrec.parallel.team import Team


def processes_option(work: str) -> Callable[[Any], Any]:
    """The option, for a verb that does `work`."""
    return click.option(
        "--processes",
        type=click.IntRange(min=1),
        metavar="R",
        help=f"{work}, in R processes of this machine; see docs/processes.md.  [default: 1]",
    )


def start_ranks(
    context: click.Context, processes: int | None, remedy: Callable[[], str] = lambda: ""
) -> None:
    """Start the command once per rank and exit as they do; in a rank, or alone, do nothing.

    Args:
        context: Of the verb.
        processes: What the option says.
        remedy: What to do when a rank has died, as a sentence.
    """
    from mbrec.parallel.launching import check_ranks, end_with_parent, is_rank, launch

    if is_rank():
        check_ranks(processes)
        end_with_parent()
    elif processes is not None and processes > 1:
        context.exit(launch(processes, context.find_root().obj, remedy))


@contextmanager
def own_team(device: str) -> Iterator[Team]:
    """The team that this process was started in, or none but itself.

    A rank that has lost the others leaves it to `start_ranks` to say so, if that has started it.
    """
    from mbrec.errors import RankError
    from mbrec.parallel.joining import joined
    from mbrec.parallel.launching import LOST, MEETING

    try:
        with joined(device) as team:
            yield team
    except RankError:
        if MEETING in os.environ:
            sys.exit(LOST)
        raise
