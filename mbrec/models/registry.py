"""The methods by name: those of mbrec, those of installed packages, and those registered by hand.

A package offers methods through the entry point group `mbrec.methods`, name = "module:ENTRY", and
`mbrec train --model <name>` finds them.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import entry_points

from mbrec.errors import UsageError
from mbrec.models import BUILT_IN
from mbrec.models.base import Entry

GROUP = "mbrec.methods"

_REGISTERED: dict[str, Entry] = {}


def register(name: str, entry: Entry) -> None:
    """Add a method.

    Raises:
        UsageError: The name is taken.
    """
    if name in _REGISTERED or name in BUILT_IN:
        raise UsageError(f"There is a method {name!r} already.", "Choose another name.")
    _REGISTERED[name] = entry


def find(name: str) -> Entry:
    """The method called `name`.

    Raises:
        UsageError: There is none, with the nearest name.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in BUILT_IN:
        entry: Entry = import_module(BUILT_IN[name]).ENTRY
        return entry
    for offered in entry_points(group=GROUP, name=name):
        return _checked(offered.name, offered.load())
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"There is no method {name!r}.", f"{hint}There are: {', '.join(names())}.")


def names() -> list[str]:
    """All names, sorted."""
    offered = (point.name for point in entry_points(group=GROUP))
    return sorted({*BUILT_IN, *_REGISTERED, *offered})


def _checked(name: str, entry: object) -> Entry:
    if not isinstance(entry, Entry):
        raise UsageError(
            f"The installed method {name!r} is no mbrec.models.base.Entry.",
            "Its package has to offer one through the entry point group mbrec.methods.",
        )
    return entry
