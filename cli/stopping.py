"""How a training is asked to stop: by a signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from mbrec.cli.main import TERMINATING

_TOLD = b"Stopping after this step; the same signal again ends it at once.\n"


class StopSignal:
    """Notes the first SIGINT, SIGTERM or SIGHUP while it is entered; a second acts as ever."""

    def __init__(self) -> None:
        self.number = 0  # of the signal that came
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Callable[[], bool]:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", *TERMINATING):
                number = getattr(signal, name, None)
                # What is ignored stays ignored: `nohup mbrec train …` outlives its terminal.
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return lambda: self.number != 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self.number = number
        os.write(2, _TOLD)  # `print` may be what was interrupted

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
