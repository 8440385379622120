"""One log, prepared by two engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mbrec.errors import DataError

_KEYS = ("files", "content_hash", "inputs", "funnel", "counts", "split", "behaviors", "options")


def assert_same(
    prep: Callable[..., Any],
    engines: tuple[str, str],
    source: str,
    files: dict[str, str | bytes],
    **options: Any,
) -> Any:
    """Prepare the same files with both; all that is on disk has to be the same to the byte.

    Returns:
        What the first made; None if both refused the log for the same reason.
    """
    made: list[Any] = []
    place: tuple[str, ...] | None = None
    for engine in engines:
        given = {**options, "engine": engine}
        if place is not None:
            given["inputs"] = place
        try:
            made.append(prep(source, {} if place else files, **given))
        except DataError as error:
            made.append(str(error))
        place = (str(prep.last),)  # type: ignore[attr-defined]
    first, second = made
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
        return None
    for key in _KEYS:
        assert first.manifest[key] == second.manifest[key], key
    assert first.notes == second.notes
    names = {path.name for path in Path(first.dataset.path).iterdir()}
    assert names == {path.name for path in Path(second.dataset.path).iterdir()}
    return first
