"""The multi-layer perceptron.

Rumelhart, Hinton & Williams 1986; batch norm: Ioffe & Szegedy 2015; dropout: Srivastava et al. 2014.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError


class Noise(nn.Module):
    """Adds normal noise of the given deviation in training."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.deviation * torch.randn_like(x) if self.training else x


class Dropout(nn.Module):
    """Srivastava et al. 2014, the share of dropped units rounded to a 256th.

    One random number of 64 bits decides for eight units: drawing one for each takes a quarter of a step on a CPU.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = round(256 * share)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        bits = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = (bits.view(torch.uint8)[: x.numel()] >= self.dropped).view(x.shape)
        return x * (kept.to(x.dtype) * (256 / (256 - self.dropped)))


class MLP(nn.Module):
    """Affine, (batch norm,) ReLU, (dropout) for each width, then affine; weights and shifts begin as torch draws them.

    Raises ConfigError for widths below 1 and shares outside [0, 1).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        batch_norm: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in widths):
            raise ConfigError(f"network.widths is {list(widths)}; each hidden layer takes 1 unit or more")
        if not (0 <= dropout <= 0.99 and 0 <= input_dropout <= 0.99):
            raise ConfigError(f"network.dropout {dropout} and input_dropout {input_dropout} are shares from 0 to 0.99")
        layers: list[nn.Module] = [nn.Flatten()]
        if input_noise:
            layers.append(Noise(input_noise))
        if input_dropout:
            layers.append(Dropout(input_dropout))
        width = inputs
        for next_width in widths:
            layers.append(nn.Linear(width, next_width, bias=not batch_norm))  # the norm brings its own shift
            if batch_norm:
                layers.append(nn.BatchNorm1d(next_width))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(Dropout(dropout))
            width = next_width
        layers.append(nn.Linear(width, outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:  # [B, ...] -> [B, outputs]
        return self.layers(x)
