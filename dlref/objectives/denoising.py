"""The objective of ladder networks: classification and reconstruction of the inputs (Rasmus et al. 2015)."""

from typing import Any

from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import Denoiser, ExampleBatch, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import at_least_float32
from dlref.objectives.supervised import Classification


class Denoising(Classification):
    """Classification loss plus, in training, `denoising_coef` times the denoising cost of the inputs.

    `denoising_error` is the squared error of the reconstructed inputs, summed over a sample and averaged over samples
    (Rasmus et al. 2015, the cost of the lowest layer), as the network's `denoise(inputs)` computes it for each sample [B].
    Raises ConfigError for a network without `denoise`.
    """

    def __init__(
        self,
        net: nn.Module,
        denoising_coef: float = 0.01,
        label_smoothing: float = 0.0,
        max_norm: float | None = None,
        adversarial_epsilon: float = 0.0,
    ) -> None:
        super().__init__(net, label_smoothing, max_norm, adversarial_epsilon)
        if not declares(net, Denoiser):
            raise ConfigError(
                f"objective Denoising takes a network that can denoise, not {type(net).__name__}; choose model=ladder"
            )
        if denoising_coef < 0:
            raise ConfigError(f"objective.denoising_coef is {denoising_coef}; it takes a weight of 0 or more")
        self.denoising_coef = denoising_coef

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Totals]:
        if not self.training:
            return super().outputs(inputs)
        denoise: Any = self.net.denoise
        outputs, errors = denoise(inputs)
        return at_least_float32(outputs), {"denoising_error": Mean(at_least_float32(errors).sum(), len(errors))}

    def forward(self, batch: ExampleBatch) -> Totals:
        totals = super().forward(batch)
        if self.training:
            denoising_cost = self.denoising_coef * totals["denoising_error"].total
            totals["loss"] = Mean(totals["loss"].total + denoising_cost, totals["loss"].count)
        return totals
