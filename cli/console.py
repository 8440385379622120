"""All that mbrec prints goes through here: what strangers wrote must not drive the terminal.

Raw ids, names of behaviors and of files may hold escape sequences, which move the cursor, hide
text or rename the window, and marks that turn the direction of writing.
"""

from __future__ import annotations

import json
from typing import Any

import click


def printable(text: str) -> str:
    r"""`text` with every character that is not seen shown as an escape, as in ``\x1b``.

    Line breaks and spaces stay.
    """
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text)


def one_line(text: str) -> str:
    """`text` on one line, printable."""
    return printable(" ".join(text.split()))


def show(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print `text` on standard output or error, printable."""
    click.echo(printable(text), err=err, nl=nl)


def show_json(value: Any) -> None:
    """Print `value` as JSON; reading it gives back every character, and none reaches the terminal
    that is not seen.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
