"""Progress of a run, the totals of its last steps, and the metric that selects the best weights."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dlref.errors import ConfigError, did_you_mean
from dlref.metrics import Totals, add, detached, number, read
from dlref.training import gradient_norm

MAX_WAITING = 1000  # steps that may wait to be read


@dataclass
class Progress:
    """How far a run has come. A checkpoint holds it, so that a resumed run continues as if it had never stopped."""

    step: int = 0  # optimizer steps
    seconds: float = 0.0  # of training alone
    logged: tuple[int, float] = (0, 0.0)  # step and seconds where the log window begins
    count: int = 1  # of the loss of the last step
    evaluated: int = 0  # step of the last evaluation
    best: float | None = None  # value of the monitored metric, negated if smaller is better
    since_best: int = 0  # evaluations without a new best
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation


class Window:
    """The steps since the last regular line of the log: their totals, and the metrics of the last one.

    Reading a number waits for the device that computes it. A `deferred` window keeps tensors until `read`, so that a GPU
    always has work; only then does it raise DivergedError for the first step whose loss or gradient is not finite.
    """

    def __init__(self, deferred: bool) -> None:
        self.deferred, self.totals, self.last = deferred, Totals(), dict[str, float]()
        self.take = detached if deferred else read  # the totals of a batch without their graph
        self.waiting: list[tuple[int, Totals, dict[str, Any], bool]] = []

    def add(self, step: int, totals: Totals, metrics: dict[str, Any], overflowed: bool) -> None:
        """Add a step before it updates the weights; one that is skipped, because it `overflowed`, need not be finite."""
        self.waiting.append((step, totals, metrics, overflowed))
        if not self.deferred or len(self.waiting) == MAX_WAITING:
            self.read()

    def read(self) -> None:
        waiting, self.waiting = self.waiting, []
        consequence = "no checkpoint holds what followed" if self.deferred else "the weights are as before it"
        for step, tensors, metrics, overflowed in waiting:
            totals, self.last = read(tensors), {name: number(value) for name, value in metrics.items()}
            if not overflowed:
                gradient_norm.require_finite(step, totals["loss"], self.last["grad_norm"], self.last["lr"], consequence)
            self.totals = add(self.totals, totals)

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """A context in which an error becomes the DivergedError of an earlier step that was not finite, if one waits."""
        try:
            yield
        except Exception:
            with contextlib.suppress(RuntimeError):  # a GPU that has failed
                self.read()
            raise


def monitored(monitor: str | None, metrics: dict[str, float], has_nll: bool) -> float | None:
    """The metric that a setting such as `eval/loss min` names, negated for `min`; raises ConfigError for an unknown one.

    `has_nll`: the objective computes an nll, which is logged as `loss` where the two are equal (`Objective.summarize`).
    """
    if not monitor:
        return None
    name, direction = monitor.removeprefix("eval/").split()
    if name == "nll" and has_nll and name not in metrics:
        name = "loss"
    if name not in metrics:
        raise ConfigError(
            f"trainer.monitor is '{monitor}'; evaluation has {', '.join(metrics)}; the weights are saved, so resume with one "
            f"of these{did_you_mean(name, metrics)}"
        )
    return metrics[name] if direction == "max" else -metrics[name]
