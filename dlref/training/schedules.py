"""Learning-rate schedules: the share of the run that is done -> a factor on the optimizer's rate."""

import math

from dlref.errors import ConfigError


class Schedule:
    """Linear warm-up over the share `warmup` of the run, then `shape`, which falls from 1 to `final`.

    A share rather than a number of steps, so that a run limited by seconds follows the same curve.
    """

    def __init__(self, warmup: float = 0.0, final: float = 0.0) -> None:
        if not (0 <= warmup < 1 and 0 <= final <= 1):
            raise ConfigError(
                f"schedule.warmup {warmup} and final {final} are shares of the run and of the rate, 0 to 1"
            )
        self.warmup, self.final = warmup, final

    def __call__(self, share: float) -> float:
        if share < self.warmup:
            return share / self.warmup
        return self.final + (1 - self.final) * self.shape((min(share, 1.0) - self.warmup) / (1 - self.warmup))

    def shape(self, share: float) -> float:
        raise NotImplementedError


class Constant(Schedule):
    def __init__(self, warmup: float = 0.0) -> None:
        super().__init__(warmup)

    def shape(self, share: float) -> float:
        return 1.0


class Linear(Schedule):
    def shape(self, share: float) -> float:
        return 1.0 - share


class Cosine(Schedule):
    """Loshchilov & Hutter 2017, equation 5, without restarts."""

    def shape(self, share: float) -> float:
        return (1 + math.cos(math.pi * share)) / 2


class InverseSquareRoot(Schedule):
    """√(warmup / share): Vaswani et al. 2017, equation 3, in shares of the run in place of steps."""

    def __init__(self, warmup: float = 0.1) -> None:
        super().__init__(warmup)
        if not warmup:
            raise ConfigError("schedule.warmup is 0; an inverse square root falls from the end of a warm-up, as 0.1")

    def shape(self, share: float) -> float:
        return math.sqrt(self.warmup / (self.warmup + (1 - self.warmup) * share))
