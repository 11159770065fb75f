"""Batches for language models: a text cut into parallel streams, each read in consecutive segments.

B streams or segments of a batch, T tokens of a segment.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dlref.data import generator
from dlref.data.text.tokenizer import Tokenizer, Vocabulary
from dlref.errors import ConfigError, DataError
from dlref.hardware import device_and_dtype
from dlref.interfaces import CountedText, FixedContext, Shard, TokenBatch, TokenizedText, declares

Order = Literal["fixed", "shifted", "rotated", "shuffled"]
EVAL_LENGTH = 256  # tokens of an evaluation segment; no effect on metrics, since the state is carried over
EVAL_WINDOWS = 4_096  # tokens of an evaluation batch of windows; no effect on metrics either


def token_batch(text: Tensor, positions: Tensor, reset_state: bool) -> TokenBatch:  # [N], [B, T]
    """The tokens at these positions and the token after each, as int64, which embeddings take."""
    return TokenBatch(text[positions].long(), text[positions + 1].long(), reset_state)


@dataclass(kw_only=True, eq=False)
class LanguageModelText(TokenizedText, CountedText):
    """A text read as `batch_size` parallel streams in segments of `seq_len` tokens, or slightly fewer.

    A batch is a function of its number, the seed and the rank. Training drops the tokens that do not divide into streams.
    `order` says where the streams start in each epoch after the first:
    - `fixed`: always at the same positions;
    - `shifted`: all are moved by one random number of tokens, around the end of the text;
    - `rotated`: each starts at a random position of its own and wraps around (Press 2019, *Partially shuffling the
      training data to improve language models*);
    - `shuffled`: there are no streams and no carried state. The text is cut into segments at a random offset, and these
      are read in random order, except those that do not fill a batch.

    Evaluation predicts every token but the first exactly once, in `eval_batch_size` streams: with 1 each token is
    predicted from all tokens before it; more are faster, and each starts without a past. A network with a fixed context
    (`interfaces.FixedContext`) is evaluated in windows of so many tokens instead, each of which predicts its last
    `eval_stride` tokens, or all of them if that is null. Recurrent networks need no windows.

    A subclass sets `tokenizer`, `vocabulary` and `splits`.
    """

    batch_size: int = 20
    seq_len: int = 35
    eval_batch_size: int = 1
    order: Order = "fixed"
    eval_stride: int | None = None
    seed: int = 0
    unit = "tokens"
    tokenizer: Tokenizer = field(init=False, repr=False)
    vocabulary: Vocabulary = field(init=False, repr=False)
    splits: dict[str, Tensor] = field(init=False, repr=False)  # [N] integers, which may be memory-mapped
    text_sizes: dict[str, dict[str, int]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        stride = self.eval_stride
        if min(self.batch_size, self.seq_len, self.eval_batch_size, 1 if stride is None else stride) < 1:
            raise ConfigError(
                f"data.batch_size is {self.batch_size}, seq_len {self.seq_len}, eval_batch_size {self.eval_batch_size} and "
                f"eval_stride {stride}; they take 1 or more, eval_stride also null"
            )
        if stride is not None and stride > self.seq_len:
            raise ConfigError(
                f"data.eval_stride is {stride}; it takes at most data.seq_len, which is {self.seq_len}, or null"
            )

    @property
    def sizes(self) -> dict[str, int]:
        return {"vocab_size": len(self.vocabulary), "context": self.seq_len}

    @property
    def batches_per_epoch(self) -> float:
        if self.order == "shuffled":
            return max((len(self.split("train")) // self.seq_len - 1) // self.batch_size, 1)
        return -(-self.stream_length("train") // self.seq_len)

    def units_per_batch(self, ranks: int) -> float:
        if self.order == "shuffled":
            return self.batch_size * self.seq_len
        return self.batch_size * self.stream_length("train") / self.batches_per_epoch

    def stream_length(self, split: str) -> int:
        """How many tokens each training stream predicts."""
        tokens = (len(self.split(split)) - 1) // self.batch_size
        if tokens < 1:
            counts = f"{len(self.splits[split])} tokens do not fill {self.batch_size} streams"
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

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[TokenBatch]:
        device = device_and_dtype(net)[0]
        text = self.split("train").to(device)
        if self.order == "shuffled":
            yield from self.shuffled_batches(text, shard, first_batch)
            return
        stream, segments = self.stream_length("train"), int(self.batches_per_epoch)
        rows = shard.share(0, self.batch_size)
        length = -(-stream // segments)  # equal segments, rather than a short last one
        for number in itertools.count(first_batch):
            epoch, segment = divmod(number, segments)
            shift, rotation = (offset.to(device) for offset in self.stream_offsets(epoch, stream))
            positions = torch.arange(segment * length, min((segment + 1) * length, stream), device=device)
            positions = (positions + rotation[rows]) % stream
            starts = torch.arange(rows.start, rows.stop, device=device)[:, None] * stream
            yield token_batch(text, (starts + positions + shift) % (len(text) - 1), segment == 0)

    def shuffled_batches(self, text: Tensor, shard: Shard, first_batch: int) -> Iterator[TokenBatch]:
        batches, within = int(self.batches_per_epoch), torch.arange(self.seq_len, device=text.device)
        segments = len(text) // self.seq_len - 1
        if segments < self.batch_size:
            raise DataError(
                f"the train split is too short: {len(text)} tokens are {max(segments, 0)} segments of {self.seq_len} and the "
                f"one that is lost to the random offset, for batches of {self.batch_size}; lower data.batch_size or seq_len, "
                "or bring more text"
            )
        for epoch in itertools.count(first_batch // batches):
            random = generator(self.seed, 3, epoch)
            offset = torch.randint(self.seq_len, (), generator=random)
            order = torch.randperm(segments, generator=random)
            starts = (order[: batches * self.batch_size] * self.seq_len + offset).view(batches, self.batch_size)
            for number in range(max(first_batch - epoch * batches, 0), batches):
                rows = starts[number][shard.share(0, self.batch_size)].to(text.device)
                yield token_batch(text, rows[:, None] + within, True)

    def stream_offsets(self, epoch: int, stream: int) -> tuple[Tensor, Tensor]:  # [], [B, 1]
        """By how many tokens all streams of an epoch are shifted, and by how many each is rotated."""
        shift, rotation = torch.zeros((), dtype=torch.int64), torch.zeros(self.batch_size, 1, dtype=torch.int64)
        random = generator(self.seed, 3, epoch)
        if epoch and self.order == "shifted":
            shift.random_(0, len(self.split("train")) - 1, generator=random)
        if epoch and self.order == "rotated":
            rotation.random_(0, stream, generator=random)
        return shift, rotation

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[TokenBatch]:
        text = self.split(split).to(device_and_dtype(net)[0])
        if declares(net, FixedContext):
            yield from self.window_batches(text, net.context, shard)
            return
        streams = min(self.eval_batch_size, len(text) - 1)
        stream = (len(text) - 1) // streams
        rows, used = shard.share(0, streams), streams * stream
        if rows.start < rows.stop:
            starts = torch.arange(rows.start, rows.stop, device=text.device)[:, None] * stream
            for start in range(0, stream, EVAL_LENGTH):
                positions = torch.arange(start, min(start + EVAL_LENGTH, stream), device=text.device)
                yield token_batch(text, starts + positions, start == 0)
        if used < len(text) - 1 and shard.rank == 0:  # the tokens that do not divide into streams
            yield token_batch(text, torch.arange(used, len(text) - 1, device=text.device)[None], True)

    def window_batches(self, text: Tensor, context: int, shard: Shard) -> Iterator[TokenBatch]:
        """Windows of `context` tokens, each starting a stride after the one before; the last one predicts what is left."""
        stride = min(self.eval_stride or context, context)
        total, first = len(text) - 1, min(context, len(text) - 1)  # targets of all windows, and of the first
        starts = torch.arange(stride, max(stride, total - context + 1), stride)
        # Each part is the starts of some windows, their length, and how many tokens at the end they predict.
        parts: list[tuple[Tensor, int, int]] = [(torch.zeros(1, dtype=torch.int64), first, first)]
        parts += [(rows, context, stride) for rows in starts.split(max(EVAL_WINDOWS // context, 1)) if len(rows)]
        predicted = first + len(starts) * stride
        if predicted < total:
            parts += [(torch.tensor([total - first]), first, total - predicted)]
        for rows, length, new in parts:
            own_rows = rows[shard.share(0, len(rows))].to(text.device)
            if len(own_rows):
                window = token_batch(text, own_rows[:, None] + torch.arange(length, device=text.device), True)
                yield window._replace(targets=window.targets[:, length - new :])

    def text_size(self, split: str) -> dict[str, int]:
        """How many `tokens` of a split are predicted, and how many `words` and `characters` of the text they are.

        Words and characters are counted as at these levels, the end of a line as one of each, so they do not depend on the
        vocabulary. The level `words` loses the white space, and so the number of characters; `english` loses both.
        """
        if split not in self.text_sizes:
            self.text_sizes[split] = self.measured(self.split(split))
        return self.text_sizes[split]

    def measured(self, ids: Tensor) -> dict[str, int]:
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
