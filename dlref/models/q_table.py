"""A table of values: Watkins & Dayan 1992."""

import torch
from torch import Tensor, nn


class QTable(nn.Module):
    """One value for each state and action, an embedding that is read by one-hot states. All begin at 0."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs] -> [B, outputs]
        return x @ self.values
