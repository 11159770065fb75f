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
    Embedding,
    Norm,
    Positions,
    initialize,
    make_norm,
    require_shape,
    scores,
)

# Which source tokens are real [B, S]; each decoder layer's keys and values of the source, then those of its own tokens.
State = tuple[Tensor, ...]


class Transformer(nn.Module, EncoderDecoder, FixedContext, Seq2SeqDecoder, HasCrossAttention):
    """An encoder, and a decoder that attends to what it yields, of `layers` blocks each, or the decoder of `decoder_layers`.

    `context` is how many tokens either side takes at most. Feed-forward layers have `hidden` units, four times the width
    where it is not set. `tied` scores use the target's token vectors again (Press & Wolf 2017). With `shared_embeddings`
    source and target have one vocabulary and one table of token vectors. `dropout` is of these and of what each part adds. For `positions`, `norm`, `prenorm`, `activation`, `qk_norm` and `zero_init` see
    `dlref.models.transformer_layers`. Raises ConfigError for sizes and shares that make no sense.
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
        embedding = partial(Embedding, width=width, heads=heads, context=context, positions=positions, dropout=dropout)
        self.embed = embedding(target_vocab_size)
        self.embed_source = self.embed if shared_embeddings else embedding(source_vocab_size)
        block = partial(Block, width, heads, hidden, norm, prenorm, activation, qk_norm, bias, dropout)
        self.encoder = nn.ModuleList(block() for _ in range(layers))
        self.decoder = nn.ModuleList(block(cross=True) for _ in range(decoder_layers))
        for blocks in (self.encoder, self.decoder):
            initialize(list(blocks), zero_init)
        self.source_norm, self.norm = (make_norm(norm, width, bias) if prenorm else nn.Identity() for _ in range(2))
        self.out = scores(self.embed, tied, zero_init)

    def forward(
        self, source: Tensor, visible: Tensor, tokens: Tensor
    ) -> Tensor:  # [B, S], [B, S] bool, [B, T] -> [B, T, V]
        return self.out(self.hidden(source, visible, tokens))

    def hidden(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, D], the input of the output layer."""
        return self.follow(tokens, self.prefill(source, visible))[0]

    def attention_weights(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """To which share each target token attends to each place of the source, by layer and head [B, layers, heads, T, S]."""
        memory = self.encode(source, visible)
        x, angles = self.embed(tokens)
        found = []
        block: Any
        for block in self.decoder:
            known = block.cross_attention.remember(memory)
            asking = block.before(1, block.attend(x, angles, causal=True)[0])
            found.append(block.cross_attention.shares(asking, known, visible=visible))
            x, _ = block(x, angles, causal=True, memory=known, memory_visible=visible)
        return torch.stack(found, 1)

    def encode(self, source: Tensor, visible: Tensor) -> Tensor:  # [B, S], [B, S] bool -> [B, S, D]
        x, angles = self.embed_source(source)
        for block in self.encoder:
            x, _ = block(x, angles, visible=visible)
        return self.source_norm(x)

    def prefill(self, source: Tensor, visible: Tensor) -> State:
        """The state after reading sources [B, S], of which those are real that are `visible`."""
        memory = self.encode(source, visible)
        nothing = memory.new_zeros(len(memory), self.heads, 0, memory.shape[2] // self.heads)
        decoder: Any = self.decoder
        known = [part for block in decoder for part in (*block.cross_attention.remember(memory), nothing, nothing)]
        return (visible, *known)

    def step(self, state: State, token: Tensor) -> tuple[Tensor, State]:  # [B] -> [B, V]
        features, state = self.follow(token[:, None], state)
        return self.out(features[:, -1]), state

    def follow(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Features [B, T, D] of target tokens and the state behind them: of one, or of all from the first on."""
        visible, before = state[0], state[3].shape[2]
        assert not before or tokens.shape[1] == 1
        x, angles = self.embed(tokens, before)
        known: list[Tensor] = []
        for block, *parts in zip(self.decoder, *(state[first::4] for first in range(1, 5)), strict=True):
            memory, past = parts[:2], parts[2:]
            x, own = block(x, angles, past, not before, memory=memory, memory_visible=visible)
            known += [*memory, *own]
        return self.norm(x), (visible, *known)
