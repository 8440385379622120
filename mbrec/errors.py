"""Everything that mbrec raises on purpose.

One hierarchy, so that a caller can catch `MbrecError` and the command line can print one readable
line. A message says what is wrong and where (file, row, value); `remedy` says what to do about it.
"""

from __future__ import annotations

RIGHTS = "See to the rights of the file, and of the folders above it."
"""The remedy where something may not be read: to make it anew would not help."""


class MbrecError(Exception):
    """Base of all errors that mbrec raises on purpose.

    Args:
        message: What is wrong and where: the file, the row, the value.
        remedy: What the reader can do about it, as a sentence; empty if nothing can be said.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class UsageError(MbrecError):
    """The call itself is wrong: an option, a key, a combination."""

    exit_code = 2


class BusyError(UsageError):
    """Another process writes into the folder."""


class StorageError(MbrecError):
    """A file cannot be written: the disk is full, a quota is used up, nothing may be written."""


class DataError(MbrecError):
    """A raw log, or what is left of it after filtering, cannot be used."""


class ArtefactError(MbrecError):
    """A prepared dataset or a run is missing, damaged or of another version."""


class DeviceError(MbrecError):
    """A device or library that was asked for is not there."""


class TrainingError(MbrecError):
    """Training cannot go on, e.g. because a loss is no longer finite."""


class StoppedError(MbrecError):
    """Training was asked to stop; where it stood is saved."""


class LeakageError(MbrecError):
    """Something that trains or selects asked for rows that only reporting may see."""


class RankError(MbrecError):
    """Another process of the same work has ended, or does not answer."""
