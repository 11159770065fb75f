"""The n-gram language model, from tables that are counted, not learned step by step: Chen & Goodman 1999."""

from typing import Any

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import NGramTables, TextDecoder

NOTHING = -1  # stands before the first word
State = tuple[Tensor, ...]  # one, the last words [B, order - 1]


class NGram(nn.Module, NGramTables, TextDecoder):
    """P(w | c) = share(c, w) + rest(c) P(w | c without its oldest word), for the longest context c that the tables know.

    At the end of this chain stands P(w), the `unigrams`. An objective fills the tables; until then all words are alike.
    The C contexts that are known are a tree, read from the newest word back to older ones, as one sorted list of keys:
    (1 + number of the context without its oldest word, or 0 for none) V + oldest word, a context's number being the
    place of its key. Context c is followed by the words[ends[c - 1] : ends[c]], of E in all.

    B batch, T time, V vocabulary; N = B T places.
    """

    tables = ("keys", "rest", "ends", "words", "shares")

    def __init__(self, vocab_size: int, order: int = 5) -> None:
        super().__init__()
        if order < 1:
            raise ConfigError(f"network.order is {order}; it takes 1 or more")
        self.vocab_size, self.order = vocab_size, order
        self.unigrams = nn.Buffer(torch.full((vocab_size,), 1 / vocab_size))
        self.keys = nn.Buffer(torch.empty(0, dtype=torch.int64))  # [C]
        self.rest = nn.Buffer(torch.empty(0))  # [C]
        self.ends = nn.Buffer(torch.empty(0, dtype=torch.int64))  # [C]
        self.words = nn.Buffer(torch.empty(0, dtype=torch.int32))  # [E]
        self.shares = nn.Buffer(torch.empty(0))  # [E]
        self.register_load_state_dict_pre_hook(resize_tables)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:  # [B, T] -> [B, T, V]
        """The logarithm of each word's probability after each token."""
        past = self.prefill(tokens[:, :0])[0] if state is None else state[0]
        text = torch.cat([past, tokens], 1)
        p = self.unigrams.repeat(tokens.numel(), 1)
        for contexts in self.contexts(text, tokens.shape[1]):
            self.refine(p, contexts)
        return p.log().view(*tokens.shape, -1), (text[:, tokens.shape[1] :],)

    def prefill(self, tokens: Tensor) -> State:  # [B, T], T may be 0
        """The state after these tokens."""
        past = tokens.new_full((len(tokens), self.order - 1), NOTHING)
        return (torch.cat([past, tokens], 1)[:, tokens.shape[1] :],)

    def step(self, state: State, token: Tensor) -> tuple[Tensor, State]:  # [B] -> [B, V]
        logits, state = self(token[:, None], state)
        return logits[:, 0], state

    def contexts(self, text: Tensor, length: int) -> list[Tensor]:  # [B, order - 1 + T] -> order - 1 times [N]
        """The numbers of the contexts of 1, 2 … words that end at each of the last tokens, -1 where one is not known."""
        found = []
        shorter = text.new_full((len(text) * length,), -1)
        known = torch.ones_like(shorter, dtype=torch.bool)
        for back in range(self.order - 1 if len(self.keys) else 0):
            stop = text.shape[1] - back
            oldest = text[:, stop - length : stop].flatten()
            key = (shorter + 1) * self.vocab_size + oldest
            number = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
            known = known & (oldest != NOTHING) & (self.keys[number] == key)
            shorter = torch.where(known, number, -1)
            found.append(shorter)
        return found

    def refine(self, p: Tensor, contexts: Tensor) -> None:  # [N, V], [N]
        """From the probabilities after contexts of n - 1 words to those of n words, where these are known."""
        row = (contexts >= 0).nonzero()[:, 0]
        c = contexts[row]
        if not len(c):
            return
        factor = torch.ones_like(p[:, 0])
        factor[row] = self.rest[c]
        p *= factor[:, None]
        start = torch.where(c > 0, self.ends[c - 1], 0)
        many = self.ends[c] - start
        # The places start … start + many - 1 of every context, one after the other.
        skipped = (start - many.cumsum(0) + many).repeat_interleave(many)
        place = skipped + torch.arange(len(skipped), device=p.device)
        p[row.repeat_interleave(many), self.words[place]] += self.shares[place]


def resize_tables(net: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Make room for tables that are loaded, which are as long as the text made them."""
    for name in NGram.tables:
        if (saved := state.get(prefix + name)) is not None:
            setattr(net, name, getattr(net, name).new_empty(saved.shape))
