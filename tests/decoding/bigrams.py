"""A small language model and its data, for tests of text generation."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dlref.data.text.tokenizer import Tokenizer, Vocabulary, learn_bpe
from dlref.interfaces import TextDecoder, TokenizedText

TEXT = "the cat sat on the mat\nthe dog , naïve , did not\n\n the cat  did\n"
LEVELS = ["words", "english", "characters", "bpe"]
BPE = learn_bpe(iter(TEXT.split("\n")), 40)


class Text(SimpleNamespace, TokenizedText):
    """Data of a text alone."""


class Bigrams(nn.Module, TextDecoder):
    """Logits of the next token by the one before it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))

    def prefill(self, context: Tensor) -> tuple[Tensor, ...]:
        return ()

    def step(self, state: tuple[Tensor, ...], token: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.table[token], ()


def tokenizer_of(level: Any) -> Tokenizer:
    return Tokenizer(level, BPE if level == "bpe" else None)


def model_and_data(level: str) -> tuple[Any, Any]:
    """A network, and data with a vocabulary that has `<eos>` at every level, as that of encoded texts has."""
    tokenizer = tokenizer_of(level)
    vocabulary = Vocabulary.build(tokenizer(TEXT), specials=["<unk>", "<eos>"])
    return Bigrams(len(vocabulary)), Text(tokenizer=tokenizer, vocabulary=vocabulary)
