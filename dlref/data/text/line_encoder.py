"""Lines of text as token ids: encoders for the source and the target, and many lines packed into one tensor."""

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

SPECIALS = [PAD, UNKNOWN, BEGIN, END]  # the first words of every vocabulary here, with these ids:
PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID = range(len(SPECIALS))
CHUNK = 2**14  # lines tokenized at once


class EncodedLines(NamedTuple):
    """L lines of token ids, concatenated, each with its BEGIN and END."""

    ids: Tensor  # [N + 1] int32, the last is PAD
    starts: Tensor  # [L] int64
    lengths: Tensor  # [L] int64, with END and without BEGIN

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> "EncodedLines":
        ids, lengths = array("i"), array("q")
        for row in rows:
            ids.append(BEGIN_ID)
            ids.extend(row)
            ids.append(END_ID)
            lengths.append(len(row) + 1)
        ids.append(PAD_ID)
        return cls.packed(torch.from_numpy(np.array(ids, np.int32)), torch.from_numpy(np.array(lengths, np.int64)))

    @classmethod
    def packed(cls, ids: Tensor, lengths: Tensor) -> "EncodedLines":
        return cls(ids, (lengths + 1).cumsum(0) - (lengths + 1), lengths)

    def select(self, rows: Tensor) -> "EncodedLines":  # [L] bool
        """Only these lines."""
        ids = self.ids[:-1][rows.repeat_interleave(self.lengths + 1)]
        return self.packed(torch.cat([ids, self.ids[-1:]]), self.lengths[rows])

    def to(self, device: torch.device) -> "EncodedLines":
        return EncodedLines(*(part.to(device) for part in self))

    def padded(self, rows: Tensor, width: int, skip: int) -> tuple[Tensor, Tensor]:
        """The ids of some lines without the first `skip`, padded [B, width], and a mask of what is not padding [B, width]."""
        positions = torch.arange(width, device=rows.device)
        mask = positions < self.lengths[rows, None]
        positions = torch.where(mask, self.starts[rows, None] + (positions + skip), len(self.ids) - 1)
        return self.ids[positions].long(), mask


class LineEncoder:
    """The tokenizer and vocabulary of the source or of the target: encodes lines as ids and decodes ids to lines."""

    pad, unknown, begin, end = PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, lowercase: bool = False) -> None:
        self.tokenizer, self.vocabulary, self.lowercase = tokenizer, vocabulary, lowercase
        self.word_ids = {word: id for word, id in vocabulary.ids.items() if id >= len(SPECIALS)}

    def ids(self, lines: Sequence[str]) -> list[list[int]]:
        """The token ids of each line; a word that spells a special token is an unknown word."""
        lines = [line.lower() for line in lines] if self.lowercase else lines
        return [[self.word_ids.get(token, UNKNOWN_ID) for token in tokens] for tokens in self.tokenizer.lines(lines)]

    def encode(self, lines: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sources [B, S] int64 with END and padding, and a mask [B, S] of what is not padding."""
        encoded = EncodedLines.of(self.ids(lines))
        return encoded.padded(torch.arange(len(lines)), max(encoded.lengths.tolist(), default=0), 1)

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """The text of the ids before END."""
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        before_end = itertools.takewhile(lambda id: id != END_ID, ids)
        return self.tokenizer.join(self.vocabulary.words[id] for id in before_end if id not in (PAD_ID, BEGIN_ID))

    def describe(self) -> dict[str, Any]:
        """Plain values, from which `described` makes an equal encoder."""
        words, tokenizer = self.vocabulary.words, self.tokenizer.describe()
        return {"vocabulary": words, "tokenizer": tokenizer, "lowercase": self.lowercase}

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> "LineEncoder":
        tokenizer = Tokenizer.described(description["tokenizer"])
        return cls(tokenizer, Vocabulary(description["vocabulary"]), description["lowercase"])


def learn_encoders(
    sources: Sequence[str], targets: Sequence[str], level: Level, min_freq: int, bpe_vocab_size: int, lowercase: bool
) -> tuple[LineEncoder, LineEncoder]:
    """The encoders of sources and targets: `bpe` is learned from both together, and they share one encoder.

    At other levels each has a vocabulary of its own, of the tokens that occur `min_freq` times. Raises ConfigError for
    impossible numbers.
    """
    if min_freq < 1:
        raise ConfigError(f"data.min_freq is {min_freq}; it takes 1 or more")
    if level == "bpe":
        both = itertools.chain.from_iterable(zip(sources, targets, strict=True))
        tokenizer = Tokenizer(level, learn_bpe(map(str.lower, both) if lowercase else both, bpe_vocab_size, SPECIALS))
        shared = LineEncoder(tokenizer, Vocabulary.of_text(tokenizer, {}, min_freq, SPECIALS), lowercase)
        return shared, shared
    tokenizer, encoders = Tokenizer(level), list[LineEncoder]()
    for name, lines in (("source", sources), ("target", targets)):
        counts: Counter[str] = Counter()
        for chunk in chunks(lines):
            chunk = [line.lower() for line in chunk] if lowercase else chunk
            counts.update(itertools.chain.from_iterable(tokenizer.lines(chunk)))
        if not counts:
            raise DataError(f"the {name}s of the training pairs hold no word; bring other lines, or set data.level")
        encoders.append(LineEncoder(tokenizer, Vocabulary.of_text(tokenizer, counts, min_freq, SPECIALS), lowercase))
    return encoders[0], encoders[1]


def chunks(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    """A few thousand lines at a time, so that their tokens need not all be in memory."""
    return (lines[start : start + CHUNK] for start in range(0, len(lines), CHUNK))
