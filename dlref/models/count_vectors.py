"""Word vectors that are computed from co-occurrence counts in closed form: Levy & Goldberg 2014."""

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import CountTable, WordVectors


class CountVectors(nn.Module, CountTable, WordVectors):
    """Word vectors of V words in D dimensions, which an objective fits. Raises ConfigError for a width below 1."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(f"network.width is {width}; it takes 1 or more")
        self.table = nn.Buffer(torch.zeros(vocab_size, width))

    def forward(self, words: Tensor) -> Tensor:  # [...] -> [..., D]
        return self.table[words]

    def vectors(self) -> Tensor:  # [V, D]
        """The table itself."""
        return self.table
