"""Preemption: Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 ask a run to save and stop; a second Ctrl-C or SIGTERM kills it."""

import os
import signal
import threading
from types import FrameType
from typing import Any

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again and it goes on
ASKED_BY = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
_KILL_THE_SECOND_TIME = (signal.SIGINT, signal.SIGTERM)


class Preempted(SystemExit):
    """Raised by `record.save` when a stop was asked for, once the state is on disk; exit code 75."""

    def __init__(self, step: int) -> None:
        super().__init__(EXIT_PREEMPTED)
        self.step = step


class Stop:
    """A flag that signals set; used as a context manager, it puts the former handlers back."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self._seen: set[int] = set()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._handle) for number in ASKED_BY}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # By kind: a worker gets the Ctrl-C of the terminal and then the SIGTERM of its driver, and must not die of it.
        if number in self._seen and number in _KILL_THE_SECOND_TIME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._seen.add(number)
        self.requested = signal.Signals(number).name
        if number == signal.SIGINT:  # not print(): the signal may have come in the middle of one
            os.write(2, b"\nstopping after this step; press Ctrl-C again to kill\n")
