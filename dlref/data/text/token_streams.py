"""A language model's batches: text in parallel columns, piece by piece."""

import itertools
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dlref.data import generator
from dlref.data.text.tokenizer import Tokenizer, Vocabulary
from dlref.errors import ConfigError, DataError
from dlref.hardware import device_and_dtype
from dlref.interfaces import CountedText, FixedContext, Shard, TokenizedText, declares

Order = Literal["fixed", "shifted", "rotated", "shuffled"]
EVAL_LENGTH = 256  # tokens a piece, without any effect on the figures: the state is carried over
EVAL_WINDOWS = 4_096  # tokens a batch of windows, likewise


class Piece(NamedTuple):
    """The next piece of every column of a text; row b goes on where row b of the piece before ended, or nowhere."""

    tokens: Tensor  # [B, T] int64
    targets: Tensor  # [B, T] int64: the token after each; in windows that overlap, [B, S] after each of the last S
    begins: bool  # the columns begin here, so nothing is carried over


def piece(text: Tensor, places: Tensor, begins: bool) -> Piece:  # [N], [B, T]
    """The tokens at these places and those after each, in the type that networks look words up by."""
    return Piece(text[places].long(), text[places + 1].long(), begins)


class LanguageModelText(TokenizedText, CountedText):
    """Splits of consecutive ids, read as `batch_size` parallel columns in pieces of `length` tokens, or slightly fewer.

    A batch is a function of its number and the rank. Training leaves out the tokens that do not divide into columns. Its
    columns are cut at the same places in every pass, or by `order` at others, which are drawn for each pass but the first:
    `shifted` moves all cuts by the same number of tokens, and the text goes on at its beginning behind its end; `rotated`
    begins every column at a place of its own, and goes on at the column's beginning (Press 2019, *Partially shuffling the
    training data to improve language models*). With `shuffled` nothing is carried over: in each pass the text is cut into
    pieces at other places, and these are read in random order, all but what does not divide into batches.

    Evaluation predicts every token but the first once, in `eval_columns` columns: with 1 each token sees all that came
    before it; more are faster, and begin without a past. A network with `interfaces.FixedContext`, which carries nothing,
    sees windows of so many tokens, whatever `eval_columns` says; each window predicts the `eval_stride` that are new in it,
    or all of them where that is not set. Recurrent networks need no windows.
    """

    unit = "tokens"
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    splits: dict[str, Tensor]  # [N] of whole numbers, which may lie on the disk

    def __init__(
        self, batch_size: int, length: int, eval_columns: int, order: Order, seed: int, eval_stride: int | None = None
    ) -> None:
        if min(batch_size, length, eval_columns, 1 if eval_stride is None else eval_stride) < 1:
            values = f"data.batch_size is {batch_size}, length {length}, eval_columns {eval_columns}"
            raise ConfigError(f"{values} and eval_stride {eval_stride}; they take 1 or more, eval_stride also null")
        if eval_stride is not None and eval_stride > length:
            raise ConfigError(
                f"data.eval_stride is {eval_stride}; it takes at most data.length, which is {length}, or null"
            )
        self.batch_size, self.length, self.eval_columns = batch_size, length, eval_columns
        self.order, self.seed, self.eval_stride = order, seed, eval_stride
        self.text_sizes: dict[str, dict[str, int]] = {}

    @property
    def sizes(self) -> dict[str, int]:
        return {"vocab_size": len(self.vocabulary), "context": self.length}

    @property
    def batches_per_epoch(self) -> float:
        if self.order == "shuffled":
            return max((len(self.split("train")) // self.length - 1) // self.batch_size, 1)
        return -(-self.column("train") // self.length)

    def units_per_batch(self, ranks: int) -> float:
        if self.order == "shuffled":
            return self.batch_size * self.length
        return self.batch_size * self.column("train") / self.batches_per_epoch

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
            if split in self.splits:
                few = "it is empty" if not len(self.splits[split]) else "it has 1 token, and the first is not predicted"
                raise DataError(f"this text has no '{split}' split of any use: {few}; bring a longer one")
            raise DataError(f"this text has no '{split}' split; it has {', '.join(filter(self.has, self.splits))}")
        return self.splits[split]

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Piece]:
        device = device_and_dtype(net)[0]
        text = self.split("train").to(device)
        if self.order == "shuffled":
            yield from self.shuffled(text, shard, first_batch)
            return
        column, pieces = self.column("train"), int(self.batches_per_epoch)
        rows, number = shard.share(0, self.batch_size), first_batch
        length = -(-column // pieces)  # all alike, where the last of them would else be short
        while True:
            shift, rotation = (part.to(device) for part in self.cuts(number // pieces, column))
            places = torch.arange(number % pieces * length, min((number % pieces + 1) * length, column), device=device)
            places = (places + rotation[rows]) % column
            starts = torch.arange(rows.start, rows.stop, device=device)[:, None] * column
            yield piece(text, (starts + places + shift) % (len(text) - 1), number % pieces == 0)
            number += 1

    def shuffled(self, text: Tensor, shard: Shard, first_batch: int) -> Iterator[Piece]:
        count, here = int(self.batches_per_epoch), torch.arange(self.length, device=text.device)
        pieces = len(text) // self.length - 1
        if pieces < self.batch_size:
            raise DataError(
                f"the train split is too short: {len(text)} tokens are {max(pieces, 0)} pieces of {self.length} and the one "
                f"that is cut anew, for batches of {self.batch_size}; lower data.batch_size or length, or bring more text"
            )
        for turn in itertools.count(first_batch // count):
            random = generator(self.seed, 3, turn)
            shift = torch.randint(self.length, (), generator=random)
            order = torch.randperm(pieces, generator=random)
            starts = (order[: count * self.batch_size] * self.length + shift).view(count, self.batch_size)
            for number in range(max(first_batch - turn * count, 0), count):
                rows = starts[number][shard.share(0, self.batch_size)].to(text.device)
                yield piece(text, rows[:, None] + here, True)

    def cuts(self, number: int, column: int) -> tuple[Tensor, Tensor]:  # [], [B, 1]
        """By how many tokens the columns of an epoch are shifted, and how far each begins behind its cut."""
        shift, rotation = torch.zeros((), dtype=torch.int64), torch.zeros(self.batch_size, 1, dtype=torch.int64)
        random = generator(self.seed, 3, number)
        if number and self.order == "shifted":
            shift.random_(0, len(self.split("train")) - 1, generator=random)
        if number and self.order == "rotated":
            rotation.random_(0, column, generator=random)
        return shift, rotation

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Piece]:
        text = self.split(split).to(device_and_dtype(net)[0])
        if declares(net, FixedContext):
            yield from self.windows(text, net.context, shard)
            return
        columns = min(self.eval_columns, len(text) - 1)
        column = (len(text) - 1) // columns
        rows, used = shard.share(0, columns), columns * column
        if rows.start < rows.stop:
            starts = torch.arange(rows.start, rows.stop, device=text.device)[:, None] * column
            for start in range(0, column, EVAL_LENGTH):
                places = torch.arange(start, min(start + EVAL_LENGTH, column), device=text.device)
                yield piece(text, starts + places, start == 0)
        if used < len(text) - 1 and shard.rank == 0:  # what does not divide, in a column of its own
            yield piece(text, torch.arange(used, len(text) - 1, device=text.device)[None], True)

    def windows(self, text: Tensor, context: int, shard: Shard) -> Iterator[Piece]:
        """Windows of so many tokens, each of which begins a stride behind the one before; only the last ones' are fewer."""
        stride = min(self.eval_stride or context, context)
        first, last = min(context, len(text) - 1), len(text) - 1  # are foretold by the first window, and by all
        starts = torch.arange(stride, max(stride, last - context + 1), stride)
        parts: list[tuple[Tensor, int, int]] = [(torch.zeros(1, dtype=torch.int64), first, first)]
        parts += [(rows, context, stride) for rows in starts.split(max(EVAL_WINDOWS // context, 1)) if len(rows)]
        done = first + len(starts) * stride
        if done < last:
            parts += [(torch.tensor([last - first]), first, last - done)]
        for rows, length, new in parts:
            mine = rows[shard.share(0, len(rows))].to(text.device)
            if len(mine):
                whole = piece(text, mine[:, None] + torch.arange(length, device=text.device), True)
                yield whole._replace(targets=whole.targets[:, length - new :])

    def text_size(self, split: str) -> dict[str, int]:
        """How many `tokens` of a split are predicted, and how many `words` and `characters` of the text these are.

        Words and characters are counted as at these levels, the end of a line as one of each, so they do not depend on the
        vocabulary. The level `words` loses the white space, and so the number of characters; `english` loses both.
        """
        if split not in self.text_sizes:
            self.text_sizes[split] = self.measure(self.split(split))
        return self.text_sizes[split]

    def measure(self, ids: Tensor) -> dict[str, int]:
        size, level = {"tokens": len(ids) - 1}, self.tokenizer.level
        if level == "words":
            return size | {"words": len(ids) - 1}
        if level == "english":
            return size
        tokens = [self.vocabulary.words[id] for id in ids.tolist()]
        text = self.tokenizer.join(tokens)[len(self.tokenizer.join(tokens[:1])) :]
        words = sum(1 for _ in re.finditer(r"\S+", text)) + text.count("\n")
        return size | {"words": words, "characters": len(ids) - 1 if level == "characters" else len(text)}

    def describe(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary.words, "tokenizer": self.tokenizer.describe()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
