"""Learning-rate schedules: the factor on the optimizer's learning rate at each step, by the fraction of the run that is done.

Of N steps let the first W be the warm-up. Step n of these has the factor n / W: step 1 has 1 / W, step W has 1. Later steps
follow `shape`, evaluated at the fraction that is done before them. So step W + 1 (without warm-up, step 1) has the factor 1
too, and the last step is one step before the end of the curve. With M = N - W and `final` f its factor is

    Constant            1
    Linear              f + (1 - f) / M
    Cosine              f + (1 - f) sin²(π / 2M)
    InverseSquareRoot   √(W / (N - 1))
"""

import math

from dlref.errors import ConfigError


class Schedule:
    """Linear warm-up over the fraction `warmup` of the run, then `shape`, which falls from 1 to `final`.

    A fraction rather than a number of steps, so that a run limited by seconds follows the same curve.
    """

    def __init__(self, warmup: float = 0.0, final: float = 0.0) -> None:
        if not (0 <= warmup < 1 and 0 <= final <= 1):
            raise ConfigError(
                f"schedule.warmup is {warmup}, a fraction of the run from 0 to below 1, and final {final}, a factor from 0 to 1"
            )
        self.warmup, self.final = warmup, final

    def __call__(self, before: float, after: float) -> float:
        """The factor of a step, given the fractions of the run that are done before and after it."""
        if before < self.warmup:
            return min(after / self.warmup, 1.0)
        return self.final + (1 - self.final) * self.shape((min(before, 1.0) - self.warmup) / (1 - self.warmup))

    def shape(self, fraction: float) -> float:
        """The curve after the warm-up: 1 at fraction 0, the end of the warm-up; 0 at fraction 1, the end of the run."""
        raise NotImplementedError


class Constant(Schedule):
    def __init__(self, warmup: float = 0.0) -> None:
        super().__init__(warmup)

    def shape(self, fraction: float) -> float:
        return 1.0


class Linear(Schedule):
    def shape(self, fraction: float) -> float:
        return 1.0 - fraction


class Cosine(Schedule):
    """Loshchilov & Hutter 2017, equation 5, without restarts."""

    def shape(self, fraction: float) -> float:
        return (1 + math.cos(math.pi * fraction)) / 2


class InverseSquareRoot(Schedule):
    """√(warmup / done): Vaswani et al. 2017, equation 3, in fractions of the run instead of steps."""

    def __init__(self, warmup: float = 0.1) -> None:
        super().__init__(warmup)
        if not warmup:
            raise ConfigError("schedule.warmup is 0; an inverse square root falls from the end of a warm-up, as 0.1")

    def shape(self, fraction: float) -> float:
        return math.sqrt(self.warmup / (self.warmup + (1 - self.warmup) * fraction))
