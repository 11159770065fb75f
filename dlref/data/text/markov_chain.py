"""A generated text of known entropy: a Markov chain of words."""

from dataclasses import dataclass

import numpy as np
import torch

from dlref.data import generator
from dlref.data.text.token_streams import LanguageModelText
from dlref.data.text.tokenizer import END, UNKNOWN, Tokenizer, Vocabulary
from dlref.errors import ConfigError


@dataclass(eq=False)
class MarkovChain(LanguageModelText):
    """A Markov chain over `words` words. Each row of its transition matrix P is the softmax of normal numbers with std 2.

    `entropy` is that of the next word given the word before, in nats: Σ_i π_i Σ_j -P_ij log P_ij, where π is the stationary
    distribution (Shannon 1948, section 7). No model has an expected perplexity below its exponential. `chain_seed` seeds
    the transition matrix and `seed` the text. The first 80 % of the text are `train`, then 10 % each `eval` and `test`.
    """

    words: int = 30
    tokens: int = 250_000
    chain_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        words, tokens = self.words, self.tokens
        if words < 2 or tokens < 100:
            raise ConfigError(f"data.words is {words}, 2 or more, and tokens {tokens}, 100 or more")
        logits = 2 * torch.randn(words, words, generator=generator(self.chain_seed), dtype=torch.float64)
        self.transitions = logits.softmax(1)  # P [words, words]: row i is the distribution of the word after i
        stationary = torch.linalg.matrix_power(self.transitions, 2**20)[0]
        self.entropy = float(-(stationary[:, None] * self.transitions * self.transitions.log()).sum())
        self.tokenizer = Tokenizer("words")
        self.vocabulary = Vocabulary([UNKNOWN, END, *(f"w{number}" for number in range(words))])
        uniform = torch.rand(tokens, generator=generator(self.seed))
        ids = 2 + torch.from_numpy(sample_chain(self.transitions.numpy(), uniform.numpy()))
        parts = ids.split([tokens - 2 * (tokens // 10), tokens // 10, tokens // 10])
        self.splits = dict(zip(("train", "eval", "test"), parts, strict=True))


def sample_chain(transitions: np.ndarray, uniform: np.ndarray) -> np.ndarray:  # [S, S], [N] -> [N]
    """The states after state 0, sampled by inverting each row's cumulative distribution at numbers in [0, 1)."""
    cumulative = transitions.cumsum(1)
    cumulative[:, -1] = 1
    states, state = np.empty(len(uniform), np.int64), 0
    for step, number in enumerate(uniform.tolist()):
        state = states[step] = int(cumulative[state].searchsorted(number, side="right"))
    return states
