"""The exponential moving average of a network's weights, for evaluation (Polyak & Juditsky 1992)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def statistics(module: nn.Module) -> list[Tensor]:
    """The running means and variances of all batch norms."""
    layers = [layer for layer in module.modules() if isinstance(layer, BATCH_NORMS)]
    return [part for layer in layers for part in (layer.running_mean, layer.running_var) if part is not None]


class ExponentialAverage(AveragedModel):
    """θ̄ ← decay θ̄ + (1 - decay) θ after each step, initialized as θ; batch norm's running statistics likewise.

    `AveragedModel` would copy the statistics, as it does every buffer, but those of the trained weights do not fit the
    averaged weights. Their average is an approximation: exact ones take an epoch of the training data.
    """

    module: Any  # of the class that is averaged

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averaged = statistics(self.module)
        before = [part.clone() for part in averaged]
        decay = self.decay if before and int(self.n_averaged) else 0.0
        super().update_parameters(model)  # which copies all buffers
        for part, old in zip(averaged, before, strict=True):
            part.lerp_(old, decay)
