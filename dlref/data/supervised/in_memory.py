"""Supervised data held in memory: a batch is an indexing expression, a function of (seed, number of the batch, rank)."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlref.data import generator
from dlref.errors import ConfigError, DataError
from dlref.hardware import device_and_dtype
from dlref.interfaces import Rows, Shard


class Examples(NamedTuple):
    inputs: Tensor  # [B, ...] floating point
    targets: Tensor  # [B] int64 class


@functools.lru_cache(maxsize=4)
def permutation(seed: int, turn: int, rows: int) -> Tensor:
    return torch.randperm(rows, generator=generator(seed, turn))


class Supervised(Rows):
    """Splits of (inputs, targets); a subclass fills `splits`, and may keep inputs small until `prepare` sees a batch.

    Training walks through one endless sequence of shuffled epochs, so every batch has `batch_size` rows.
    Evaluation takes each row once, in order, and its last batch may be smaller.
    """

    unit = "samples"
    splits: dict[str, tuple[Tensor, Tensor]]
    classes: list[str]

    def __init__(self, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"data.batch_size is {batch_size}; it takes 1 or more")
        self.batch_size, self.seed = batch_size, seed

    def prepare(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows as stored -> rows as the network reads them."""
        return inputs.to(dtype)

    def vary(self, rows: Tensor, start: int, mine: slice) -> Tensor:
        """Training rows at the places `mine`, of a batch that begins at `start`, may be changed at random before use."""
        return rows

    @property
    def sizes(self) -> dict[str, int]:
        shape = self.splits["train"][0].shape[1:]
        of_images = {"rows": shape[0], "columns": shape[1]} if len(shape) == 2 else {}
        return {"inputs": math.prod(shape), "outputs": len(self.classes)} | of_images

    @property
    def batches_per_epoch(self) -> float:
        return len(self.splits["train"][0]) / self.batch_size

    def units_per_batch(self, ranks: int) -> float:
        return self.batch_size

    def has(self, split: str) -> bool:
        return split in self.splits and len(self.splits[split][0]) > 0

    def split(self, split: str) -> tuple[Tensor, Tensor]:
        """All rows of a split as stored: inputs [N, ...] and targets [N]."""
        if not self.has(split):
            raise DataError(f"this data set has no '{split}' split; it has {', '.join(filter(self.has, self.splits))}")
        return self.splits[split]

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Examples]:
        device, dtype = device_and_dtype(net)
        inputs, targets = (rows.to(device) for rows in self.split("train"))
        start = first_batch * self.batch_size
        while True:
            mine = shard.share(start, start + self.batch_size)
            index = self.order(mine.start, mine.stop, len(inputs)).to(device)
            # index_select copies rows, where inputs[index] gathers bytes: for images that is seven times as fast.
            rows = self.vary(inputs.index_select(0, index), start, mine)
            yield Examples(self.prepare(rows, dtype), targets.index_select(0, index))
            start += self.batch_size

    def order(self, start: int, stop: int, rows: int) -> Tensor:
        """Which rows stand at the places start..stop of the endless sequence of shuffled epochs."""
        turns = range(start // rows, -(-stop // rows))  # a batch may begin in one epoch and end in the next
        parts = [permutation(self.seed, turn, rows)[max(start - turn * rows, 0) : stop - turn * rows] for turn in turns]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Examples]:
        device, dtype = device_and_dtype(net)
        inputs, targets = self.split(split)
        size = max(self.batch_size, 1000)  # without gradients a larger batch is faster and costs no memory
        for start in range(0, len(inputs), size):
            mine = shard.share(start, min(start + size, len(inputs)))
            if mine.start < mine.stop:  # else there are fewer rows than ranks
                yield Examples(self.prepare(inputs[mine].to(device), dtype), targets[mine].to(device))

    def describe(self) -> dict[str, Any]:
        return {"classes": self.classes}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
