"""Writing files and folders so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mbrec.errors import RIGHTS, ArtefactError, UsageError
from mbrec.locks import TEMPORARY, hold, locked
from mbrec.storage import storage_errors

_GUARD = ".guard"
_NEW, _OLD = "new", "old"  # in the hidden folder beside a folder that is being made


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it over `path`.

    On any exception, an interrupt included, the temporary file is removed and `path` is untouched.
    What a process that was killed has left in the folder is removed before.

    Raises:
        UsageError: The folder of `path` does not exist or is a file, or `path` is a folder.
        StorageError: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    refuse_file_above(path)
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} does not exist.", "Make it first.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Name a file in it.")
    with storage_errors(path):
        sweep(path.parent)
        handle, guard = _guard(path.parent)
        temporary = guard.with_suffix(path.suffix or ".new")
        try:
            temporary.touch()
            yield temporary
            _sync(temporary)
            # Some writers make private files; artefacts get what any other new file would get.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            guard.unlink(missing_ok=True)
            os.close(handle)


@contextmanager
def atomic_folder(
    path: Path,
    *,
    force: bool = False,
    marker: str | None = None,
    known: Collection[str] | None = None,
) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`.

    Other processes that would make the same folder are kept out meanwhile.

    Args:
        path: The folder to make; a link to a folder is followed.
        force: Replace an existing folder (only after the new one is complete).
        marker: See `refuse_existing`.
        known: See there.

    Raises:
        UsageError: `path` exists and `force` is not given, or `path` is a file.
        BusyError: Another process is making it.
        StorageError: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    refuse_existing(path, force=force, marker=marker, known=known)
    place = path.resolve()
    with storage_errors(path), work_folder(place) as work:
        _settle(place, work)
        refuse_existing(path, force=force, marker=marker, known=known)  # it may be back
        try:
            (work / _NEW).mkdir()
            yield work / _NEW
            _sync_tree(work / _NEW)
            refuse_existing(
                path, force=force, marker=marker, known=known
            )  # it may have been made meanwhile
            _exchange(place, work)
        finally:
            _settle(place, work)


@contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path`, for what is needed only while `path` is made.

    It is this process's alone, and may hold what one that was killed has left. It is removed if it
    is empty in the end.

    Raises:
        BusyError: Another process is making `path`.
    """
    work = _work(path)
    try:
        with locked(work, path):
            yield work
    finally:
        with suppress(OSError):
            work.rmdir()


def kept_aside(path: Path) -> Path | None:
    """Where the content of a folder is that was being replaced when the process was killed."""
    old = _work(Path(path).resolve()) / _OLD
    return old if old.is_dir() and not Path(path).exists() else None


def sweep(folder: Path) -> None:
    """Remove the temporary files in `folder` whose guard no process holds: theirs was killed."""
    for guard in folder.glob(f"{TEMPORARY}*{_GUARD}"):
        with suppress(OSError):
            handle = os.open(guard, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if hold(handle):
                    for entry in folder.glob(f"{guard.stem}.*"):
                        if entry != guard:
                            entry.unlink()
                    guard.unlink()  # last, or nobody would know what the others are
            finally:
                os.close(handle)


def refuse_loss(out: Path, needed: Iterable[Path | str]) -> None:
    """Raise a `UsageError` if replacing `out` would delete what it is made from.

    Args:
        out: A file or folder that is to be written.
        needed: What is read meanwhile, or must still be there afterwards.
    """
    place = Path(out).resolve()
    for path in map(Path, needed):
        whole = path.resolve()
        if place == whole:
            raise UsageError(f"{out} is read by this command, too.", "Choose another output.")
        if place in whole.parents and whole.exists():
            raise UsageError(
                f"{path} lies in {out}, and would be lost with it.", "Choose another output."
            )


def refuse_file_above(path: Path) -> None:
    """Raise a `UsageError` if `path` cannot be made because something above it is no folder."""
    for above in Path(path).parents:
        if above.is_dir():
            return
        if os.path.lexists(above):  # a link to nowhere is in the way, too
            raise UsageError(
                f"{path} cannot be written: {above} is no folder.", "Choose another path."
            )


def refuse_existing(
    path: Path,
    *,
    force: bool,
    marker: str | None = None,
    ours: Collection[str] = (),
    known: Collection[str] | None = None,
) -> None:
    """Raise a `UsageError` if writing to `path` would overwrite something unasked.

    Args:
        path: A folder that is to be made.
        force: An existing folder may be replaced.
        marker: The file by which a folder of ours is known. Without it even `force` does not
            replace a folder: a mistyped path must not cost someone a home folder.
        ours: Names that do not count; nor do temporary files, which nobody would miss.
        known: All names that such a folder has, as patterns of `fnmatch`; with others in it, it is
            not replaced. None: any.
    """
    path = Path(path)
    refuse_file_above(path)
    if path.is_file():
        raise UsageError(f"{path} is a file, not a folder.", "Choose another output folder.")
    names = [entry.name for entry in path.iterdir()] if path.exists() else []
    if all(name in ours or name.startswith(TEMPORARY) for name in names):
        return
    if not force:
        raise UsageError(f"{path} exists already.", "Choose another path, or add --force.")
    if marker is not None and not (path / marker).is_file():
        raise UsageError(
            f"{path} holds other things (it has no {marker}); --force does not replace it.",
            "Choose another path, or empty that folder yourself.",
        )
    others = sorted(n for n in names if known is not None and not _is_among(n, known))
    if others:
        raise UsageError(
            f"{path} holds other things ({', '.join(others[:3])}{', …' * (len(others) > 3)}); "
            "--force does not replace it.",
            "Move them, or choose another path.",
        )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write `text`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; `what` names it in errors.

    Raises:
        ArtefactError: The file is missing, not JSON, or not an object; caused by a
            `PermissionError`, it may not be read.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        remedy = RIGHTS if isinstance(error, PermissionError) else ""
        raise ArtefactError(f"Cannot read {what} {path}: {error.strerror}.", remedy) from error
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


def _is_among(name: str, known: Collection[str]) -> bool:
    return name.startswith(TEMPORARY) or any(fnmatchcase(name, pattern) for pattern in known)


def _exchange(path: Path, work: Path) -> None:
    """Put the new folder of `work` in the place of `path`, whose old content `work` then holds."""
    if path.exists():
        path.replace(work / _OLD)
    (work / _NEW).replace(path)
    _sync(path.parent)


def _settle(path: Path, work: Path) -> None:
    """Leave nothing in `work`; a folder that was taken away and not replaced is put back."""
    if (work / _OLD).exists() and not path.exists():
        (work / _OLD).replace(path)
    for name in (_OLD, _NEW):
        shutil.rmtree(work / name, ignore_errors=True)


def _work(path: Path) -> Path:
    return path.parent / f"{TEMPORARY}{path.name}"


def _guard(folder: Path) -> tuple[int, Path]:
    """A new, locked, empty file: while it is held, `sweep` leaves alone what is named after it.

    The temporary file itself would not do: safetensors puts another in its place.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=_GUARD, dir=folder)
        if hold(handle) is not False and os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process came first, took it for left behind, and removed it


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for entry in folder.rglob("*"):
        _sync(entry)
    _sync(folder)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
