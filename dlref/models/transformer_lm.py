"""The Transformer as a language model: Vaswani et al. 2017's decoder alone, as in Radford et al. 2018.

B batch, T time, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dlref.interfaces import FixedContext, HasSelfAttention, Hidden, LanguageModel, TextDecoder
from dlref.models.transformer_layers import (
    Activation,
    Block,
    Embedding,
    Norm,
    Positions,
    initialize,
    make_norm,
    require_shape,
    scores,
)

State = tuple[Tensor, ...]  # the tokens read [B, T]; of each layer its keys and its values [B, heads, T, D / heads]


class TransformerLM(nn.Module, LanguageModel, FixedContext, TextDecoder, HasSelfAttention):
    """Blocks of self-attention to what came before, and the next token's scores, unnormalised logarithms.

    `context` is how many tokens it sees at most, the data's pieces in training. Feed-forward layers have `hidden` units, four
    times the width where it is not set. `tied` scores use the token vectors again (Press & Wolf 2017). `dropout` is the share
    dropped of the token vectors and of what each part of a block adds. For `positions`, `norm`, `activation`, `qk_norm` and
    `zero_init` see `dlref.models.transformer_layers`. Raises ConfigError for sizes and shares that make no sense.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int | None = None,
        positions: Positions = "rotary",
        norm: Norm = "rms",
        prenorm: bool = True,
        activation: Activation = "relu2",
        qk_norm: bool = True,
        zero_init: bool = True,
        tied: bool = True,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        require_shape(width, heads, layers, context, hidden, positions)
        self.context, self.heads = context, heads
        self.embed = Embedding(vocab_size, width, heads, context, positions, dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, norm, prenorm, activation, qk_norm, bias, dropout) for _ in range(layers)
        )
        initialize(list(self.blocks), zero_init)
        self.norm = make_norm(norm, width, bias) if prenorm else nn.Identity()
        self.out = scores(self.embed, tied, zero_init)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:  # [B, T] -> [B, T, V]
        hidden = self.hidden(tokens, state)
        return self.out(hidden.dropped), hidden.state

    def hidden(self, tokens: Tensor, state: State | None = None) -> Hidden:
        """Final hidden states [B, T, D], the input of the output layer, which has no dropout; no state is carried."""
        assert not state
        x, angles = self.embed(tokens)
        for block in self.blocks:
            x, _ = block(x, angles, causal=True)
        x = self.norm(x)
        return Hidden(x, x, ())

    def attention_weights(self, tokens: Tensor) -> Tensor:
        """To which share each head of each layer attends to each token [B, layers, heads, T, T]."""
        x, angles = self.embed(tokens)
        found = []
        block: Any
        for block in self.blocks:
            found.append(block.shares(x, angles))
            x, _ = block(x, angles, causal=True)
        return torch.stack(found, 1)

    def prefill(self, context: Tensor) -> State:
        """The state behind tokens [B, T], of which there may be none; of many, the last that leave room for one more count."""
        kept = context[:, max(context.shape[1] - self.context + 1, 0) :]
        return self.follow(kept, self.empty(len(kept)))[1]

    def step(self, state: State, token: Tensor) -> tuple[Tensor, State]:  # [B] -> [B, V]
        """Where the context is full, its first half is forgotten, and the rest is read anew, from position 0."""
        tokens = state[0]
        if tokens.shape[1] == self.context:
            kept = tokens[:, self.context - self.context // 2 :]
            state = self.follow(kept, self.empty(len(kept)))[1]
        features, state = self.follow(token[:, None], state)
        return self.out(features[:, -1]), state

    def empty(self, rows: int) -> State:
        """The state before anything was read."""
        weight = self.embed.tokens.weight
        nothing = weight.new_zeros(rows, self.heads, 0, weight.shape[1] // self.heads)
        return (weight.new_zeros(rows, 0, dtype=torch.int64), *[nothing] * (2 * len(self.blocks)))

    def follow(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Features [B, T, D] of tokens behind a state, one of them or as many as there are behind the empty one."""
        before = state[0].shape[1]
        assert not before or tokens.shape[1] == 1
        x, angles = self.embed(tokens, before)
        known: list[Tensor] = []
        block: Any
        for block, *past in zip(self.blocks, state[1::2], state[2::2], strict=True):
            x, pair = block(x, angles, (past[0], past[1]), causal=not before)
            known += pair
        return self.norm(x), (torch.cat([state[0], tokens], 1), *known)
