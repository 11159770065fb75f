"""Data: where batches come from. A data set tells a network its sizes and knows nothing of models or training."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn


class Shard(NamedTuple):
    """Which share of every batch is this process's own: number `rank` of `ranks`."""

    rank: int = 0
    ranks: int = 1

    def share(self, start: int, stop: int) -> slice:
        """This rank's consecutive part of the rows start..stop; the parts of all ranks tile them."""
        rows = stop - start
        return slice(start + rows * self.rank // self.ranks, start + rows * (self.rank + 1) // self.ranks)


@runtime_checkable
class Data(Protocol):
    """What the trainer asks of a data set. Constructors take plain keyword arguments, `seed` and `batch_size` among them.

    `batch_size` counts the rows of one batch over all ranks, so the number of ranks changes the speed, not the result.
    What else a data set offers (rows, texts, settings that decide what is held out) it declares: see `dlref.interfaces`.
    """

    unit: str  # what the throughput counts: samples, tokens, words, steps

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that a network needs, by the name of its constructor's argument."""

    @property
    def batches_per_pass(self) -> float:
        """How many batches are one pass over the training split."""

    def units_per_batch(self, ranks: int) -> float:
        """How many units one training batch holds, over all ranks."""

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Any]:
        """Endless training batches from number `first_batch` on, on the device of `net`."""

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Any]:
        """One pass over this rank's share of `train`, `eval` or `test`; raises DataError for a split that is not there."""

    def has(self, split: str) -> bool:
        """Whether there is such a split."""

    def describe(self) -> dict[str, Any]:
        """What using a trained model needs (vocabulary, normalisation, names of classes), as plain values."""

    def state_dict(self) -> dict[str, Any]:
        """What the next training batch depends on beyond its number; empty where it is a function of (seed, number, rank)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that `state_dict` gave, before `train_batches`."""


def place_of(net: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and the floating-point type in which a network expects its input."""
    for tensor in itertools.chain(net.parameters(), net.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def generator(*numbers: int) -> torch.Generator:
    """A random generator that is a function of whole numbers (seed, pass, rank …) and unrelated for different ones."""
    state = 0
    for number in numbers:  # a step of splitmix64 for each number
        state = (state + int(number) + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state % 2**63)
