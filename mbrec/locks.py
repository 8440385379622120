"""One writer per folder: a lock that the kernel takes back when its process ends, however it ends.

It is `flock` on a hidden file in the folder. Nothing has to be judged by the age of a file or by
whether a process id is in use, so a crash never blocks anyone; what is left of it is an empty name.
On NFS, Linux passes `flock` on to the server, and other machines see it. File systems without locks
are written to all the same, with a warning. A fork shares its parent's lock.

The `filelock` package takes the same lock, but does not tell who has it, and releases of it empty
the file that should say so.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mbrec.errors import BusyError

TEMPORARY = ".mbrec-"
"""What the names of all files begin with that are gone when their process ends as it should."""

LOCK = f"{TEMPORARY}lock"

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_TRIES = 100  # to get hold of a file that others remove at the same time

log = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, of: Path | None = None) -> Iterator[None]:
    """Keep every other process that asks for it out of `folder`; the folder is made if need be.

    Readers ask for no lock.

    Args:
        folder: Where the lock file lies. If it was made here and stays empty, it is removed.
        of: What messages call the folder.

    Raises:
        BusyError: Another process has it.
        OSError: The folder cannot be written to.
    """
    made = not folder.exists()
    handle = _acquire(folder, of or folder)
    try:
        yield
    finally:
        # Removed while it is held: who opened it before sees that its name is gone, and tries anew.
        with suppress(OSError):
            (folder / LOCK).unlink()
        os.close(handle)
        if made:
            with suppress(OSError):
                folder.rmdir()


def hold(handle: int) -> bool | None:
    """Lock an open file, without waiting.

    Returns:
        Whether it is ours now; None where the file system has no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _acquire(folder: Path, of: Path) -> int:
    path = folder / LOCK
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if _is_other_than_folder(folder):
                raise
            continue  # it was there, and was removed before `mkdir` looked what it is
        try:
            # A link that a stranger put there is not followed: what it names would be overwritten.
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # the folder was removed just now by the process that had made it
        try:
            held = hold(handle)
            if held is False:
                raise _busy(handle, of)
            if held is None:
                log.warning(
                    "The file system of %s has no locks: see to it that nothing else writes there.",
                    of,
                )
            if _has_name(handle, path):
                _sign(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise BusyError(f"{of} is in use by processes that come and go.", "Try again.")


def _is_other_than_folder(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _has_name(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    with suppress(OSError):  # a full disk: the lock holds without a name on it, too
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())


def _busy(handle: int, of: Path) -> BusyError:
    holder = os.pread(handle, 500, 0).decode(errors="replace") or "another process"
    return BusyError(
        f"{of} is being written by {holder}.", "Wait until that has ended, or choose another path."
    )
