"""The settings of training: `trainer.*` in a config."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dlref.errors import ConfigError
from dlref.training.precision import Precision


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What every run has, in optimizer steps, epochs and seconds of training. The first limit that is reached ends the run.

    `monitor` names a metric and its better direction (`eval/loss min`): the best weights are kept, and `patience`
    evaluations without a new best end the run. With `ema` the weights that are evaluated and kept are an exponential moving
    average with this decay; the running statistics of batch norm are averaged alike.
    """

    max_steps: int | None = None
    max_epochs: float | None = None
    max_seconds: float | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    precision: Precision = "auto"
    compile: bool = False
    ema: float | None = None
    monitor: str | None = None
    patience: int | None = None
    allow_other_data: bool = False
    log_every: int = 50
    eval_every: int | None = None
    save_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "accumulate", "patience", "log_every", "eval_every", "save_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"trainer.{name} is {value}; it takes 1 or more")
        for name in ("max_epochs", "max_seconds"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ConfigError(f"trainer.{name} is {value}; it takes a number above 0")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ConfigError(f"trainer.ema is {self.ema}; it takes a decay from 0 to below 1, as 0.999")
        if self.monitor and self.monitor.removeprefix("eval/").split()[1:] not in (["min"], ["max"]):
            raise ConfigError(
                f"trainer.monitor is '{self.monitor}'; write as 'eval/loss min': a metric and its better direction"
            )
        if self.patience and not (self.monitor and self.eval_every):
            raise ConfigError("trainer.patience waits for trainer.monitor to improve; set monitor and eval_every too")

    def limit_steps(self, batches_per_epoch: Callable[[], float]) -> "TrainerConfig":
        """The same settings with the limit in epochs as one in steps; raises ConfigError where there is no limit at all."""
        max_steps = self.max_steps
        if self.max_epochs is not None:
            steps = max(1, -int(-self.max_epochs * batches_per_epoch() // self.accumulate))
            max_steps = min(steps, max_steps or steps)
        if max_steps is None and self.max_seconds is None:
            raise ConfigError("nothing ends this run; set trainer.max_steps, trainer.max_epochs or trainer.max_seconds")
        return replace(self, max_steps=max_steps, max_epochs=None)
