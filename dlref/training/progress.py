"""How far a training has come, and which figure says how good it is."""

from dataclasses import dataclass, field

from dlref.errors import ConfigError, did_you_mean


@dataclass
class Progress:
    """How far a run has come; a checkpoint holds it, so that a resumed run goes on as if it had never stopped."""

    step: int = 0
    seconds: float = 0.0  # of training alone
    logged: tuple[int, float] = (0, 0.0)  # step and seconds of the last line
    count: int = 1  # that the loss of the last step was a mean over
    evaluated: int = 0
    best: float | None = None  # the larger the better
    since_best: int = 0  # evaluations
    figures: dict[str, float] = field(default_factory=dict)  # of the last evaluation


def monitored(monitor: str | None, figures: dict[str, float]) -> float | None:
    """The figure that a setting as `eval/nll min` names, the larger the better; raises ConfigError where there is none."""
    if not monitor:
        return None
    name, direction = monitor.removeprefix("eval/").split()
    if name not in figures:
        raise ConfigError(
            f"trainer.monitor is '{monitor}'; evaluation has {', '.join(figures)}; the weights are saved, so resume with one "
            f"of these{did_you_mean(name, figures)}"
        )
    return figures[name] if direction == "max" else -figures[name]
