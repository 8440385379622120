"""Progress of a command on standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from mbrec.cli.console import printable


class UserProgress:
    """A bar over the users of one behavior after the other; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._behavior = ""
        self._bar: Any = None

    def __call__(self, behavior: str, done: int, total: int) -> None:
        """Show that `done` of `total` users have their lists of `behavior`."""
        if behavior != self._behavior:
            self._close()
            self._behavior = behavior
            self._open(behavior, total)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> UserProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _open(self, behavior: str, total: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            desc=printable(behavior),
            unit=" users",
            leave=False,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
