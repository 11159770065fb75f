"""The two sides of pairs of lines: how a line becomes ids, ids a line, and many lines one tensor."""

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlref.data.text.tokenizer import BEGIN, END, PAD, UNKNOWN, Level, Tokenizer, Vocabulary, learn_bpe
from dlref.errors import ConfigError, DataError

SPECIALS = [PAD, UNKNOWN, BEGIN, END]  # the head of every vocabulary here, with these ids:
PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID = range(len(SPECIALS))
BLOCK = 2**14  # lines that are tokenized at once


class Lines(NamedTuple):
    """Many lines of ids one behind the other, each with its BEGIN and END."""

    ids: Tensor  # [N + 1] int32, the last of which is PAD
    starts: Tensor  # [L] int64
    lengths: Tensor  # [L] int64, END counted and BEGIN not

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> "Lines":
        ids, lengths = array("i"), array("q")
        for row in rows:
            ids.append(BEGIN_ID)
            ids.extend(row)
            ids.append(END_ID)
            lengths.append(len(row) + 1)
        ids.append(PAD_ID)
        return cls.packed(torch.from_numpy(np.array(ids, np.int32)), torch.from_numpy(np.array(lengths, np.int64)))

    @classmethod
    def packed(cls, ids: Tensor, lengths: Tensor) -> "Lines":
        return cls(ids, (lengths + 1).cumsum(0) - (lengths + 1), lengths)

    def select(self, rows: Tensor) -> "Lines":  # [L] bool
        """These lines alone."""
        ids = self.ids[:-1][rows.repeat_interleave(self.lengths + 1)]
        return self.packed(torch.cat([ids, self.ids[-1:]]), self.lengths[rows])

    def to(self, device: torch.device) -> "Lines":
        return Lines(*(part.to(device) for part in self))

    def padded(self, rows: Tensor, width: int, skip: int) -> tuple[Tensor, Tensor]:
        """The ids of some lines [B, width] from BEGIN on, or from the `skip`th behind it, and which of them are real."""
        places = torch.arange(width, device=rows.device)
        real = places < self.lengths[rows, None]
        places = torch.where(real, self.starts[rows, None] + (places + skip), len(self.ids) - 1)
        return self.ids[places].long(), real


class Side:
    """One of two languages: how its lines become ids, and ids a line."""

    pad, unknown, begin, end = PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, lowercase: bool = False) -> None:
        self.tokenizer, self.vocabulary, self.lowercase = tokenizer, vocabulary, lowercase
        self.known = {word: id for word, id in vocabulary.ids.items() if id >= len(SPECIALS)}

    def ids(self, lines: Sequence[str]) -> list[list[int]]:
        """Of each line; where it spells a special token, that is an unknown word."""
        lines = [line.lower() for line in lines] if self.lowercase else lines
        return [[self.known.get(token, UNKNOWN_ID) for token in tokens] for tokens in self.tokenizer.lines(lines)]

    def encode(self, lines: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sources [B, S] int64, ended and padded, and which of their places are visible [B, S] bool."""
        rows = Lines.of(self.ids(lines))
        return rows.padded(torch.arange(len(lines)), max(rows.lengths.tolist(), default=0), 1)

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """The text of ids before END."""
        numbers = ids.tolist() if isinstance(ids, Tensor) else ids
        written = itertools.takewhile(lambda id: id != END_ID, numbers)
        return self.tokenizer.join(self.vocabulary.words[id] for id in written if id not in (PAD_ID, BEGIN_ID))

    def describe(self) -> dict[str, Any]:
        """Plain values, from which `described` makes the same."""
        words, tokenizer = self.vocabulary.words, self.tokenizer.describe()
        return {"vocabulary": words, "tokenizer": tokenizer, "lowercase": self.lowercase}

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> "Side":
        tokenizer = Tokenizer.described(description["tokenizer"])
        return cls(tokenizer, Vocabulary(description["vocabulary"]), description["lowercase"])


def learn_sides(
    sources: Sequence[str], targets: Sequence[str], level: Level, minimum: int, pieces: int, lowercase: bool
) -> tuple[Side, Side]:
    """The two sides of these pairs: `bpe` is learned from both together, and they share it and its vocabulary.

    Other levels have a vocabulary a side, of what occurs `minimum` times. Raises ConfigError for numbers of no sense.
    """
    if minimum < 1:
        raise ConfigError(f"data.minimum is {minimum}; it takes 1 or more")
    if level == "bpe":
        both = itertools.chain.from_iterable(zip(sources, targets, strict=True))
        tokenizer = Tokenizer(level, learn_bpe(map(str.lower, both) if lowercase else both, pieces, SPECIALS))
        joint = Side(tokenizer, Vocabulary.of_text(tokenizer, {}, minimum, SPECIALS), lowercase)
        return joint, joint
    tokenizer, sides = Tokenizer(level), list[Side]()
    for name, texts in (("source", sources), ("target", targets)):
        seen: Counter[str] = Counter()
        for lines in blocks(texts):
            seen.update(
                itertools.chain.from_iterable(tokenizer.lines([x.lower() for x in lines] if lowercase else lines))
            )
        if not seen:
            raise DataError(
                f"the {name} side of the training pairs holds no word; bring other lines, or set data.level"
            )
        sides.append(Side(tokenizer, Vocabulary.of_text(tokenizer, seen, minimum, SPECIALS), lowercase))
    return sides[0], sides[1]


def blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """A few thousand lines at a time, so that what is made of them need not all be in memory."""
    return (texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK))
