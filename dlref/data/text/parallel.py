"""Pairs of lines, a source and a target, read in batches of about equally many tokens."""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data import generator
from dlref.data.text.encoded_pairs import EncodedPairs, Split, Texts
from dlref.data.text.line_encoder import Lines, Side, blocks, learn_sides
from dlref.data.text.tokenizer import Level
from dlref.errors import ConfigError, DataError
from dlref.hardware import device_and_dtype
from dlref.interfaces import ParallelData, Shard

logger = logging.getLogger("dlref")


class Pairs(NamedTuple):
    """A batch; legend: B pairs, S tokens of the longest source, T of the longest target, ends counted."""

    source: Tensor  # [B, S] int64, ends with END, then PAD
    visible: Tensor  # [B, S] bool: what is not padding
    tokens: Tensor  # [B, T] int64: BEGIN and the target, then PAD: what the decoder reads
    targets: Tensor  # [B, T] int64: the target and END, then PAD: what it is to write
    counted: Tensor  # [B, T] bool: which targets are not padding


def overlap(train: Iterable[str], other: Sequence[str]) -> float:
    """The share of the other sources that also occur among those of training: what can be known by heart."""
    seen = set(train)
    return sum(source in seen for source in other) / max(len(other), 1)


def arranged(lengths: Tensor, batches: int, random: torch.Generator | None, jitter: float) -> list[Tensor]:
    """Lines of source and target lengths [L, 2] parted into so many batches [B] of similar lengths, all of similar size.

    Sorted by the target's length they fall into √batches groups, in each of which they are sorted by the source's, up
    and down in turn; this row is cut where equally many tokens lie between. With `random`, lines of equal lengths and the
    batches are in random order, and lengths are sorted as if they were longer by normal noise of deviation `jitter`.
    """
    count = len(lengths)
    rows = torch.arange(count) if random is None else torch.randperm(count, generator=random)
    sizes = lengths[rows].double()
    if random is not None:
        sizes += jitter * torch.randn(sizes.shape, generator=random, dtype=sizes.dtype)
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
    return [parts[place] for place in order.tolist()]


def encode_pairs(
    splits: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    level: Level,
    minimum: int = 1,
    pieces: int = 8000,
    lowercase: bool = False,
    longest: int | None = None,
) -> EncodedPairs:
    """Learn both sides from `train`, and encode all; training leaves out empty lines and more than `longest` tokens."""
    texts = {split: (Texts.of(sources), Texts.of(targets)) for split, (sources, targets) in splits.items()}
    messages, encoded = list[str](), dict[str, Split]()
    filled = np.array([bool(source.strip() and target.strip()) for source, target in zip(*texts["train"], strict=True)])
    count_left_out(filled, "have an empty side", "bring other lines", messages)
    texts["train"] = (texts["train"][0].select(filled), texts["train"][1].select(filled))
    source, target = learn_sides(*texts["train"], level, minimum, pieces, lowercase)
    for split, (sources, targets) in texts.items():
        source_lines, target_lines = (
            Lines.of(itertools.chain.from_iterable(map(side.ids, blocks(lines))))
            for side, lines in ((source, sources), (target, targets))
        )
        encoded[split] = Split((sources, targets), (source_lines, target_lines))
        if split == "train" and longest is not None:
            short = (source_lines.lengths <= longest + 1) & (target_lines.lengths <= longest + 1)  # ends are counted
            count_left_out(short.numpy(), f"are longer than data.longest={longest} tokens", "raise it", messages)
            encoded[split] = Split(
                (sources.select(short.numpy()), targets.select(short.numpy())),
                (source_lines.select(short), target_lines.select(short)),
            )
    sources = encoded["train"].texts[0]
    known = {split: overlap(sources, encoded[split].texts[0]) for split in encoded if split != "train"}
    if parts := [f"{fraction:.2%} of those of {split}" for split, fraction in known.items() if fraction]:
        messages.append(f"of the sources, {' and '.join(parts)} also occur in train")
    return EncodedPairs(source, target, encoded, messages)


def count_left_out(kept: np.ndarray, why: str, remedy: str, messages: list[str]) -> None:  # [L] bool
    """Append how many training pairs are left out; raises DataError if all are."""
    if not kept.any():
        raise DataError(f"no pair of lines is left to train on: all {len(kept):,} {why}; {remedy}")
    if not kept.all():
        messages.append(f"{len(kept) - kept.sum():,} of {len(kept):,} training pairs {why} and are left out")


class ParallelText(ParallelData):
    """Splits of pairs, which a subclass hands to `take`; `batch_size` is the mean number of pairs of a batch.

    A pass over the training pairs has the same number of batches each time. They hold about equally many tokens, those
    of short lines more lines: little of a batch is padding. The more lengths are blurred by `jitter`, in tokens, the more
    of it is, and the more alike are the batches. A batch is a function of the seed, its number and the rank; the ranks
    have consecutive rows of it, as wide as the longest of all.
    """

    unit = "tokens"
    source: Side
    target: Side

    def __init__(self, batch_size: int, jitter: float, seed: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"data.batch_size is {batch_size}; it takes 1 or more")
        self.batch_size, self.jitter, self.seed = batch_size, jitter, seed
        self.splits: dict[str, Split] = {}

    def take(
        self,
        pairs: Mapping[str, Sequence[tuple[str, str]]],
        level: Level,
        minimum: int = 1,
        pieces: int = 8000,
        lowercase: bool = False,
        longest: int | None = None,
    ) -> None:
        """Pairs of lines by split, as `encode_pairs` learns and encodes them."""
        sides = {split: ([one for one, _ in both], [other for _, other in both]) for split, both in pairs.items()}
        self.hold(encode_pairs(sides, level, minimum, pieces, lowercase, longest))

    def hold(self, encoded: EncodedPairs) -> None:
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

    def split(self, split: str) -> Split:
        if not self.has(split):
            raise DataError(f"this data set has no '{split}' split; it has {', '.join(filter(self.has, self.splits))}")
        return self.splits[split]

    def texts(self, split: str) -> list[tuple[str, str]]:
        """The pairs of a split as they were read, in order."""
        return list(zip(*self.split(split).texts, strict=True))

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Pairs]:
        count = int(self.batches_per_epoch)
        for turn in itertools.count(first_batch // count):
            skip = max(first_batch - turn * count, 0)
            yield from self.read("train", count, generator(self.seed, 4, turn), skip, net, shard)

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Pairs]:
        count = -(-len(self.split(split).texts[0]) // self.batch_size)
        for pairs in self.read(split, count, None, 0, net, shard):
            if len(pairs.source):
                yield pairs

    def read(
        self, split: str, count: int, random: torch.Generator | None, skip: int, net: nn.Module, shard: Shard
    ) -> Iterator[Pairs]:
        """This rank's rows of a split in so many batches, without the first `skip`."""
        device = device_and_dtype(net)[0]
        both = self.split(split).lines
        lengths = torch.stack([lines.lengths for lines in both], dim=1)
        source, target = (lines.to(device) for lines in both)
        for rows in arranged(lengths, count, random, self.jitter)[skip:]:
            widths = lengths[rows].amax(0).tolist()
            mine = rows[shard.share(0, len(rows))].to(device)
            tokens, counted = target.padded(mine, widths[1], 0)
            yield Pairs(*source.padded(mine, widths[0], 1), tokens, target.padded(mine, widths[1], 1)[0], counted)

    def describe(self) -> dict[str, Any]:
        return {"source": self.source.describe(), "target": self.target.describe()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
