"""Generated sums of two numbers as text, the task of *Deep Learning from Scratch 2*, chapter 7."""

import torch
from torch import Tensor

from dlref.data import generator
from dlref.data.text.generated_pairs import GeneratedPairs

LARGEST = 999


class Addition(GeneratedPairs):
    """`16+75` to `91`: `size` distinct sums of two numbers up to 999; of `16+75` and `75+16` only one occurs.

    Numbers are uniform below 10, 100 or 1000, each a third of the time, as long as there are unused ones. The numbers of
    digits are then distributed about as in the book's `addition.txt`, which `file` reads instead. Raises ConfigError for
    more sums than there are.
    """

    def weights(self) -> Tensor:
        """Of each first and second number; a coin toss for each pair allows one of its two orders."""
        number = torch.arange(LARGEST + 1)
        weight = torch.stack([(number < 10**digits) / 10.0**digits for digits in (1, 2, 3)]).sum(0, dtype=torch.float64)
        coin = torch.rand(len(weight), len(weight), generator=generator(self.seed, 2)) < 0.5
        allowed = coin.triu(1) | ~coin.T & (number[:, None] > number)
        return (torch.outer(weight, weight) * (allowed + 0.5 * torch.eye(len(weight)))).flatten()

    def pair(self, number: int) -> tuple[str, str]:
        first, second = divmod(number, LARGEST + 1)
        return f"{first}+{second}", str(first + second)
