"""How far a training has come, what its last steps gave, and which figure says how good it is."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dlref.errors import ConfigError, did_you_mean
from dlref.metrics import Totals, add, detached, number, read
from dlref.training import gradient_norm

MOST = 1000  # steps that may wait to be read


@dataclass
class Progress:
    """How far a run has come; a checkpoint holds it, so that a resumed run goes on as if it had never stopped."""

    step: int = 0
    seconds: float = 0.0  # of training alone
    logged: tuple[int, float] = (0, 0.0)  # step and seconds where the log window begins
    count: int = 1  # that the loss of the last step was a mean over
    evaluated: int = 0
    best: float | None = None  # the larger the better
    since_best: int = 0  # evaluations
    figures: dict[str, float] = field(default_factory=dict)  # of the last evaluation


class Window:
    """What the steps since the last regular line of the log gave: their totals, and the figures of the last one.

    To read a number is to wait for the device that computes it. A `deferred` window keeps tensors until `read`, so that a
    GPU always has work; only then does it raise DivergedError for the first step whose loss or gradient is not finite.
    """

    def __init__(self, deferred: bool) -> None:
        self.deferred, self.totals, self.last = deferred, Totals(), dict[str, float]()
        self.take = detached if deferred else read  # what a batch gave
        self.waiting: list[tuple[int, Totals, dict[str, Any], bool]] = []

    def add(self, step: int, totals: Totals, figures: dict[str, Any], overflowed: bool) -> None:
        """Before the weights are updated; an update that is left out, since it `overflowed`, need not be finite."""
        self.waiting.append((step, totals, figures, overflowed))
        if not self.deferred or len(self.waiting) == MOST:
            self.read()

    def read(self) -> None:
        waiting, self.waiting = self.waiting, []
        kept = "no checkpoint holds what followed" if self.deferred else "the weights are as before it"
        for step, tensors, figures, overflowed in waiting:
            totals, self.last = read(tensors), {name: number(value) for name, value in figures.items()}
            if not overflowed:
                gradient_norm.require_finite(step, totals["loss"], self.last["grad_norm"], self.last["lr"], kept)
            self.totals = add(self.totals, totals)

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """A context in which an error is that of the earlier step that was not finite, if one waits to be read."""
        try:
            yield
        except Exception:
            with contextlib.suppress(RuntimeError):  # a GPU that has failed answers nothing more
                self.read()
            raise


def monitored(monitor: str | None, figures: dict[str, float], has_nll: bool) -> float | None:
    """The metric that a setting such as `eval/loss min` names, the larger the better; raises ConfigError without one.

    `has_nll`: the objective computes an nll, which is logged as `loss` where the two are equal (`Objective.summarize`).
    """
    if not monitor:
        return None
    name, direction = monitor.removeprefix("eval/").split()
    if name == "nll" and has_nll and name not in figures:
        name = "loss"
    if name not in figures:
        raise ConfigError(
            f"trainer.monitor is '{monitor}'; evaluation has {', '.join(figures)}; the weights are saved, so resume with one "
            f"of these{did_you_mean(name, figures)}"
        )
    return figures[name] if direction == "max" else -figures[name]
