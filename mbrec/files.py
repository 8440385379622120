"""Writing files and folders so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbrec.errors import ArtefactError, UsageError

_TEMPORARY = ".mbrec-"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it over `path`.

    On any exception, an interrupt included, the temporary file is removed and `path` is untouched.

    Raises:
        UsageError: The folder of `path` does not exist, or `path` is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} does not exist.", "Make it first.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Name a file in it.")
    handle, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        # mkstemp makes private files; artefacts get what any other new file would get.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, force: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`.

    Args:
        path: The folder to make.
        force: Replace an existing folder (only after the new one is complete).
        marker: See `refuse_existing`.

    Raises:
        UsageError: `path` exists and `force` is not given, or `path` is a file.
    """
    path = Path(path)
    refuse_existing(path, force=force, marker=marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            if entry.is_file():
                _sync(entry)
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            _exchange(temporary, path)
        else:
            temporary.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path, *, force: bool, marker: str | None = None) -> None:
    """Raise a `UsageError` if writing to `path` would overwrite something unasked.

    Args:
        path: A folder that is to be made.
        force: An existing folder may be replaced.
        marker: The file by which a folder of ours is known. Without it even `force` does not
            replace a folder: a mistyped path must not cost someone a home folder.
    """
    path = Path(path)
    if path.is_file():
        raise UsageError(f"{path} is a file, not a folder.", "Choose another output folder.")
    if not path.exists() or not any(path.iterdir()):
        return
    if not force:
        raise UsageError(f"{path} exists already.", "Choose another path, or add --force.")
    if marker is not None and not (path / marker).is_file():
        raise UsageError(
            f"{path} holds other things (it has no {marker}); --force does not replace it.",
            "Choose another path, or empty that folder yourself.",
        )


def _exchange(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of the folder `path`; if that fails, the old one is back.

    Only a process that is killed between the two renames leaves the old one in a hidden folder.
    """
    old = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
    try:
        path.replace(old / path.name)
        new.replace(path)
    except BaseException:
        if not path.exists():
            (old / path.name).replace(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; `what` names it in errors.

    Raises:
        ArtefactError: The file is missing, unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtefactError(f"Cannot read {what} {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ArtefactError(f"{what} {path} is damaged: {error}.", "Make it again.") from error
    if not isinstance(value, dict):
        raise ArtefactError(f"{what} {path} is damaged: not a JSON object.", "Make it again.")
    return value


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
