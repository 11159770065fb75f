"""The n-gram language model, an interpolated back-off model in closed form: Chen & Goodman 1999."""

from typing import Any

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import NGramTables, TextDecoder

NOTHING = -1  # padding before the first word
LastWords = tuple[Tensor, ...]  # one tensor [B, order - 1]


class NGram(nn.Module, NGramTables, TextDecoder):
    """P(w | c) = p(c, w) + backoff(c) P(w | c without its oldest word), for the longest context c in the tables.

    p holds discounted `probabilities`, and the recursion ends at P(w), the `unigrams`. An objective fills the tables; until
    then the distribution is uniform. The C contexts form a tree, from the newest word back to older ones, stored as one
    sorted list of keys: (1 + index of the context without its oldest word, or 0 for none) V + oldest word, a context's index
    being the index of its key. Words seen after context c are words[ends[c - 1] : ends[c]], of E in all.

    B batch, T time, V vocabulary; N = B T positions.
    """

    tables = ("keys", "backoff", "ends", "words", "probabilities")

    def __init__(self, vocab_size: int, order: int = 5) -> None:
        super().__init__()
        if order < 1:
            raise ConfigError(f"network.order is {order}; it takes 1 or more")
        self.vocab_size, self.order = vocab_size, order
        self.unigrams = nn.Buffer(torch.full((vocab_size,), 1 / vocab_size))
        self.keys = nn.Buffer(torch.empty(0, dtype=torch.int64))  # [C]
        self.backoff = nn.Buffer(torch.empty(0))  # [C]
        self.ends = nn.Buffer(torch.empty(0, dtype=torch.int64))  # [C]
        self.words = nn.Buffer(torch.empty(0, dtype=torch.int32))  # [E]
        self.probabilities = nn.Buffer(torch.empty(0))  # [E]
        self.register_load_state_dict_pre_hook(resize_tables)

    def forward(
        self, tokens: Tensor, state: LastWords | None = None
    ) -> tuple[Tensor, LastWords]:  # [B, T] -> [B, T, V]
        """Log-probabilities of the next word after each token."""
        last_words = self.prefill(tokens[:, :0])[0] if state is None else state[0]
        text = torch.cat([last_words, tokens], 1)
        p = self.unigrams.repeat(tokens.numel(), 1)
        for contexts in self.contexts(text, tokens.shape[1]):
            self.refine(p, contexts)
        return p.log().view(*tokens.shape, -1), (text[:, tokens.shape[1] :],)

    def prefill(self, context: Tensor) -> LastWords:
        """The state after tokens [B, T]; T may be 0."""
        padding = context.new_full((len(context), self.order - 1), NOTHING)
        return (torch.cat([padding, context], 1)[:, context.shape[1] :],)

    def step(self, state: LastWords, token: Tensor) -> tuple[Tensor, LastWords]:  # [B] -> [B, V]
        logits, state = self(token[:, None], state)
        return logits[:, 0], state

    def contexts(self, text: Tensor, length: int) -> list[Tensor]:  # [B, order - 1 + T] -> order - 1 times [N]
        """Indices of the contexts of 1, 2 … words that end at each of the last tokens, -1 where one is not in the tables."""
        found = []
        index = text.new_full((len(text) * length,), -1)
        known = torch.ones_like(index, dtype=torch.bool)
        for back in range(self.order - 1 if len(self.keys) else 0):
            stop = text.shape[1] - back
            oldest = text[:, stop - length : stop].flatten()
            key = (index + 1) * self.vocab_size + oldest
            nearest = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
            known = known & (oldest != NOTHING) & (self.keys[nearest] == key)
            index = torch.where(known, nearest, -1)
            found.append(index)
        return found

    def refine(self, p: Tensor, contexts: Tensor) -> None:  # [N, V], [N]
        """Turn probabilities given n - 1 words into those given n words, where the context of n words is in the tables."""
        rows = (contexts >= 0).nonzero()[:, 0]
        c = contexts[rows]
        if not len(c):
            return
        factor = torch.ones_like(p[:, 0])
        factor[rows] = self.backoff[c]
        p *= factor[:, None]
        start = torch.where(c > 0, self.ends[c - 1], 0)
        counts = self.ends[c] - start
        # The indices start … start + count - 1 of every context, concatenated.
        offsets = (start - counts.cumsum(0) + counts).repeat_interleave(counts)
        entries = offsets + torch.arange(len(offsets), device=p.device)
        p[rows.repeat_interleave(counts), self.words[entries]] += self.probabilities[entries]


def resize_tables(net: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Resize the tables before their values are loaded: their length depends on the text they were counted in."""
    for name in NGram.tables:
        if (saved := state.get(prefix + name)) is not None:
            setattr(net, name, getattr(net, name).new_empty(saved.shape))
