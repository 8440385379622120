"""Which behaviors a preparation uses, in which order, and how their codes are numbered."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mbrec.data_prep.layout import Log
from mbrec.errors import DataError, UsageError
from mbrec.manifest import check_behaviors


@dataclass(frozen=True)
class Cascade:
    """The behaviors that are used and all that the log may hold.

    Attributes:
        used: Cascade order, target last.
        names: Name of every code number: those asked for in cascade order, then the others.
        asked: How many names, from the first, were asked for.
        explicit: Whether the caller named them, rather than the source.
    """

    used: tuple[str, ...]
    names: tuple[str, ...]
    asked: int
    explicit: bool

    @classmethod
    def choose(cls, log: Log, asked: Sequence[str] | None, *, explicit: bool) -> Cascade:
        """Take the behaviors asked for, else the log's own.

        Raises:
            DataError: A name is empty, reserved, or there twice.
            UsageError: The log's format has no such behavior; the message suggests one.
        """
        used = check_behaviors(asked or log.behaviors)
        for name in used:
            if name not in log.known:
                close = difflib.get_close_matches(name, log.known, 1)
                hint = f"Did you mean {close[0]}? " if close else ""
                raise UsageError(
                    f"This log has no behavior {name!r}.", f"{hint}It has {', '.join(log.known)}."
                )
        others = [name for name in log.known if name not in used]
        return cls(used, (*used, *others), len(used), explicit)

    @property
    def target(self) -> int:
        """Code of the target."""
        return self.names.index(self.used[-1])

    @property
    def codes(self) -> dict[int, str]:
        """Code → name of the behaviors that are used, in cascade order."""
        return {code: name for code, name in enumerate(self.names) if name in self.used}

    def found_in(self, rows: Mapping[str, int]) -> Cascade:
        """The cascade without the behaviors of which there are no rows.

        A source's own cascade is a guess that may be cut; one that the caller named is not, and
        without a target there is nothing to prepare for.

        Raises:
            DataError: A behavior that was named, or the target, is missing.
        """
        missing = [name for name in self.used if not rows.get(name)]
        left = tuple(name for name in self.used if rows.get(name))
        if missing and (self.explicit or self.used[-1] in missing):
            found = ", ".join(f"{name} {count:,}" for name, count in rows.items())
            raise DataError(
                f"The log has no rows of {' and '.join(missing)}; it has {found}.",
                f"Name what it has: --behaviors {','.join(left) or '…'}.",
            )
        return replace(self, used=left)
