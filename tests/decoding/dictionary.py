"""Small translators and lines to translate, for tests of decoding and reports."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dlref.data.text.line_encoder import LineEncoder
from dlref.data.text.tokenizer import Tokenizer, Vocabulary
from dlref.interfaces import FixedContext, HasCrossAttention, ParallelData, Seq2SeqDecoder
from dlref.models.seq2seq import Seq2Seq

SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]
WORDS = {"ein": "a", "hund": "dog", "und": "and", "die": "the", "katze": "cat", "schläft": "sleeps", ".": "."}
LINES = ["ein hund schläft .", "", "die katze", "hund", "und die katze und die katze schläft", "  ", "katze katze ."]


class Dictionary(nn.Module, Seq2SeqDecoder, HasCrossAttention):
    """Translates word for word, with probabilities near 1, and attends to the word that it translates."""

    attends = True

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(9 * torch.eye(len(SPECIALS) + len(WORDS)))

    def prefill(self, source: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
        assert torch.equal(source == 0, ~visible)
        return source, torch.zeros_like(source[:, 0])

    def step(self, state: tuple[Tensor, ...], token: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        source, position = state
        assert not torch.is_grad_enabled()
        assert ((token == 2) == (position == 0)).all()
        word = source.gather(1, position.clamp(max=source.shape[1] - 1)[:, None])[:, 0]
        return self.logits[word], (source, position + 1)

    def attention_weights(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        return torch.eye(tokens.shape[1], source.shape[1])[None]


class Narrow(Dictionary, FixedContext):
    """A dictionary with a fixed context."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.context = context


class Pairs(SimpleNamespace, ParallelData):
    """Data of pairs alone."""


def encoder(words: Iterable[str]) -> LineEncoder:
    return LineEncoder(Tokenizer("words"), Vocabulary([*SPECIALS, *words]))


SOURCE, TARGET = encoder(WORDS), encoder(WORDS.values())


def by_hand(line: str) -> str:
    """The dictionary's translation."""
    return " ".join(WORDS[word] for word in line.split())


def data_of(pairs: list[tuple[str, str]]) -> Any:
    return Pairs(source=SOURCE, target=TARGET, texts=lambda split: pairs)


def untrained(kind: Any = Seq2Seq, **settings: Any) -> Any:
    """A network with random weights, which decodes different tokens and rarely `<eos>`."""
    generator, size = torch.Generator().manual_seed(3), len(SOURCE.vocabulary)
    net = kind(source_vocab_size=size, target_vocab_size=size, width=6, **settings).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    net.out.bias[3] -= 9
    return net
