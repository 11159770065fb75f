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
    Norm,
    Positions,
    TokenEmbedding,
    initialize,
    make_norm,
    output_layer,
    require_shape,
)

KVCache = tuple[Tensor, ...]  # tokens so far [B, T]; then for each layer its keys and values [B, heads, T, D / heads]


class TransformerLM(nn.Module, LanguageModel, FixedContext, TextDecoder, HasSelfAttention):
    """A decoder-only Transformer: blocks of causal self-attention, and logits of the next token.

    `context` is the largest number of tokens that it sees, the data's segment length in training. Feed-forward layers have
    `hidden` units, by default four times the width. With `tied` the output layer reuses the token embeddings (Press & Wolf
    2017). `dropout` is the probability of dropping a unit of the embeddings and of the output of each part of a block. For
    `positions`, `norm`, `activation`, `qk_norm` and `zero_init` see `dlref.models.transformer_layers`. Raises ConfigError for
    impossible sizes and probabilities.
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
        self.embed = TokenEmbedding(vocab_size, width, heads, context, positions, dropout)
        blocks = [Block(width, heads, hidden, norm, prenorm, activation, qk_norm, bias, dropout) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        initialize(blocks, zero_init)
        self.norm = make_norm(norm, width, bias) if prenorm else nn.Identity()
        self.out = output_layer(self.embed, tied, zero_init)

    def forward(self, tokens: Tensor, state: KVCache | None = None) -> tuple[Tensor, KVCache]:  # [B, T] -> [B, T, V]
        hidden = self.hidden(tokens, state)
        return self.out(hidden.dropped), hidden.state

    def hidden(self, tokens: Tensor, state: KVCache | None = None) -> Hidden:
        """Final hidden states [B, T, D], the input of the output layer, which has no dropout; no state is carried."""
        assert not state
        x, rotation = self.embed(tokens)
        for block in self.blocks:
            x, _ = block(x, rotation, causal=True)
        x = self.norm(x)
        return Hidden(x, x, ())

    def attention_weights(self, tokens: Tensor) -> Tensor:
        """Attention weights of each token over all tokens [B, layers, heads, T, T]."""
        x, rotation = self.embed(tokens)
        weights = []
        block: Any
        for block in self.blocks:
            weights.append(block.attention_weights(x, rotation))
            x, _ = block(x, rotation, causal=True)
        return torch.stack(weights, 1)

    def prefill(self, context: Tensor) -> KVCache:
        """The state after tokens [B, T]; T may be 0. Of many tokens the last are kept that leave room for one more."""
        kept = context[:, max(context.shape[1] - self.context + 1, 0) :]
        return self.decode(kept, self.empty_cache(len(kept)))[1]

    def step(self, state: KVCache, token: Tensor) -> tuple[Tensor, KVCache]:  # [B] -> [B, V]
        """Where the context is full, its first half is dropped, and the rest computed again from position 0."""
        tokens = state[0]
        if tokens.shape[1] == self.context:
            kept = tokens[:, self.context - self.context // 2 :]
            state = self.decode(kept, self.empty_cache(len(kept)))[1]
        hidden, state = self.decode(token[:, None], state)
        return self.out(hidden[:, -1]), state

    def empty_cache(self, batch_size: int) -> KVCache:
        weight = self.embed.tokens.weight
        empty = weight.new_zeros(batch_size, self.heads, 0, weight.shape[1] // self.heads)
        return (weight.new_zeros(batch_size, 0, dtype=torch.int64), *[empty] * (2 * len(self.blocks)))

    def decode(self, tokens: Tensor, state: KVCache) -> tuple[Tensor, KVCache]:
        """Final hidden states [B, T, D] of tokens and the state after them: of one token, or several after an empty cache."""
        position = state[0].shape[1]
        assert not position or tokens.shape[1] == 1
        x, rotation = self.embed(tokens, position)
        cache: list[Tensor] = []
        block: Any
        for block, keys, values in zip(self.blocks, state[1::2], state[2::2], strict=True):
            x, keys_values = block(x, rotation, (keys, values), causal=not position)
            cache += keys_values
        return self.norm(x), (torch.cat([state[0], tokens], 1), *cache)
