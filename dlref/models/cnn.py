"""The convolutional network (LeCun et al. 1989), with ReLU and max-pooling."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.models.layers import Activation, Dueling, Init, Noise, Norm, activate, hidden_layers, initialize


class CNN(nn.Module):
    """Blocks of convolutions, each ending in 2 × 2 max-pooling, followed by an MLP.

    `blocks` holds the channels of each convolution: [[16, 16], [32]] is two convolutions, pooling, one, pooling. With
    `padding` same a convolution keeps the size of an image, with valid it loses kernel - 1 pixels in each dimension. After each
    block `block_dropout` drops whole channels (Tompson et al. 2015); in the layers of the MLP `dropout` drops units.
    Raises ConfigError if the image becomes empty.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        outputs: int,
        blocks: Sequence[Sequence[int]],
        widths: Sequence[int],
        in_channels: int = 1,
        kernel: int = 3,
        padding: Literal["same", "valid"] = "same",
        activation: Activation = "relu",
        norm: Norm | None = None,
        block_dropout: float = 0.0,
        dropout: float = 0.0,
        input_noise: float = 0.0,
        dueling: bool = False,
        init: Init = "torch",
    ) -> None:
        super().__init__()
        self.shape = (in_channels, rows, columns)
        if padding == "same" and kernel % 2 == 0:
            raise ConfigError(f"network.kernel is {kernel}; with network.padding=same it takes an odd number")
        if any(channels < 1 for block in blocks for channels in block):
            raise ConfigError(f"network.blocks is {list(blocks)}; each convolution takes 1 channel or more")
        layers: list[nn.Module] = [Noise(input_noise)] if input_noise else []
        for number, block in enumerate(blocks):
            for out_channels in block:
                lost = kernel - 1 if padding == "valid" else 0
                rows, columns = rows - lost, columns - lost
                layers.append(
                    nn.Conv2d(in_channels, out_channels, kernel, padding=(kernel - 1 - lost) // 2, bias=norm != "batch")
                )
                if norm is not None:
                    layers.append(nn.BatchNorm2d(out_channels) if norm == "batch" else nn.GroupNorm(1, out_channels))
                layers.append(activate(activation))
                in_channels = out_channels
            rows, columns = rows // 2, columns // 2
            if rows < 1 or columns < 1:
                raise ConfigError(
                    f"nothing is left of an image of {self.shape[1]} × {self.shape[2]} after block {number + 1} of "
                    f"network.blocks {list(blocks)}; take fewer blocks, a smaller network.kernel or padding=same"
                )
            layers.append(nn.MaxPool2d(2))
            if block_dropout:
                layers.append(nn.Dropout2d(block_dropout))
        self.features = nn.Sequential(*layers)
        inputs = in_channels * rows * columns
        hidden = hidden_layers(inputs, widths, activation, norm, dropout)
        self.layers = nn.Sequential(
            nn.Flatten(), *hidden, (Dueling if dueling else nn.Linear)([inputs, *widths][-1], outputs)
        )
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:  # [B, rows, columns] or [B, in_channels, rows, columns] -> [B, outputs]
        # Channels last is the memory format of the fast convolutions of CPUs and tensor cores; values and shapes are the same.
        images = x.view(-1, *self.shape).contiguous(memory_format=torch.channels_last)
        return self.layers(self.features(images))
