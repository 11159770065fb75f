"""The log of a run: metrics.jsonl, TensorBoard, and lines or a progress bar on the console."""

import contextlib
import functools
import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dlref import filesystem
from dlref.errors import brief
from dlref.filesystem import printable
from dlref.training.background import BackgroundEvents, BackgroundWriter, silenced_board_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

LINES, BOARD = "metrics.jsonl", "TensorBoard"  # names of the writers, in warnings
PATIENCE = 10.0  # seconds that a save and the end of a run wait for the writers
logger = logging.getLogger("dlref")


class Log:
    """Writes metrics and reports into a run's folder. A writer that fails costs one warning; training never waits for one.

    Lines and events after `first_step`, of a run that ended before its next checkpoint, are removed; None only adds. With
    `in_window` that step is inside a log window, so the line of the window's first part, with which the run had ended, is
    removed too. `quiet` writes to the files alone. A log without a folder (other ranks) writes nothing.
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
        self.writers: dict[str, BackgroundWriter] = {}
        self.silenced = contextlib.ExitStack()
        self.lines: BinaryIO
        self.board: Any = None
        self.bar: Any = None
        if folder is None:
            return
        self.writers = {LINES: BackgroundWriter(), BOARD: BackgroundWriter()}
        lines = self.writers[LINES]
        lines.submit(lambda: self.open_lines(folder / "metrics.jsonl", first_step, in_window, lines))
        self.attempt(BOARD, lambda: self.open_board(folder, first_step))
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=first_step or 0, unit="step", dynamic_ncols=True)

    def open_lines(self, path: Path, first_step: int | None, in_window: bool, writer: BackgroundWriter) -> None:
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
        writer.close = self.lines.close

    def write_line(self, line: bytes) -> None:
        while line:  # a disk that is nearly full takes a part of it
            line = line[self.lines.write(line) :]

    def open_board(self, folder: Path, first_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if printable(folder) != str(folder):
            raise ValueError("it takes no folder whose name is not UTF-8; rename it, or choose another run_dir=")

        def open_writer() -> None:
            earlier = any(folder.glob("events.out.tfevents.*"))
            purge = first_step + 1 if first_step is not None and earlier else None
            opened.append(SummaryWriter(str(folder), purge_step=purge))

        writer, opened = self.writers[BOARD], list[Any]()
        writer.submit(open_writer)
        if not writer.is_done(PATIENCE):
            raise TimeoutError("its disk does not answer")
        writer.check()
        [self.board] = opened
        files = self.board.file_writer
        files.event_writer = BackgroundEvents(files.event_writer, writer)
        self.silenced.enter_context(silenced_board_thread())

    def attempt(self, name: str, action: Callable[[], Any]) -> None:
        """Run an action of a writer; after its first failure do nothing."""
        if name in self.broken:
            return
        try:
            action()
        except Exception as error:  # whatever a writer raises, training continues
            logger.warning(
                "%s cannot be written (%s: %s); training continues without it", name, type(error).__name__, error
            )
            self.broken.add(name)
            self.late.add(name)  # whether it has failed or hangs

    def metrics(self, split: str, step: int, seconds: float, metrics: dict[str, float]) -> None:
        """One event: `split/name` tags (a name with a slash is its own tag), and the bare names in metrics.jsonl."""
        if not self.writers:
            return
        bare = {name.rpartition("/")[2]: value for name, value in metrics.items()}
        # NaN is not JSON: such a metric is left out, as is one named as another field of the line.
        line = {"step": step, "seconds": round(seconds, 3), "split": split}
        line |= {name: value for name, value in bare.items() if math.isfinite(value) and name not in line}
        text = (json.dumps(line) + "\n").encode()
        self.attempt(LINES, lambda: self.writers[LINES].submit(lambda: self.write_line(text)))
        if self.board:
            for name, value in metrics.items():
                tag = name if "/" in name else f"{split}/{name}"
                self.attempt(BOARD, functools.partial(self.board.add_scalar, tag, value, step))
        if not self.quiet:
            self.show(split, step, bare)

    def show(self, split: str, step: int, metrics: dict[str, float]) -> None:
        texts = [f"{name} {readable(value)}" for name, value in metrics.items()]
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            if split == "train":
                self.bar.set_postfix_str("  ".join(texts[:3]))
                return
        logger.info("step %6d  %-5s  %s", step, split, "  ".join(texts))

    def show_on_board(self, tag: str, action: Callable[[], Any]) -> None:
        """Write what a report returned; what TensorBoard cannot show costs a warning, and not the writer."""

        def show() -> None:
            try:
                action()
            except Exception as error:
                if self.writers[BOARD].failure or isinstance(error, TimeoutError):  # the writer itself
                    raise
                logger.warning("%s cannot be shown in TensorBoard (%s: %s)", tag, type(error).__name__, brief(error))

        if self.board:
            self.attempt(BOARD, show)

    def plot(self, tag: str, figure: "Figure", step: int) -> None:
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
        """Vectors with labels, for TensorBoard's projector."""
        if self.board and self.folder:
            from dlref.training.projector import project

            # A copy, since training changes the vectors.
            vectors = embedding.vectors.detach().cpu().float().clone()
            labels = [printable(label) for label in embedding.labels]
            write = functools.partial(project, self.folder, tag, vectors, labels, step)
            self.attempt(BOARD, lambda: self.writers[BOARD].submit(write))

    def findings(self, split: str, step: int, found: Any) -> None:
        """Plots, texts, histograms and vectors of reports, each as `split/name`."""
        for name, figure in found.plots.items():
            self.plot(f"{split}/{name}", figure, step)
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
        """Wait until everything is written, at most `PATIENCE` seconds, and never again for a writer that was late."""
        until = time.monotonic() + PATIENCE
        for name, writer in self.writers.items():
            if writer.is_done(0 if name in self.late else max(0, until - time.monotonic())):
                self.attempt(name, writer.check)
            elif name not in self.late | self.broken:
                logger.warning("%s is late: its disk took longer than %g s; nothing waits for it", name, PATIENCE)
                self.late.add(name)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        for writer in self.writers.values():
            writer.end()
        self.late.clear()  # it may catch up
        self.wait()
        self.silenced.close()
        self.writers, self.board, self.bar = {}, None, None


def belongs(line: str, last: int, in_window: bool) -> bool:
    """Whether a line of metrics.jsonl is whole and at most of step `last`, and with `in_window` not of a part of its window."""
    try:
        event = json.loads(line)
        return event["step"] < last or (event["step"] == last and not (in_window and "lr" in event))
    except (ValueError, KeyError, TypeError):
        return False


def readable(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
