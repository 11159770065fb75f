"""Where figures go as a run learns: metrics.jsonl, TensorBoard, and a line or a bar for whoever watches."""

import functools
import json
import logging
import math
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dlref import filesystem
from dlref.errors import brief
from dlref.filesystem import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

LINES, BOARD = "metrics.jsonl", "TensorBoard"  # the writers, as warnings name them
PATIENCE = 10.0  # seconds that a save and the end of a run wait for what was logged before
BACKLOG = 5_000  # things that may wait for a disk before its writer is given up
logger = logging.getLogger("dlref")


class Behind:
    """Does what it is given in that order on a thread of its own, so that nobody else waits for a disk that hangs."""

    def __init__(self) -> None:
        self.tasks: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self.failure: Exception | None = None
        self.close: Callable[[], Any] = lambda: None  # what remains to be done at the end, also after a failure
        # A daemon: if it still waits for the disk when everything else is done, the process ends without it.
        threading.Thread(target=self.work, daemon=True).start()

    def do(self, task: Callable[[], Any]) -> None:
        """Raises what an earlier task has raised, after which nothing more is done."""
        self.check()
        if self.tasks.qsize() >= BACKLOG:
            raise TimeoutError("its disk does not keep up")
        self.tasks.put(task)

    def check(self) -> None:
        if self.failure:
            raise self.failure

    def end(self) -> None:
        self.tasks.put(None)

    def is_done(self, seconds: float) -> bool:
        """Whether all that was given is done, for which it waits so many seconds."""
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
        except Exception as error:  # whatever it is: whoever gives the next task hears of it
            self.failure = self.failure or error


class Events:
    """In the place of TensorBoard's writer of events, to which it hands everything on `behind`."""

    def __init__(self, writer: Any, behind: Behind) -> None:
        self.writer, self.behind, self.get_logdir = writer, behind, writer.get_logdir
        behind.close = writer.close

    def add_event(self, event: Any) -> None:
        self.behind.do(functools.partial(self.writer.add_event, event))

    def flush(self) -> None:
        self.behind.do(self.writer.flush)


class Log:
    """Writes into a run's folder; a writer that fails is reported once and never stops the run, nor does a slow one.

    `first_step` is the step to go on from: later lines and events, of a life that ended without a checkpoint, go;
    None only adds. With `in_window` that step is within a log window, so the line of its first part, with which the run
    had ended, goes too. `quiet` writes to the files alone.
    A log without a folder (other ranks) writes nothing.
    """

    def __init__(
        self,
        folder: Path | None,
        first_step: int | None = None,
        steps: int | None = None,
        quiet: bool = False,
        in_window: bool = False,
    ) -> None:
        self.folder, self.quiet, self.broken, self.late = folder, quiet, set[str](), set[str]()
        self.behind: dict[str, Behind] = {}
        self.lines: BinaryIO
        self.board: Any = None
        self.bar: Any = None
        if folder is None:
            return
        self.behind = {LINES: Behind(), BOARD: Behind()}
        lines = self.behind[LINES]
        lines.do(lambda: self.open_lines(folder / "metrics.jsonl", first_step, in_window, lines))
        self.attempt(BOARD, lambda: self.open_board(folder, first_step))
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=first_step or 0, unit="step", dynamic_ncols=True)

    def open_lines(self, path: Path, first_step: int | None, in_window: bool, behind: Behind) -> None:
        if first_step is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if belongs(line, first_step, in_window)]
            temporary = path.with_name(".metrics.jsonl")
            temporary.write_bytes("".join(f"{line}\n" for line in kept).encode())
            try:
                filesystem.move(temporary, path)
            except PermissionError:  # Windows replaces no file that another program reads, but lets it be overwritten
                path.write_bytes(temporary.read_bytes())
                temporary.unlink()
        self.lines = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)
        behind.close = self.lines.close

    def write_line(self, line: bytes) -> None:
        while line:  # of which a disk that is nearly full takes a part
            line = line[self.lines.write(line) :]

    def open_board(self, folder: Path, first_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if printable(folder) != str(folder):
            raise ValueError("it takes no folder whose name is not UTF-8; rename it, or choose another run_dir=")

        def make() -> None:
            earlier = any(folder.glob("events.out.tfevents.*"))
            purge = first_step + 1 if first_step is not None and earlier else None
            made.append(SummaryWriter(str(folder), purge_step=purge))

        behind, made = self.behind[BOARD], list[Any]()
        behind.do(make)
        if not behind.is_done(PATIENCE):
            raise TimeoutError("its disk does not answer")
        behind.check()
        [self.board] = made
        files = self.board.file_writer
        files.event_writer = Events(files.event_writer, behind)
        self.excepthook = threading.excepthook
        threading.excepthook = functools.partial(but_for_the_writer, self.excepthook)

    def attempt(self, name: str, action: Callable[[], Any]) -> None:
        """Once a writer has failed it is left alone."""
        if name in self.broken:
            return
        try:
            action()
        except Exception as error:  # whatever a writer raises, training matters more
            logger.warning(
                "%s cannot be written (%s: %s); training goes on without it", name, type(error).__name__, error
            )
            self.broken.add(name)
            self.late.add(name)  # whether it has failed or hangs

    def figures(self, split: str, step: int, seconds: float, figures: dict[str, float]) -> None:
        """One event: `split/name` tags (a name with a slash is its own tag), and the bare names in metrics.jsonl."""
        if not self.behind:
            return
        bare = {name.rpartition("/")[2]: value for name, value in figures.items()}
        # NaN is not JSON: a figure that does not exist is left out, as is one that would stand for the step or the split.
        line = {"step": step, "seconds": round(seconds, 3), "split": split}
        line |= {name: value for name, value in bare.items() if math.isfinite(value) and name not in line}
        text = (json.dumps(line) + "\n").encode()
        self.attempt(LINES, lambda: self.behind[LINES].do(lambda: self.write_line(text)))
        if self.board:
            for name, value in figures.items():
                tag = name if "/" in name else f"{split}/{name}"
                self.attempt(BOARD, functools.partial(self.board.add_scalar, tag, value, step))
        if not self.quiet:
            self.show(split, step, bare)

    def show(self, split: str, step: int, figures: dict[str, float]) -> None:
        shown = [f"{name} {readable(value)}" for name, value in figures.items()]
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            if split == "train":
                self.bar.set_postfix_str("  ".join(shown[:3]))
                return
        logger.info("step %6d  %-5s  %s", step, split, "  ".join(shown))

    def show_on_board(self, tag: str, action: Callable[[], Any]) -> None:
        """Something of a report's: what cannot be shown is left out, and the writer goes on."""

        def shown() -> None:
            try:
                action()
            except Exception as error:
                if self.behind[BOARD].failure or isinstance(error, TimeoutError):  # so it is the writer
                    raise
                logger.warning("%s cannot be shown in TensorBoard (%s: %s)", tag, type(error).__name__, brief(error))

        if self.board:
            self.attempt(BOARD, shown)

    def picture(self, tag: str, figure: "Figure", step: int) -> None:
        self.show_on_board(tag, lambda: self.board.add_figure(tag, figure, step))

    def text(self, tag: str, text: str, step: int) -> None:
        self.show_on_board(tag, lambda: self.board.add_text(tag, printable(text), step))

    def histogram(self, tag: str, numbers: "Tensor", step: int) -> None:
        if not numbers.numel() or not numbers.isfinite().all():  # TensorBoard raises on these
            if "histograms" not in self.broken:
                what = "is empty" if not numbers.numel() else "holds numbers that are not finite"
                logger.warning("%s %s, so there is no histogram of it at step %d", tag, what, step)
            self.broken.add("histograms")
        else:
            self.show_on_board(tag, lambda: self.board.add_histogram(tag, numbers, step))

    def embedding(self, tag: str, embedding: Any, step: int) -> None:
        """Vectors with labels, which the projector shows."""
        if self.board and self.folder:
            from dlref.training.projector import project

            # A copy: training goes on with the vectors.
            vectors = embedding.vectors.detach().cpu().float().clone()
            labels = [printable(label) for label in embedding.labels]
            write = functools.partial(project, self.folder, tag, vectors, labels, step)
            self.attempt(BOARD, lambda: self.behind[BOARD].do(write))

    def findings(self, split: str, step: int, found: Any) -> None:
        """Pictures, texts, histograms and vectors of reports, each under `split/name`."""
        for name, picture in found.plots.items():
            self.picture(f"{split}/{name}", picture, step)
        for name, text in found.texts.items():
            self.text(f"{split}/{name}", text, step)
        for name, numbers in found.histograms.items():
            self.histogram(f"{split}/{name}", numbers, step)
        for name, embedding in found.vectors.items():
            self.embedding(f"{split}/{name}", embedding, step)

    def settings(self, settings: dict[str, Any], results: dict[str, float]) -> None:
        """The run's row in TensorBoard's table of hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        def write() -> None:
            plain = {k: v if isinstance(v, int | float) else printable(v) for k, v in settings.items()}
            for summary in hparams(plain, results):
                self.board.file_writer.add_summary(summary)

        if self.board:
            self.attempt(BOARD, write)

    def flush(self) -> None:
        if self.board:
            self.attempt(BOARD, self.board.flush)
        self.wait()

    def wait(self) -> None:
        """Until all that was logged is written, but for a writer that is late neither for long nor again."""
        until = time.monotonic() + PATIENCE
        for name, behind in self.behind.items():
            if behind.is_done(0 if name in self.late else max(0, until - time.monotonic())):
                self.attempt(name, behind.check)
            elif name not in self.late | self.broken:
                logger.warning("%s is late: its disk took longer than %g s; nothing waits for it", name, PATIENCE)
                self.late.add(name)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        for behind in self.behind.values():
            behind.end()
        self.late.clear()  # it may catch up
        self.wait()
        if self.board:
            threading.excepthook = self.excepthook
        self.behind, self.board, self.bar = {}, None, None


def but_for_the_writer(others: Callable[[Any], Any], failure: Any) -> None:
    """TensorBoard's thread hands what it trips over to the next caller too, who reports it; so it prints none of it."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        others(failure)


def belongs(line: str, last: int, in_window: bool) -> bool:
    """Whether this line of metrics.jsonl is whole and not after the step `last`, nor of a part of the window it is in."""
    try:
        event = json.loads(line)
        return event["step"] < last or (event["step"] == last and not (in_window and "lr" in event))
    except (ValueError, KeyError, TypeError):
        return False


def readable(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
