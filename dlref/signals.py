"""SIGTERM and SIGINT: outside of training they unwind the stack; the trainer reads them between two steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

received: list[int] = []  # signals outside of training, since the command started


def unwind(number: int, frame: FrameType | None = None) -> NoReturn:
    """A handler that unwinds the stack: by KeyboardInterrupt, or by SystemExit with the exit code of the signal."""
    received.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """A context in which signals have these handlers.

    Only the main thread may set handlers; in another one (a notebook's worker) the handlers stay as they are.
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
    """A context in which a signal unwinds the stack, so that no partial file stays."""
    handlers = {signal.SIGTERM: unwind}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job ignores it
        handlers[signal.SIGINT] = unwind
    try:
        with handled(handlers):
            yield
    finally:
        received.clear()


def until_received(action: Callable[[], int]) -> int:
    """The action's exit code, unless a signal unwinds it.

    An exception that a signal raises within a library may become one of that library: Hydra's clean-up, for example, raises
    another one for what is incomplete.
    """
    try:
        return action()
    except Exception:
        if not received:
            raise
    unwind(received[0])


class StopSignals:
    """A context in which the first signal is only noted in `received`; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        # An earlier one may have been lost: Python's compiler clears exceptions that are raised while it folds constants.
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
