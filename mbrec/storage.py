"""What it means that a file cannot be written: one error, whoever noticed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbrec.errors import MbrecError, StorageError
from mbrec.locks import TEMPORARY

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what libraries raise when `path` cannot be written into an error with a remedy.

    Raises:
        StorageError: The disk is full, or the folder of `path` cannot be written to.
    """
    try:
        yield
    except StorageError:
        raise  # whoever is nearer to the file knows its name
    except Exception as error:
        code = _error_code(error)
        if code is None:
            raise
        if code in _FULL:
            raise StorageError(
                f"Cannot write {path}: {os.strerror(code)}.",
                "Make room and run it again; what was complete before is kept.",
            ) from error
        ours = isinstance(error, OSError) and _is_ours(error.filename, path)
        if code == errno.EROFS or (code in _FORBIDDEN and ours):
            raise StorageError(
                f"Cannot write {path}: {os.strerror(code)}.",
                "Choose another place, or see to the rights of the folder.",
            ) from error
        raise


def _error_code(error: BaseException) -> int | None:
    """The system's error number; some libraries give it, or what it means, in their texts alone."""
    if isinstance(error, MbrecError):  # its own text may quote anything
        return _error_code(error.__cause__) if error.__cause__ is not None else None
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error).strip()
    found = re.search(r"(?:os error|[Ee]rrno) (\d+)", text)  # safetensors, Arrow
    if found:
        return int(found[1])
    ending = text.partition("\n")[0].rstrip(".")  # DuckDB
    return next((code for code in _FULL if ending.endswith(os.strerror(code))), None)


def _is_ours(name: Any, path: Path) -> bool:
    """Whether an error's file is `path`, a folder above it, or a temporary file of ours."""
    if not isinstance(name, str):
        return False
    hidden = any(part.startswith(TEMPORARY) for part in Path(name).parts)
    return hidden or path.resolve().is_relative_to(Path(name).resolve())
