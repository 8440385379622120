"""The methods by name. A method is registered by its class; nothing else has to know it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mbrec.errors import UsageError
from mbrec.models.base import Context, Method, MethodConfig
from mbrec.models.bigel import Bigel, BigelConfig
from mbrec.models.lightgcn import LightGcn, LightGcnConfig
from mbrec.models.mostpop import MostPop, MostPopConfig


@dataclass(frozen=True)
class Entry:
    """A method as the registry knows it."""

    config: type[MethodConfig]
    build: Callable[[Any, Context], Method]
    needs_engine: bool = True


_METHODS: dict[str, Entry] = {}


def register(name: str, entry: Entry) -> None:
    """Add a method.

    Raises:
        UsageError: The name is taken.
    """
    if name in _METHODS:
        raise UsageError(f"There is a method {name!r} already.", "Choose another name.")
    _METHODS[name] = entry


def find(name: str) -> Entry:
    """The method called `name`.

    Raises:
        UsageError: There is none, with the nearest name.
    """
    if name in _METHODS:
        return _METHODS[name]
    near = difflib.get_close_matches(name, _METHODS, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"There is no method {name!r}.", f"{hint}There are: {', '.join(names())}.")


def names() -> list[str]:
    """All names, sorted."""
    return sorted(_METHODS)


register("bigel", Entry(BigelConfig, Bigel))
register("lightgcn", Entry(LightGcnConfig, LightGcn))
register("mostpop", Entry(MostPopConfig, MostPop, needs_engine=False))
