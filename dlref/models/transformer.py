"""The Transformer: Vaswani et al. 2017.

B batch, S source time, T target time, D width, V vocabulary of the target.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import EncoderDecoder, FixedContext, HasCrossAttention, Seq2SeqDecoder
from dlref.models.layers import require_one_vocabulary
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

# Which source tokens are real [B, S]; then for each decoder layer keys and values of the source and of the target so far.
DecoderCache = tuple[Tensor, ...]


class Transformer(nn.Module, EncoderDecoder, FixedContext, Seq2SeqDecoder, HasCrossAttention):
    """An encoder of `layers` blocks, and a decoder of `decoder_layers`, by default as many.

    `context` is the largest number of tokens of a source or a target. Feed-forward layers have `hidden` units, by default
    four times the width. With `tied` the output layer reuses the target's token embeddings (Press & Wolf 2017). With
    `shared_embeddings` source and target have one vocabulary and one embedding. `dropout` is the probability of dropping a
    unit of the embeddings and of the output of each part of a block. For `positions`, `norm`, `prenorm`, `activation`,
    `qk_norm` and `zero_init` see `dlref.models.transformer_layers`. Raises ConfigError for impossible sizes and probabilities.
    """

    attends = True

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        decoder_layers: int | None = None,
        hidden: int | None = None,
        context: int = 512,
        positions: Positions = "sinusoidal",
        norm: Norm = "layer",
        prenorm: bool = True,
        activation: Activation = "relu",
        qk_norm: bool = False,
        zero_init: bool = False,
        tied: bool = False,
        shared_embeddings: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        decoder_layers = layers if decoder_layers is None else decoder_layers
        require_shape(width, heads, layers, context, hidden, positions)
        if decoder_layers < 1:
            raise ConfigError(f"network.decoder_layers is {decoder_layers}; it takes 1 or more")
        if shared_embeddings:
            require_one_vocabulary(source_vocab_size, target_vocab_size)
        self.context, self.heads = context, heads
        embedding = partial(
            TokenEmbedding, width=width, heads=heads, context=context, positions=positions, dropout=dropout
        )
        self.embed = embedding(target_vocab_size)
        self.embed_source = self.embed if shared_embeddings else embedding(source_vocab_size)
        block = partial(Block, width, heads, hidden, norm, prenorm, activation, qk_norm, bias, dropout)
        encoder, decoder = [block() for _ in range(layers)], [block(cross=True) for _ in range(decoder_layers)]
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        for blocks in (encoder, decoder):
            initialize(blocks, zero_init)
        self.source_norm, self.norm = (make_norm(norm, width, bias) if prenorm else nn.Identity() for _ in range(2))
        self.out = output_layer(self.embed, tied, zero_init)

    def forward(
        self, source: Tensor, visible: Tensor, tokens: Tensor
    ) -> Tensor:  # [B, S], [B, S] bool, [B, T] -> [B, T, V]
        return self.out(self.hidden(source, visible, tokens))

    def hidden(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, D], the input of the output layer."""
        return self.decode(tokens, self.prefill(source, visible))[0]

    def attention_weights(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """Cross-attention weights of target tokens over source positions [B, layers, heads, T, S]."""
        memory = self.encode(source, visible)
        x, rotation = self.embed(tokens)
        weights = []
        block: Any
        for block in self.decoder:
            keys_values = block.cross_attention.keys_values(memory)
            attended = block.part_input(1, block.attend(x, rotation, causal=True)[0])
            weights.append(block.cross_attention.attention_weights(attended, keys_values, visible=visible))
            x, _ = block(x, rotation, causal=True, source=keys_values, source_visible=visible)
        return torch.stack(weights, 1)

    def encode(self, source: Tensor, visible: Tensor) -> Tensor:  # [B, S], [B, S] bool -> [B, S, D]
        x, rotation = self.embed_source(source)
        for block in self.encoder:
            x, _ = block(x, rotation, visible=visible)
        return self.source_norm(x)

    def prefill(self, source: Tensor, visible: Tensor) -> DecoderCache:
        """The state before the first target token, given sources [B, S] whose real tokens are `visible`."""
        memory = self.encode(source, visible)
        empty = memory.new_zeros(len(memory), self.heads, 0, memory.shape[2] // self.heads)
        decoder: Any = self.decoder
        cache = [part for block in decoder for part in (*block.cross_attention.keys_values(memory), empty, empty)]
        return (visible, *cache)

    def step(self, state: DecoderCache, token: Tensor) -> tuple[Tensor, DecoderCache]:  # [B] -> [B, V]
        hidden, state = self.decode(token[:, None], state)
        return self.out(hidden[:, -1]), state

    def decode(self, tokens: Tensor, state: DecoderCache) -> tuple[Tensor, DecoderCache]:
        """Final hidden states [B, T, D] of target tokens and the state after them: of one token, or of all from the first."""
        visible, position = state[0], state[3].shape[2]
        assert not position or tokens.shape[1] == 1
        x, rotation = self.embed(tokens, position)
        cache: list[Tensor] = []
        for block, *parts in zip(self.decoder, *(state[first::4] for first in range(1, 5)), strict=True):
            source, kv_cache = parts[:2], parts[2:]
            x, kv_cache = block(x, rotation, kv_cache, causal=not position, source=source, source_visible=visible)
            cache += [*source, *kv_cache]
        return self.norm(x), (visible, *cache)
