"""Vectors of words that are computed from counts, not learned step by step: Levy & Goldberg 2014."""

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import CountTable, WordVectors


class CountVectors(nn.Module, CountTable, WordVectors):
    """A vector for each word, of V words and D numbers, which an objective fits. Raises ConfigError for a width below 1."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(f"network.width is {width}; it takes 1 or more")
        self.table = nn.Buffer(torch.zeros(vocab_size, width))

    def forward(self, words: Tensor) -> Tensor:  # [...] -> [..., D]
        return self.table[words]

    def vectors(self) -> Tensor:  # [V, D]
        """What stands for each word where it is compared with others."""
        return self.table
