"""The benches that come with mbrec: the repository's folder `bench`, installed as a package."""

from __future__ import annotations

import difflib
from importlib.resources import as_file, files
from pathlib import Path

from mbrec.errors import UsageError

PACKAGE = "mbrec.presets"  # see setup.py


def presets() -> dict[str, Path]:
    """Name → file of the benches that come with mbrec."""
    found = {}
    for entry in files(PACKAGE).iterdir():
        if entry.name.endswith(".toml"):
            with as_file(entry) as path:  # mbrec is never run from an archive (zip_safe)
                found[path.stem] = path
    return dict(sorted(found.items()))


def describe_presets() -> list[tuple[str, str]]:
    """Name and first line of each."""
    lines = ((name, path.read_text(encoding="utf-8")) for name, path in presets().items())
    return [(name, text.splitlines()[0].lstrip("# ")) for name, text in lines]


def find_bench(name: str) -> Path:
    """The file that `name` means: a path, or the name of a preset.

    Raises:
        UsageError: It is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = presets()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Presets: {', '.join(known)}."
    raise UsageError(f"There is no file and no preset {name!r}.", hint)
