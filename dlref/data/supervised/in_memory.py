"""Supervised data held in memory: a batch is an indexing expression, a function of (seed, batch number, rank)."""

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
    targets: Tensor  # [B] int64 class indices, or [B, L] floating point


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, rows: int) -> Tensor:
    return torch.randperm(rows, generator=generator(seed, epoch))


class InMemory(Rows):
    """Splits of (inputs, targets) in memory; a subclass fills `splits`, and may store inputs compactly until `prepare`.

    Training runs through one endless sequence of shuffled epochs, so every batch has `batch_size` rows.
    Evaluation reads each row once, in order, and its last batch may be smaller.
    """

    unit = "samples"
    splits: dict[str, tuple[Tensor, Tensor]]
    classes: list[str]

    def __init__(self, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"data.batch_size is {batch_size}; it takes 1 or more")
        self.batch_size, self.seed = batch_size, seed

    def prepare(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows as stored -> network inputs."""
        return inputs.to(dtype)

    def augment(self, rows: Tensor, batch_start: int, shard_rows: slice) -> Tensor:
        """Training rows `shard_rows` of the batch that starts at `batch_start`, randomly augmented; unchanged here."""
        return rows

    @property
    def sizes(self) -> dict[str, int]:
        shape = self.splits["train"][0].shape[1:]
        image_sizes = {"rows": shape[0], "columns": shape[1]} if len(shape) == 2 else {}
        return {"inputs": math.prod(shape), "outputs": len(self.classes)} | image_sizes

    @property
    def batches_per_epoch(self) -> float:
        return len(self.splits["train"][0]) / self.batch_size

    def units_per_batch(self, ranks: int) -> float:
        return self.batch_size

    def has(self, split: str) -> bool:
        return split in self.splits and len(self.splits[split][0]) > 0

    def split(self, split: str) -> tuple[Tensor, Tensor]:
        """All rows of a split as stored: inputs [N, ...] and targets [N] or [N, L]."""
        if not self.has(split):
            raise DataError(f"this data set has no '{split}' split; it has {', '.join(filter(self.has, self.splits))}")
        return self.splits[split]

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Examples]:
        device, dtype = device_and_dtype(net)
        inputs, targets = (rows.to(device) for rows in self.split("train"))
        start = first_batch * self.batch_size
        while True:
            shard_rows = shard.share(start, start + self.batch_size)
            index = self.shuffled(shard_rows.start, shard_rows.stop, len(inputs)).to(device)
            # index_select copies rows, where inputs[index] gathers bytes: for images that is seven times as fast.
            rows = self.augment(inputs.index_select(0, index), start, shard_rows)
            yield Examples(self.prepare(rows, dtype), targets.index_select(0, index))
            start += self.batch_size

    def shuffled(self, start: int, stop: int, rows: int) -> Tensor:
        """Row indices at positions start..stop of the endless sequence of shuffled epochs."""
        epochs = range(start // rows, -(-stop // rows))  # a batch may start in one epoch and end in the next
        parts = [
            permutation(self.seed, epoch, rows)[max(start - epoch * rows, 0) : stop - epoch * rows] for epoch in epochs
        ]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Examples]:
        device, dtype = device_and_dtype(net)
        inputs, targets = self.split(split)
        size = max(self.batch_size, 1000)  # without gradients a larger batch is faster and costs no memory
        for start in range(0, len(inputs), size):
            rows = shard.share(start, min(start + size, len(inputs)))
            if rows.start < rows.stop:  # else there are fewer rows than ranks
                yield Examples(self.prepare(inputs[rows].to(device), dtype), targets[rows].to(device))

    def describe(self) -> dict[str, Any]:
        return {"classes": self.classes}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
