"""A table of action values: Watkins & Dayan 1992."""

import torch
from torch import Tensor, nn


class QTable(nn.Module):
    """One value Q(s, a) for each state and action, initialized at 0; states are one-hot vectors."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs] -> [B, outputs]
        return x @ self.values
