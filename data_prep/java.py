"""Starting Spark: the Java that it needs, its chatter, and what its errors mean."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mbrec.errors import DataError, DeviceError, MbrecError

_OLDEST = 17
_REMEDY = f"Install a Java runtime of release {_OLDEST} (e.g. openjdk-17-jre-headless)."
_SECONDS = 5.0  # to answer a connection
_PORT = 7077
_MASTER_REMEDY = "Check --spark-master, and that the cluster runs."
_OURS = re.compile(r"mbrec\.errors\.\w+: (.+)")
_DEAD = ("Python worker exited", "ExecutorLostFailure", "Lost executor", "OutOfMemoryError")


def check_java() -> None:
    """Refuse a machine without the Java that Spark needs.

    Raises:
        DeviceError: There is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else "java"
    if shutil.which(program) is None:
        where = f" in JAVA_HOME ({home})" if home else ""
        raise DeviceError(f"--engine spark needs Java, and there is none{where}.", _REMEDY)
    found = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "(\d+)', found.stderr + found.stdout)
    if match is None or int(match[1]) < _OLDEST:
        release = match[1] if match else "unknown"
        raise DeviceError(f"--engine spark needs Java {_OLDEST}; this is {release}.", _REMEDY)


def check_master(master: str) -> None:
    """Refuse a master that does not answer; Spark itself would try for a minute.

    Raises:
        DeviceError: No host of a `spark://` URL can be connected to.
    """
    if not master.startswith("spark://"):
        return
    why = ""
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            where = (host or address, int(port) if host else _PORT)
            with socket.create_connection(where, timeout=_SECONDS):
                return
        except (OSError, ValueError) as error:
            why = str(error)
    raise DeviceError(f"The Spark master {master} cannot be reached ({why}).", _MASTER_REMEDY)


@contextlib.contextmanager
def chatter_into(path: Path) -> Iterator[None]:
    """Let what processes that are started here say go to a file, not to the user's terminal."""
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with path.open("ab") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


@contextlib.contextmanager
def interrupts_unsaid() -> Iterator[None]:
    """Keep py4j from logging a traceback, to the root logger, when the user stops a command."""

    def other(record: logging.LogRecord) -> bool:
        return "while sending command" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


def readable(error: Exception, master: str) -> MbrecError:
    """One line of what Spark says on many."""
    text = str(error)
    ours = _OURS.search(text)
    if ours is not None:  # a reader's own error, from an executor
        return DataError(ours[1].strip())
    if isinstance(error, (ConnectionError, EOFError)) or "Py4JNetworkError" in repr(error):
        return DeviceError(
            "Spark has ended in the middle of the work.",
            "Was it out of memory? Give it more: spark.driver.memory in spark-defaults.conf.",
        )
    if any(sign in text for sign in _DEAD):
        return DeviceError(
            f"An executor of {master} died, most likely for want of memory.",
            "Give executors more (spark.executor.memory and spark.executor.memoryOverhead in "
            "spark-defaults.conf), or split the log into more files.",
        )
    first = (text.strip().splitlines() or [type(error).__name__])[0]
    return DeviceError(f"Spark failed: {first[:300]}", _MASTER_REMEDY)
