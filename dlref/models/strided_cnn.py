"""The convolutional network of deep Q-learning: Mnih et al. 2015, extended data table 1."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.models.layers import Dueling, activate, hidden_layers


class StridedCNN(nn.Module):
    """Strided convolutions instead of pooling, then an MLP, with ReLU.

    `convolutions` lists output channels, kernel size and stride. With `dueling` the last layer is `Dueling`, for action
    values. Raises ConfigError if the image is too small for the convolutions.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        outputs: int,
        convolutions: Sequence[Sequence[int]] = ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
        widths: Sequence[int] = (512,),
        in_channels: int = 1,
        dueling: bool = False,
    ) -> None:
        super().__init__()
        self.shape = (in_channels, rows, columns)
        layers: list[nn.Module] = []
        for number, convolution in enumerate(convolutions):
            if len(convolution) != 3 or min(convolution) < 1:
                raise ConfigError(
                    f"network.convolutions has {list(convolution)}; each takes channels, kernel and stride of 1 or more"
                )
            out_channels, kernel, stride = convolution
            rows, columns = (rows - kernel) // stride + 1, (columns - kernel) // stride + 1
            if min(rows, columns) < 1:
                raise ConfigError(
                    f"nothing is left of an image of {self.shape[1]} × {self.shape[2]} after convolution {number + 1} of "
                    "network.convolutions; take fewer, or smaller kernels and strides"
                )
            layers += [nn.Conv2d(in_channels, out_channels, kernel, stride), activate("relu")]
            in_channels = out_channels
        inputs = in_channels * rows * columns
        hidden = hidden_layers(inputs, widths, "relu", norm=None, dropout=0.0)
        last = (Dueling if dueling else nn.Linear)([inputs, *widths][-1], outputs)
        self.layers = nn.Sequential(*layers, nn.Flatten(), *hidden, last)

    def forward(self, x: Tensor) -> Tensor:  # [B, in_channels, rows, columns] -> [B, outputs]
        # The memory format of fast convolutions on CPUs and tensor cores; shape and values stay the same.
        return self.layers(x.view(-1, *self.shape).contiguous(memory_format=torch.channels_last))
