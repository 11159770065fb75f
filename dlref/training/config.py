"""The settings of the trainer, `trainer.*` in a config, and what they may be."""

from collections.abc import Callable
from dataclasses import dataclass

from dlref.errors import ConfigError
from dlref.training.precision import Precision


@dataclass(kw_only=True)
class Settings:
    """What every run has, in optimizer steps and seconds of training; the first limit that is reached ends the run.

    `monitor` names a metric and its better direction (`eval/loss min`): its best weights are kept, and `patience`
    evaluations without a new best end the run. With `ema` the weights that are evaluated and kept are a moving average,
    ema of the old one and 1 - ema of the trained weights at each step; batch norm's running statistics are averaged alike.
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
            raise ConfigError(f"trainer.monitor is '{self.monitor}'; write as 'eval/loss min': a figure, its direction")
        if self.patience and not (self.monitor and self.eval_every):
            raise ConfigError("trainer.patience waits for trainer.monitor to improve; set monitor and eval_every too")

    def limit_steps(self, batches_per_epoch: Callable[[], float]) -> None:
        """Turn epochs into steps."""
        if self.max_epochs is not None:
            steps = max(1, -int(-self.max_epochs * batches_per_epoch() // self.accumulate))
            self.max_steps, self.max_epochs = min(steps, self.max_steps or steps), None
        if self.max_steps is None and self.max_seconds is None:
            raise ConfigError("nothing ends this run; set trainer.max_steps, trainer.max_epochs or trainer.max_seconds")
