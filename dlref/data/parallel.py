"""Pairs of lines, a source and a target, read in batches of about equally many tokens."""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlref.data import Shard, generator, place_of
from dlref.data.sides import Lines, Side, learn_sides
from dlref.data.text import Level
from dlref.errors import ConfigError, DataError

logger = logging.getLogger("dlref")
Texts = list[tuple[str, str]]


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


class ParallelText:
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
        self.pairs: dict[str, Texts] = {}
        self.lines: dict[str, tuple[Lines, Lines]] = {}

    def take(
        self,
        splits: Mapping[str, Texts],
        level: Level,
        minimum: int = 1,
        pieces: int = 8000,
        lowercase: bool = False,
        longest: int | None = None,
    ) -> None:
        """Learn both sides from `train`, and encode all; training leaves out empty lines and more than `longest` tokens."""
        self.pairs = dict(splits)
        train = [pair for pair in splits["train"] if pair[0].strip() and pair[1].strip()]
        self.pairs["train"] = self.kept(train, len(splits["train"]), "have an empty side")
        self.source, self.target = learn_sides(train, level, minimum, pieces, lowercase)
        for split, pairs in list(self.pairs.items()):
            sides = [side.ids([pair[n] for pair in pairs]) for n, side in enumerate((self.source, self.target))]
            if split == "train" and longest is not None:
                keep = [max(len(one), len(other)) <= longest for one, other in zip(*sides, strict=True)]
                sides = [list(itertools.compress(side, keep)) for side in sides]
                self.pairs[split] = self.kept(
                    list(itertools.compress(pairs, keep)), len(pairs), f"are longer than data.longest={longest} tokens"
                )
            self.lines[split] = (Lines.of(sides[0]), Lines.of(sides[1]))
        sources = {split: [source for source, _ in pairs] for split, pairs in self.pairs.items()}
        shares = {split: overlap(sources["train"], sources[split]) for split in sources if split != "train"}
        if said := [f"{share:.2%} of those of {split}" for split, share in shares.items() if share]:
            logger.info("of the sources, %s also occur in train", " and ".join(said))

    @staticmethod
    def kept(pairs: Texts, count: int, why: str) -> Texts:
        """These, of so many; says how many are left out, and raises DataError where all are."""
        if not pairs:
            raise DataError(f"no pair of lines is left to train on: all {count:,} {why}")
        if len(pairs) < count:
            logger.info("%s of %s training pairs %s and are left out", f"{count - len(pairs):,}", f"{count:,}", why)
        return pairs

    @property
    def sizes(self) -> dict[str, int]:
        return {"source_vocab_size": len(self.source.vocabulary), "target_vocab_size": len(self.target.vocabulary)}

    @property
    def batches_per_pass(self) -> float:
        return max(round(len(self.pairs["train"]) / self.batch_size), 1)

    def units_per_batch(self, ranks: int) -> float:
        return int(self.lines["train"][1].lengths.sum()) / self.batches_per_pass

    def has(self, split: str) -> bool:
        return bool(self.pairs.get(split))

    def texts(self, split: str) -> Texts:
        """The pairs of a split as they were read, in order."""
        if not self.has(split):
            raise DataError(f"this data set has no '{split}' split; it has {', '.join(filter(self.has, self.pairs))}")
        return self.pairs[split]

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Pairs]:
        count = int(self.batches_per_pass)
        for turn in itertools.count(first_batch // count):
            skip = max(first_batch - turn * count, 0)
            yield from self.read("train", count, generator(self.seed, 4, turn), skip, net, shard)

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Pairs]:
        count = -(-len(self.texts(split)) // self.batch_size)
        for pairs in self.read(split, count, None, 0, net, shard):
            if len(pairs.source):
                yield pairs

    def read(
        self, split: str, count: int, random: torch.Generator | None, skip: int, net: nn.Module, shard: Shard
    ) -> Iterator[Pairs]:
        """This rank's rows of a split in so many batches, without the first `skip`."""
        device = place_of(net)[0]
        lengths = torch.stack([lines.lengths for lines in self.lines[split]], dim=1)
        source, target = (lines.to(device) for lines in self.lines[split])
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
