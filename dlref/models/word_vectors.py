"""The two embeddings of word2vec: Mikolov et al. 2013."""

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import InputOutputEmbeddings, WordVectors


class WordEmbeddings(nn.Module, InputOutputEmbeddings, WordVectors):
    """Two embeddings of V words in D dimensions: `input` for words that are looked up, `output` for words that are predicted.

    With `sparse` their gradients hold only the rows of words that occurred. Raises ConfigError for a width below 1.
    """

    def __init__(self, vocab_size: int, width: int, sparse: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(f"network.width is {width}; it takes 1 or more")
        self.input = nn.Embedding(vocab_size, width, sparse=sparse)
        self.output = nn.Embedding(vocab_size, width, sparse=sparse)
        with torch.no_grad():  # as word2vec.c does
            self.input.weight.uniform_(-0.5 / width, 0.5 / width)
            self.output.weight.zero_()

    def forward(self, words: Tensor) -> Tensor:  # [...] -> [..., D]
        return self.input(words)

    def vectors(self) -> Tensor:  # [V, D]
        """The input embedding, whose rows are compared as word vectors."""
        return self.input.weight.detach()
