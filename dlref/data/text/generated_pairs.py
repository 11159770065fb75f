"""Pairs of short lines that follow a rule, generated at random or read from a file of *Deep Learning from Scratch 2*."""

import os
from pathlib import Path

import torch
from torch import Tensor

from dlref.data import generator
from dlref.data.text.parallel import ParallelText
from dlref.data.text.text_files import lines_of
from dlref.errors import ConfigError, DataError
from dlref.interfaces import HeldOut


class GeneratedPairs(ParallelText, HeldOut):
    """`size` pairs, tokenized by characters. All sources are distinct, so that none of `eval` and `test` occurs in training.

    `bucket_noise` mixes lengths within a batch: lines of one length are of one format, and such batches train less well.
    A subclass gives the sampling `weights` [N] of all possible pairs, and with `pair` the lines of each.
    """

    split_settings = ("seed", "size", "eval_size", "test_size")

    def __init__(
        self,
        file: Path | None = None,
        size: int = 50_000,
        eval_size: int = 5_000,
        test_size: int = 5_000,
        batch_size: int = 128,
        bucket_noise: float = 16.0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, bucket_noise, seed)
        pairs = self.sampled(size) if file is None else read_pairs(Path(os.path.expanduser(file)))
        if eval_size + test_size >= len(pairs):
            sizes = f"data.eval_size {eval_size:,} and test_size {test_size:,} of {len(pairs):,} distinct pairs"
            raise ConfigError(f"{sizes} leave none to train on; lower them")
        order = torch.randperm(len(pairs), generator=generator(seed, 1)).tolist()
        pairs = [pairs[position] for position in order]
        train = len(pairs) - eval_size - test_size
        splits = {"train": pairs[:train], "eval": pairs[train : train + eval_size], "test": pairs[train + eval_size :]}
        self.encode(splits, "characters")

    def weights(self) -> Tensor:  # [N]
        """How likely each pair is, up to a constant; 0 for what is no pair."""
        raise NotImplementedError

    def pair(self, number: int) -> tuple[str, str]:
        """The source and the target of the pair with this index in `weights`."""
        raise NotImplementedError

    def sampled(self, size: int) -> list[tuple[str, str]]:
        """Sample pairs without replacement."""
        weights = self.weights()
        most = int(weights.count_nonzero())
        if not 1 <= size <= most:
            raise ConfigError(f"data.size is {size:,}; it takes 1 or more, and there are {most:,} distinct ones")
        numbers = torch.multinomial(weights, size, replacement=False, generator=generator(self.seed))
        return [self.pair(number) for number in numbers.tolist()]


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The lines `source_target` of a file, stripped of spaces; only the first of each source."""
    if not os.path.isfile(path):
        raise DataError(f"{path} is not a file; data.file takes one of lines as source_target")
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines_of(path), start=1):
        source, separator, target = line.partition("_")
        if not separator:
            raise DataError(f"{path}, line {number}, has no '_' between a source and a target: {line[:40]!r}")
        pairs.setdefault(source.strip(), target.strip())
    return list(pairs.items())
