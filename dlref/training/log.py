"""Where figures go as a run learns: metrics.jsonl, TensorBoard, and a line or a bar for whoever watches."""

import functools
import json
import logging
import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

logger = logging.getLogger("dlref")


class Log:
    """Writes into a run's folder; a writer that fails is reported once and never stops the run.

    `first_step` is the step to go on from: later lines and events, of a life that ended without a checkpoint, go;
    None only adds. `quiet` writes to the files alone.
    A log without a folder (other ranks) writes nothing.
    """

    def __init__(
        self, folder: Path | None, first_step: int | None = None, steps: int | None = None, quiet: bool = False
    ) -> None:
        self.folder, self.quiet, self.broken = folder, quiet, set[str]()
        self.lines: TextIO | None = None
        self.board: Any = None
        self.bar: Any = None
        if folder is None:
            return
        self.attempt("metrics.jsonl", lambda: self.open_lines(folder / "metrics.jsonl", first_step))
        self.attempt("TensorBoard", lambda: self.open_board(folder, first_step))
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=first_step or 0, unit="step", dynamic_ncols=True)

    def open_lines(self, path: Path, first_step: int | None) -> None:
        if first_step is not None and path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if belongs(line, first_step)]
            temporary = path.with_name(".metrics.jsonl")
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            temporary.replace(path)
        self.lines = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close)

    def open_board(self, folder: Path, first_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        earlier = any(folder.glob("events.out.tfevents.*"))
        purge = first_step + 1 if first_step is not None and earlier else None
        self.board = SummaryWriter(str(folder), purge_step=purge)
        self.excepthook = threading.excepthook
        threading.excepthook = functools.partial(but_for_the_writer, self.excepthook)

    def attempt(self, name: str, action: Callable[[], Any], last: bool = False) -> None:
        """Once a writer has failed it is left alone, but for the `last` thing, which may save what it still holds."""
        if name in self.broken and not last:
            return
        try:
            action()
        except Exception as error:  # whatever a writer raises, training matters more
            if name not in self.broken:
                logger.warning(
                    "%s cannot be written (%s: %s); training goes on without it", name, type(error).__name__, error
                )
            self.broken.add(name)

    def figures(self, split: str, step: int, seconds: float, figures: dict[str, float]) -> None:
        """One event: `split/name` tags (a name with a slash is its own tag), and the bare names in metrics.jsonl."""
        if self.folder is None:
            return
        bare = {name.rpartition("/")[2]: value for name, value in figures.items()}
        # NaN is not JSON: a figure that does not exist is left out.
        line = {"step": step, "seconds": round(seconds, 3), "split": split}
        line |= {name: value for name, value in bare.items() if math.isfinite(value)}
        if self.lines:
            self.attempt("metrics.jsonl", functools.partial(self.lines.write, json.dumps(line) + "\n"))
        if self.board:
            for name, value in figures.items():
                tag = name if "/" in name else f"{split}/{name}"
                self.attempt("TensorBoard", functools.partial(self.board.add_scalar, tag, value, step))
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

    def picture(self, tag: str, figure: "Figure", step: int) -> None:
        if self.board:
            self.attempt("TensorBoard", functools.partial(self.board.add_figure, tag, figure, step))

    def text(self, tag: str, text: str, step: int) -> None:
        if self.board:
            self.attempt("TensorBoard", functools.partial(self.board.add_text, tag, text, step))

    def histogram(self, tag: str, numbers: "Tensor", step: int) -> None:
        if not numbers.numel() or not numbers.isfinite().all():  # TensorBoard raises on these
            if "histograms" not in self.broken:
                what = "is empty" if not numbers.numel() else "holds numbers that are not finite"
                logger.warning("%s %s, so there is no histogram of it at step %d", tag, what, step)
            self.broken.add("histograms")
        elif self.board:
            self.attempt("TensorBoard", functools.partial(self.board.add_histogram, tag, numbers, step))

    def embedding(self, tag: str, embedding: Any, step: int) -> None:
        """Vectors with labels, which the projector shows."""
        if self.board:
            # Each stands in a line of its own, which white space would break and an empty one would miss.
            labels = ["_".join(label.split()) or "␣" for label in embedding.labels]
            write = functools.partial(self.board.add_embedding, embedding.vectors, labels, None, step, tag)
            self.attempt("TensorBoard", write)

    def findings(self, split: str, step: int, found: Any) -> None:
        """Pictures, texts, histograms and vectors of reports, each under `split/name`."""
        for name, picture in found.pictures.items():
            self.picture(f"{split}/{name}", picture, step)
        for name, text in found.texts.items():
            self.text(f"{split}/{name}", text, step)
        for name, numbers in found.histograms.items():
            self.histogram(f"{split}/{name}", numbers, step)
        for name, embedding in found.embeddings.items():
            self.embedding(f"{split}/{name}", embedding, step)

    def settings(self, settings: dict[str, Any], results: dict[str, float]) -> None:
        """The run's row in TensorBoard's table of hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in settings.items()}
        if self.board:
            for summary in hparams(plain, results):
                self.attempt("TensorBoard", functools.partial(self.board.file_writer.add_summary, summary))

    def flush(self) -> None:
        if self.board:
            self.attempt("TensorBoard", self.board.flush)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.lines:
            self.attempt("metrics.jsonl", self.lines.close, last=True)
        if self.board:
            self.attempt("TensorBoard", self.board.close, last=True)
            threading.excepthook = self.excepthook
        self.lines = self.board = self.bar = None


def but_for_the_writer(others: Callable[[Any], Any], failure: Any) -> None:
    """TensorBoard's thread hands what it trips over to the next caller too, who reports it; so it prints none of it."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        others(failure)


def belongs(line: str, last: int) -> bool:
    """Whether this line of metrics.jsonl is whole and not after the step `last`."""
    try:
        return json.loads(line)["step"] <= last
    except (ValueError, KeyError, TypeError):
        return False


def readable(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
