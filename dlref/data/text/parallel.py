"""Parallel text: pairs of source and target lines, in batches of similar lengths and about equally many tokens."""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data import generator
from dlref.data.text.encoded_pairs import EncodedPairs, ParallelSplit, TextLines
from dlref.data.text.line_encoder import EncodedLines, LineEncoder, chunks, learn_encoders
from dlref.data.text.tokenizer import Level
from dlref.errors import ConfigError, DataError
from dlref.hardware import device_and_dtype
from dlref.interfaces import PairBatch, ParallelData, Shard

logger = logging.getLogger("dlref")


def overlap(train: Iterable[str], other: Sequence[str]) -> float:
    """The fraction of the other sources that also occur in training, so that they can be memorized."""
    seen = set(train)
    return sum(source in seen for source in other) / max(len(other), 1)


def bucketed(lengths: Tensor, batches: int, random: torch.Generator | None, noise: float) -> list[Tensor]:
    """The indices of pairs with these source and target lengths [L, 2], in batches of similar lengths and sizes in tokens.

    Pairs are sorted by target length and divided into √batches groups; each group is sorted by source length, in
    alternating directions, and the whole sequence is cut into batches of equally many tokens. With `random`, pairs of
    equal lengths and the batches are shuffled, and normal noise with std `noise` is added to the lengths before sorting.
    """
    count = len(lengths)
    rows = torch.arange(count) if random is None else torch.randperm(count, generator=random)
    sizes = lengths[rows].double()
    if random is not None:
        sizes += noise * torch.randn(sizes.shape, generator=random, dtype=sizes.dtype)
    order = sizes[:, 1].argsort(stable=True)
    group = torch.arange(count) * max(round(math.sqrt(batches)), 1) // count
    source = sizes[order, 0] - sizes[:, 0].amin()
    key = group * (source.amax() + 1) + torch.where(group % 2 == 0, source, source.amax() - source)
    rows = rows[order[key.argsort(stable=True)]]
    tokens = lengths[rows].sum(1).cumsum(0)
    number = torch.arange(1, batches)
    cuts = torch.searchsorted(tokens, tokens[-1] * number // batches)
    cuts = ((cuts - number).cummax(0).values + number).clamp(min=number, max=count - batches + number)  # none is empty
    parts = rows.tensor_split(cuts)
    order = torch.arange(batches) if random is None else torch.randperm(batches, generator=random)
    return [parts[position] for position in order.tolist()]


def encode_pairs(
    splits: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    level: Level,
    min_freq: int = 1,
    bpe_vocab_size: int = 8000,
    lowercase: bool = False,
    max_len: int | None = None,
) -> EncodedPairs:
    """Learn the encoders from `train` and encode all splits.

    Training leaves out pairs with an empty line, or with more than `max_len` tokens in the source or the target.
    """
    texts = {split: (TextLines.of(sources), TextLines.of(targets)) for split, (sources, targets) in splits.items()}
    messages, encoded = list[str](), dict[str, ParallelSplit]()
    filled = np.array([bool(source.strip() and target.strip()) for source, target in zip(*texts["train"], strict=True)])
    count_left_out(filled, "have an empty line", "bring other lines", messages)
    texts["train"] = (texts["train"][0].select(filled), texts["train"][1].select(filled))
    source, target = learn_encoders(*texts["train"], level, min_freq, bpe_vocab_size, lowercase)
    for split, (sources, targets) in texts.items():
        source_lines, target_lines = (
            EncodedLines.of(itertools.chain.from_iterable(map(encoder.ids, chunks(lines))))
            for encoder, lines in ((source, sources), (target, targets))
        )
        encoded[split] = ParallelSplit((sources, targets), (source_lines, target_lines))
        if split == "train" and max_len is not None:
            short = (source_lines.lengths <= max_len + 1) & (target_lines.lengths <= max_len + 1)  # lengths include END
            count_left_out(short.numpy(), f"are longer than data.max_len={max_len} tokens", "raise it", messages)
            encoded[split] = ParallelSplit(
                (sources.select(short.numpy()), targets.select(short.numpy())),
                (source_lines.select(short), target_lines.select(short)),
            )
    sources = encoded["train"].texts[0]
    overlaps = {split: overlap(sources, encoded[split].texts[0]) for split in encoded if split != "train"}
    if parts := [f"{fraction:.2%} of those of {split}" for split, fraction in overlaps.items() if fraction]:
        messages.append(f"of the sources, {' and '.join(parts)} also occur in train")
    return EncodedPairs(source, target, encoded, messages)


def count_left_out(kept: np.ndarray, why: str, remedy: str, messages: list[str]) -> None:  # [L] bool
    """Add a message of how many training pairs are left out; raises DataError if all are."""
    if not kept.any():
        raise DataError(f"no pair of lines is left to train on: all {len(kept):,} {why}; {remedy}")
    if not kept.all():
        messages.append(f"{len(kept) - kept.sum():,} of {len(kept):,} training pairs {why} and are left out")


class ParallelText(ParallelData):
    """Pairs of lines; a subclass calls `encode` or `set_pairs`. `batch_size` is the mean number of pairs of a batch.

    Every epoch has the same number of batches. They hold about equally many tokens of lines of similar lengths, so that
    little is padding. `bucket_noise`, in tokens, is the std of the noise added to lengths before they are sorted: more of
    it mixes the batches better, and pads them more. A batch is a function of the seed, its number and the rank; each rank
    has consecutive rows of it, padded to the longest line of all ranks.
    """

    unit = "tokens"
    source: LineEncoder
    target: LineEncoder

    def __init__(self, batch_size: int, bucket_noise: float, seed: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"data.batch_size is {batch_size}; it takes 1 or more")
        self.batch_size, self.bucket_noise, self.seed = batch_size, bucket_noise, seed
        self.splits: dict[str, ParallelSplit] = {}

    def encode(self, pairs: Mapping[str, Sequence[tuple[str, str]]], level: Level) -> None:
        """Encode pairs of lines by split."""
        texts = {split: ([one for one, _ in both], [other for _, other in both]) for split, both in pairs.items()}
        self.set_pairs(encode_pairs(texts, level))

    def set_pairs(self, encoded: EncodedPairs) -> None:
        self.source, self.target, self.splits, messages = encoded
        for message in messages:
            logger.info("%s", message)

    @property
    def sizes(self) -> dict[str, int]:
        return {"source_vocab_size": len(self.source.vocabulary), "target_vocab_size": len(self.target.vocabulary)}

    @property
    def batches_per_epoch(self) -> float:
        return max(round(len(self.splits["train"].texts[0]) / self.batch_size), 1)

    def units_per_batch(self, ranks: int) -> float:
        return int(self.splits["train"].lines[1].lengths.sum()) / self.batches_per_epoch

    def has(self, split: str) -> bool:
        return split in self.splits and len(self.splits[split].texts[0]) > 0

    def split(self, split: str) -> ParallelSplit:
        if not self.has(split):
            raise DataError(f"this data set has no '{split}' split; it has {', '.join(filter(self.has, self.splits))}")
        return self.splits[split]

    def texts(self, split: str) -> list[tuple[str, str]]:
        """The pairs of a split as text, in order."""
        return list(zip(*self.split(split).texts, strict=True))

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[PairBatch]:
        count = int(self.batches_per_epoch)
        for epoch in itertools.count(first_batch // count):
            skip = max(first_batch - epoch * count, 0)
            yield from self.epoch("train", count, generator(self.seed, 4, epoch), skip, net, shard)

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[PairBatch]:
        count = -(-len(self.split(split).texts[0]) // self.batch_size)
        for batch in self.epoch(split, count, None, 0, net, shard):
            if len(batch.source):
                yield batch

    def epoch(
        self, split: str, count: int, random: torch.Generator | None, skip: int, net: nn.Module, shard: Shard
    ) -> Iterator[PairBatch]:
        """This rank's rows of a split in `count` batches, without the first `skip` of them."""
        device = device_and_dtype(net)[0]
        both = self.split(split).lines
        lengths = torch.stack([lines.lengths for lines in both], dim=1)
        source, target = (lines.to(device) for lines in both)
        for rows in bucketed(lengths, count, random, self.bucket_noise)[skip:]:
            widths = lengths[rows].amax(0).tolist()
            own_rows = rows[shard.share(0, len(rows))].to(device)
            tokens, counted = target.padded(own_rows, widths[1], 0)
            targets, _ = target.padded(own_rows, widths[1], 1)
            yield PairBatch(*source.padded(own_rows, widths[0], 1), tokens, targets, counted)

    def describe(self) -> dict[str, Any]:
        return {"source": self.source.describe(), "target": self.target.describe()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
