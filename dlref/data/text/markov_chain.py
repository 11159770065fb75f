"""A text whose entropy is known: words that depend on nothing but the word before."""

import numpy as np
import torch

from dlref.data import generator
from dlref.data.text.token_streams import LanguageModelText, Order
from dlref.data.text.tokenizer import END, UNKNOWN, Tokenizer, Vocabulary
from dlref.errors import ConfigError


class MarkovChain(LanguageModelText):
    """`words` words, each followed by another one with chances drawn once: the softmax of normal numbers of deviation 2.

    `entropy` is that of the next word, given the one before, in nats: Σ_i π_i Σ_j -P_ij log P_ij, where π is the stationary
    distribution (Shannon 1948, section 7). No model can have a perplexity below its exponential, but for chance. The
    chances are drawn by `chain`, the text by the seed: of each 10 words 8 are `train`, then one `eval`, one `test`.
    """

    def __init__(
        self,
        words: int = 30,
        tokens: int = 250_000,
        chain: int = 0,
        batch_size: int = 20,
        length: int = 35,
        eval_columns: int = 1,
        order: Order = "fixed",
        eval_stride: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, length, eval_columns, order, seed, eval_stride)
        if words < 2 or tokens < 100:
            raise ConfigError(f"data.words is {words}, 2 or more, and tokens {tokens}, 100 or more")
        drawn = 2 * torch.randn(words, words, generator=generator(chain), dtype=torch.float64)
        self.chances = chances = drawn.softmax(1)  # [words, words], of the next word in each row
        stationary = torch.linalg.matrix_power(chances, 2**20)[0]
        self.entropy = float(-(stationary[:, None] * chances * chances.log()).sum())
        self.tokenizer = Tokenizer("words")
        self.vocabulary = Vocabulary([UNKNOWN, END, *(f"w{number}" for number in range(words))])
        ids = 2 + torch.from_numpy(walk(chances.numpy(), torch.rand(tokens, generator=generator(seed)).numpy()))
        parts = ids.split([tokens - 2 * (tokens // 10), tokens // 10, tokens // 10])
        self.splits = dict(zip(("train", "eval", "test"), parts, strict=True))


def walk(chances: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The states [N] that follow state 0, by shares [N] in [0, 1)."""
    ends = chances.cumsum(1)
    ends[:, -1] = 1
    states, state = np.empty(len(shares), np.int64), 0
    for place, share in enumerate(shares.tolist()):
        state = states[place] = int(ends[state].searchsorted(share, side="right"))
    return states
