"""SIGTERM and SIGINT: outside of training they unwind the stack, in training the trainer reads them between two steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

received: list[int] = []  # outside of training, since the command began


def unwind(number: int, frame: FrameType | None = None) -> NoReturn:
    """End what is under way: as Ctrl-C does, or with the exit code of a signal."""
    received.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """While entered, signals have these handlers.

    Only the main thread may set handlers; elsewhere (a notebook's worker) signals stay with their owner.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before: dict[int, Any] = {n: signal.signal(n, handler) for n, handler in handlers.items()} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """While entered, a signal unwinds the stack, so that no half file stays behind."""
    handlers = {signal.SIGTERM: unwind}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background ignores it
        handlers[signal.SIGINT] = unwind
    try:
        with handled(handlers):
            yield
    finally:
        received.clear()


def until_received(action: Callable[[], int]) -> int:
    """The action's exit code, unless a signal unwinds it.

    What a signal raises in the middle of a library's work may become an error of that library: where it cleans up, as
    Hydra does, what it finds half done raises another.
    """
    try:
        return action()
    except Exception:
        if not received:
            raise
    unwind(received[0])


class StopSignals:
    """While entered, the first signal is only noted in `received`; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        # One that came before may have been lost: Python's compiler clears what is raised while it folds constants.
        self.received: int = received[0] if received else 0

    def __enter__(self) -> "StopSignals":
        self.handled = handled({signal.SIGTERM: self.note, signal.SIGINT: self.note})
        self.handled.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.handled.__exit__(None, None, None)

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
