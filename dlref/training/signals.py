"""SIGTERM and SIGINT as a wish that the trainer reads between two steps."""

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """While entered, the first signal is only noted in `received`; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.received: int = 0

    def __enter__(self) -> "StopSignals":
        # Only the main thread may set handlers; elsewhere (a notebook's worker) signals stay with their owner.
        signals = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        self.before: dict[int, Any] = {number: signal.signal(number, self.note) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
