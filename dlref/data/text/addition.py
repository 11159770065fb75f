"""Sums of two numbers as text, generated: the task of *Deep Learning from Scratch 2*, chapter 7."""

import torch
from torch import Tensor

from dlref.data import generator
from dlref.data.text.generated_pairs import DrawnPairs

LARGEST = 999


class Addition(DrawnPairs):
    """`16+75` -> `91`: `size` different sums of two numbers up to 999; of `16+75` and `75+16` one occurs.

    Numbers have one, two or three digits equally often (leading zeros left out), but for those that have run out; this
    gives about the shares of the book's `addition.txt`, which `file` reads instead. Raises ConfigError for more than there
    are.
    """

    def chances(self) -> Tensor:
        """Of each first and second number; a coin says which of both orders may be drawn."""
        number = torch.arange(LARGEST + 1)
        one = torch.stack([(number < 10**digits) / 10.0**digits for digits in (1, 2, 3)]).sum(0, dtype=torch.float64)
        coin = torch.rand(len(one), len(one), generator=generator(self.seed, 2)) < 0.5
        first = coin.triu(1) | ~coin.T & (number[:, None] > number)
        return (torch.outer(one, one) * (first + 0.5 * torch.eye(len(one)))).flatten()

    def pair(self, number: int) -> tuple[str, str]:
        one, other = divmod(number, LARGEST + 1)
        return f"{one}+{other}", str(one + other)
