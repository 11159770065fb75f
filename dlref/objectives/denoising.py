"""Classification by a ladder network, which is also asked for its inputs without noise."""

from typing import Any

from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import Denoiser, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import at_least_float32
from dlref.objectives.supervised import Classification


class Denoising(Classification):
    """In training the squared error of the estimated inputs, summed over them, times `denoising`, joins the loss.

    The network's `denoise(inputs)` gives its outputs and that error of each sample [B]; raises ConfigError without it.
    `denoising_error` is that sum, mean of the samples (Rasmus et al. 2015, the cost of the lowest layer).
    """

    def __init__(
        self,
        net: nn.Module,
        denoising: float = 0.01,
        label_smoothing: float = 0.0,
        max_norm: float | None = None,
        adversarial: float = 0.0,
    ) -> None:
        super().__init__(net, label_smoothing, max_norm, adversarial)
        if not declares(net, Denoiser):
            raise ConfigError(
                f"objective Denoising takes a network that can denoise, not {type(net).__name__}; choose model=ladder"
            )
        if denoising < 0:
            raise ConfigError(f"objective.denoising is {denoising}; it takes a weight from 0 on")
        self.denoising = denoising

    def read(self, inputs: Tensor) -> tuple[Tensor, Totals]:
        if not self.training:
            return super().read(inputs)
        denoise: Any = self.net.denoise
        outputs, errors = denoise(inputs)
        return at_least_float32(outputs), {"denoising_error": Mean(at_least_float32(errors).sum(), len(errors))}

    def forward(self, batch: Any) -> Totals:
        totals = super().forward(batch)
        if self.training:
            added = self.denoising * totals["denoising_error"].total
            totals["loss"] = Mean(totals["loss"].total + added, totals["loss"].count)
        return totals
