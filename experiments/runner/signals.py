"""Preemption: SIGTERM, SIGUSR1 and SIGUSR2 ask a run to save and stop; a second SIGTERM kills it as usual."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again and it goes on
ASKED_BY = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Preempted(SystemExit):
    """Raised by `record.save` when a stop was asked for, once the state is on disk; exit code 75."""

    def __init__(self, step: int) -> None:
        super().__init__(EXIT_PREEMPTED)
        self.step = step


class Stop:
    """A flag that signals set; used as a context manager, it puts the former handlers back."""

    def __init__(self, on_request: Callable[[str], None] | None = None) -> None:
        self.requested: str | None = None
        self._terminated = False
        self._on_request = on_request
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
        if self._terminated and number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._terminated = self._terminated or number == signal.SIGTERM
        self.requested = signal.Signals(number).name
        if self._on_request:
            self._on_request(self.requested)
