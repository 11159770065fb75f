"""A background thread that writes, so that training does not wait for a slow disk."""

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

MAX_PENDING = 5_000  # tasks that may wait for a disk before its writer is given up


class BackgroundWriter:
    """Runs tasks in order on a daemon thread: a process ends without a writer whose disk hangs.

    After a task has raised an error, the others are skipped and the error is raised to whoever submits the next one.
    """

    def __init__(self) -> None:
        self.tasks: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self.failure: Exception | None = None
        self.close: Callable[[], Any] = lambda: None  # runs at the end, also after a failure
        threading.Thread(target=self.work, daemon=True).start()

    def submit(self, task: Callable[[], Any]) -> None:
        """Raises the error of an earlier task; TimeoutError where too many wait."""
        self.check()
        if self.tasks.qsize() >= MAX_PENDING:
            raise TimeoutError("its disk does not keep up")
        self.tasks.put(task)

    def check(self) -> None:
        if self.failure:
            raise self.failure

    def end(self) -> None:
        self.tasks.put(None)

    def is_done(self, seconds: float) -> bool:
        """Wait at most so many seconds for all submitted tasks; whether they are done."""
        with self.tasks.all_tasks_done:
            return self.tasks.all_tasks_done.wait_for(lambda: not self.tasks.unfinished_tasks, seconds)

    def work(self) -> None:
        for task in iter(self.tasks.get, None):
            if not self.failure:
                self.attempt(task)
            self.tasks.task_done()
        self.attempt(self.close)
        self.tasks.task_done()

    def attempt(self, task: Callable[[], Any]) -> None:
        try:
            task()
        except Exception as error:  # whatever it is: `check` raises it
            self.failure = self.failure or error


class BackgroundEvents:
    """Replaces TensorBoard's event writer, to which it hands everything on a background thread."""

    def __init__(self, writer: Any, background: BackgroundWriter) -> None:
        self.writer, self.background, self.get_logdir = writer, background, writer.get_logdir
        background.close = writer.close

    def add_event(self, event: Any) -> None:
        self.background.submit(functools.partial(self.writer.add_event, event))

    def flush(self) -> None:
        self.background.submit(self.writer.flush)


@contextlib.contextmanager
def silenced_board_thread() -> Iterator[None]:
    """While entered, errors in TensorBoard's own thread are not printed: it also raises them to its next caller."""

    def report(failure: Any) -> None:
        if type(failure.thread).__name__ != "_AsyncWriterThread":
            others(failure)

    others, threading.excepthook = threading.excepthook, report
    try:
        yield
    finally:
        threading.excepthook = others
