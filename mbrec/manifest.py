"""manifest.json: what a prepared dataset says of itself, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbrec.columns import GLOBAL, SPLITS
from mbrec.errors import ArtefactError, DataError
from mbrec.guard import LARGEST, read_object

SCHEMA_VERSION = 1
REMEDY = "Run `mbrec prep` again."
MOST_BEHAVIORS = 1000  # parts of the interactions are numbered as int16
RESERVED = {
    GLOBAL: "the merged relation",
    "macro": "the mean over behaviors",
    "metric": "what is measured",
}
"""What stands beside behaviors in graphs, journals and tables of figures → what it means there."""
_LONGEST = 200  # characters in the name of a behavior
_FORMULA = "=+-@"  # what a spreadsheet takes for the beginning of a formula


@dataclass(frozen=True)
class Manifest:
    """The part of a manifest that readers rely on."""

    behaviors: tuple[str, ...]
    num_users: int
    num_items: int
    content_hash: str
    files: Mapping[str, str]  # name → SHA-256
    values: dict[str, Any]  # all of it

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the file.

        Raises:
            ArtefactError: It is missing, damaged, of another schema version, or makes no sense.
        """
        values = read_object(path, "manifest", SCHEMA_VERSION, REMEDY)
        try:
            counts = values["counts"]
            _check_splits(counts["splits"])
            return cls(
                behaviors=check_behaviors(_names(values["behaviors"])),
                num_users=_count(counts["users"], "users"),
                num_items=_count(counts["items"], "items"),
                content_hash=_text(values["content_hash"], "content hash"),
                files={str(name): _text(value, "hash") for name, value in values["files"].items()},
                values=values,
            )
        except KeyError as error:
            raise _damaged(path, f"it has no {error.args[0]}") from error
        except DataError as error:
            raise _damaged(path, error.message) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise _damaged(path, str(error)) from error


def check_behaviors(behaviors: Sequence[str]) -> tuple[str, ...]:
    """Check a cascade order: names that are distinct, not reserved, and safe to show.

    Behaviors head the rows of every table, on terminals and in CSV files.

    Raises:
        DataError: Otherwise.
    """
    names = tuple(behaviors)
    if not names or any(not name.strip() for name in names):
        raise DataError("The list of behaviors has an empty name.", "Name at least one behavior.")
    if len(names) > MOST_BEHAVIORS:
        raise DataError(
            f"There are {len(names)} behaviors.", f"At most {MOST_BEHAVIORS} are possible."
        )
    for name in names:
        if not name.isprintable() or len(name) > _LONGEST or _is_formula(name):
            raise DataError(
                f"{name[:_LONGEST]!r} cannot be the name of a behavior: control characters, more "
                f"than {_LONGEST} characters, or one of {_FORMULA} in front of no number.",
                "Rename it.",
            )
    if len(set(names)) != len(names):
        raise DataError(f"A behavior is named twice: {', '.join(names)}.", "Name each one once.")
    for name in names:
        if name in RESERVED:
            raise DataError(
                f"No behavior can be called {name!r}: it means {RESERVED[name]}.",
                "Rename it; with --source csv, --map CODE=NAME does that.",
            )
    return names


def _is_formula(name: str) -> bool:
    if name[0] not in _FORMULA:
        return False
    try:
        float(name)
    except ValueError:
        return True
    return False


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("its behaviors are no list of names")
    return tuple(value)


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its number of {what} is {value!r}")
    if value > LARGEST:
        raise ValueError(f"it claims {value:,} {what}; at most {LARGEST:,} are possible")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a {what} is {value!r}")
    return value


def _check_splits(value: Any) -> None:
    for split in SPLITS:
        for behavior, rows in value[split].items():
            if not isinstance(rows, int):
                raise ValueError(f"its number of {split} rows of {behavior!r} is {rows!r}")


def _damaged(path: Path, why: str) -> ArtefactError:
    return ArtefactError(f"{path} is damaged: {why}.", REMEDY)
