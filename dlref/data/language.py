"""A language model's batches: text in parallel columns, piece by piece."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from dlref.data import Shard, place_of
from dlref.data.text import Tokenizer, Vocabulary
from dlref.errors import ConfigError, DataError

EVAL_LENGTH = 256  # tokens a piece, without any effect on the figures: the state is carried over


class Piece(NamedTuple):
    """The next piece of every column of a text; row b goes on where row b of the piece before ended."""

    tokens: Tensor  # [B, T] int64
    targets: Tensor  # [B, T] int64: the token after each
    begins: bool  # the columns begin here, so nothing is carried over


def piece(tokens: Tensor, targets: Tensor, start: int, length: int) -> Piece:
    """A part of all columns, in the type that networks look words up by."""
    part = slice(start, start + length)
    return Piece(tokens[:, part].long(), targets[:, part].long(), start == 0)


class LanguageModelText:
    """Splits of consecutive ids, read as `batch_size` parallel columns in pieces of `length` tokens, or slightly fewer.

    A batch is a function of its number and the rank. Training leaves out the tokens that do not divide into columns.
    Evaluation predicts every token but the first once, in `eval_columns` columns: with 1 each token sees all that came
    before it; more are faster, and begin without a past.
    """

    unit = "tokens"
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    splits: dict[str, Tensor]  # [N] of whole numbers, which may lie on the disk

    def __init__(self, batch_size: int, length: int, eval_columns: int, seed: int) -> None:
        if min(batch_size, length, eval_columns) < 1:
            values = f"data.batch_size is {batch_size}, length {length} and eval_columns {eval_columns}"
            raise ConfigError(f"{values}; they take 1 or more")
        self.batch_size, self.length, self.eval_columns, self.seed = batch_size, length, eval_columns, seed

    @property
    def sizes(self) -> dict[str, int]:
        return {"vocab_size": len(self.vocabulary)}

    @property
    def batches_per_pass(self) -> float:
        return -(-self.column("train") // self.length)

    def units_per_batch(self, ranks: int) -> float:
        return self.batch_size * self.column("train") / self.batches_per_pass

    def column(self, split: str) -> int:
        """How many tokens each training column predicts."""
        tokens = (len(self.split(split)) - 1) // self.batch_size
        if tokens < 1:
            counts = f"{len(self.splits[split])} tokens do not fill {self.batch_size} columns"
            raise DataError(f"the {split} split is too short: {counts}; lower data.batch_size or bring more text")
        return tokens

    def has(self, split: str) -> bool:
        return split in self.splits and len(self.splits[split]) > 1

    def split(self, split: str) -> Tensor:
        if not self.has(split):
            raise DataError(f"this text has no '{split}' split; it has {', '.join(filter(self.has, self.splits))}")
        return self.splits[split]

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Piece]:
        text, column = self.split("train").to(place_of(net)[0]), self.column("train")
        rows = shard.share(0, self.batch_size)
        used = self.batch_size * column
        tokens, targets = text[:used].view(-1, column)[rows], text[1 : used + 1].view(-1, column)[rows]
        number, pieces = first_batch, int(self.batches_per_pass)
        length = -(-column // pieces)  # all alike, where the last of them would else be short
        while True:
            yield piece(tokens, targets, number % pieces * length, length)
            number += 1

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Piece]:
        text = self.split(split).to(place_of(net)[0])
        columns = min(self.eval_columns, len(text) - 1)
        column = (len(text) - 1) // columns
        rows, used = shard.share(0, columns), columns * column
        if rows.start < rows.stop:
            tokens, targets = text[:used].view(columns, column)[rows], text[1 : used + 1].view(columns, column)[rows]
            for start in range(0, column, EVAL_LENGTH):
                yield piece(tokens, targets, start, EVAL_LENGTH)
        if used < len(text) - 1 and shard.rank == 0:  # what does not divide, in a column of its own
            yield piece(text[None, used:-1], text[None, used + 1 :], 0, columns)

    def describe(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary.words, "tokenizer": self.tokenizer.describe()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
