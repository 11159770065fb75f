"""Sequence to sequence: Cho et al. 2014 and Sutskever et al. 2014, with attention as in Luong et al. 2015.

B batch, S source time, T target time, D width, H hidden width, V vocabulary of the target.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import EncoderDecoder, HasCrossAttention, Seq2SeqDecoder
from dlref.models.layers import Dropout, Init, initialize, require_one_vocabulary
from dlref.models.recurrent_layers import Cell, RecurrentLayers, require_sizes
from dlref.models.rnn_attention import RNNAttention, Score

DecoderState = tuple[
    Tensor, ...
]  # the decoder's recurrent state, each [B, H]; then what it uses of the source, each [B, ...]


class Encoder(nn.Module):
    """Layers of a recurrent cell over sources of different lengths.

    With `reversed` each source is read from its end (Sutskever et al. 2014, section 3.3); with `bidirectional` in both
    directions, each with half of the units (Schuster & Paliwal 1997).
    """

    def __init__(
        self,
        cell: Cell,
        widths: Sequence[int],
        dropout: Sequence[float],
        variational: bool,
        bidirectional: bool,
        reversed: bool,
    ) -> None:
        super().__init__()
        self.reversed, directions = reversed, 2 if bidirectional else 1
        if any(units % directions for units in widths[1:]):
            raise ConfigError(f"network.hidden is {widths[-1]}; both directions split it, so it takes an even number")
        self.drops = nn.ModuleList(Dropout(probability, variational) for probability in dropout)
        self.layers = nn.ModuleList(
            nn.ModuleList(RecurrentLayers(cell, [inputs, units // directions], [0.0, 0.0]) for _ in range(directions))
            for inputs, units in pairwise(widths)
        )

    def forward(self, x: Tensor, visible: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Hidden states of the last layer [B, S, H], and of each layer after the last word [B, H], for words [B, S, D]."""
        rows, positions = torch.arange(len(x), device=x.device), torch.arange(x.shape[1], device=x.device)
        lengths = visible.sum(1, keepdim=True)
        reversal = torch.where(visible, lengths - 1 - positions, positions) + rows[:, None] * len(positions)

        def reverse(x: Tensor) -> Tensor:  # the words of each row; its padding stays at the end
            return x.flatten(0, 1).index_select(0, reversal.flatten()).view_as(x)

        x, final = reverse(x) if self.reversed else x, []
        directions: Any
        for drop, directions in zip(self.drops, self.layers, strict=True):
            forward_layer, *backward_layers = directions
            x = drop(x)
            h = forward_layer.run_layer(0, x, forward_layer.initial_state(len(x)))[0]
            last = h[rows, lengths[:, 0] - 1]
            for layer in backward_layers:
                h_backward = reverse(layer.run_layer(0, reverse(x), layer.initial_state(len(x)))[0])
                h, last = torch.cat([h, h_backward], 2), torch.cat([last, h_backward[:, 0]], 1)
            final.append(last)
            x = h
        return reverse(x) if self.reversed else x, final


class Seq2Seq(nn.Module, EncoderDecoder, Seq2SeqDecoder, HasCrossAttention):
    """An encoder, and a decoder whose layers start from the encoder's final hidden states; an LSTM's c starts at 0.

    Layers have `hidden` units, by default as many as the word embeddings have dimensions. With `attention` the output layer
    sees tanh(W [context; h]), the context being the attention-weighted mean of the source's hidden states (Luong et al. 2015,
    equation 5); without, h alone. A `peeky` decoder also sees the encoder's last h at every step, before its layers and
    before the output layer (Cho et al. 2014, equations 1 and 2). With `tied` the output layer reuses the target's word
    embeddings (Press & Wolf 2017). With `shared_embeddings` source and target have one vocabulary and one embedding.

    `dropout` is the probability of dropping a unit before each layer and before the output layer; `input_dropout` and
    `output_dropout` replace it at the word embeddings and before the output layer; one mask serves all time steps if
    `variational`. `init` initializes all weights except the embeddings. Raises ConfigError for impossible sizes and
    probabilities.
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        width: int,
        hidden: int | None = None,
        layers: int = 1,
        cell: Cell = "lstm",
        attention: Score | None = "dot",
        bidirectional: bool = False,
        reversed: bool = False,
        peeky: bool = False,
        tied: bool = False,
        shared_embeddings: bool = False,
        dropout: float = 0.0,
        input_dropout: float | None = None,
        output_dropout: float | None = None,
        variational: bool = False,
        init: Init = "torch",
    ) -> None:
        super().__init__()
        hidden = width if hidden is None else hidden
        require_sizes(width, hidden, layers)
        if shared_embeddings:
            require_one_vocabulary(source_vocab_size, target_vocab_size)
        drops = [dropout if input_dropout is None else input_dropout, *[dropout] * (layers - 1)]
        widths = [width, *[hidden] * layers]
        self.peeky, self.attends = peeky, attention is not None
        self.embed = nn.Embedding(target_vocab_size, width)
        self.embed_source = self.embed if shared_embeddings else nn.Embedding(source_vocab_size, width)
        self.encoder = Encoder(cell, widths, drops, variational, bidirectional, reversed)
        widths[0] += hidden * peeky
        self.decoder = RecurrentLayers(cell, widths, [*drops, 0.0], variational)
        features = hidden
        if attention is not None:
            features = width if tied else hidden
            self.attention, self.combine = RNNAttention(attention, hidden), nn.Linear(2 * hidden, features)
        self.drop = Dropout(dropout if output_dropout is None else output_dropout, variational)
        self.out = nn.Linear(features + hidden * peeky, target_vocab_size)
        if tied:
            if self.out.weight.shape != self.embed.weight.shape:
                raise ConfigError(
                    f"network.tied needs an output layer of as many inputs as the width {width}, not "
                    f"{self.out.in_features}; set attention and no peeky, or hidden to the width"
                )
            self.out.weight = self.embed.weight
        initialize(self, init)
        for embed in dict.fromkeys([self.embed, self.embed_source]):  # one, if they are shared
            nn.init.normal_(embed.weight, 0.0, width**-0.5)

    def forward(
        self, source: Tensor, visible: Tensor, tokens: Tensor
    ) -> Tensor:  # [B, S], [B, S] bool, [B, T] -> [B, T, V]
        return self.out(self.hidden(source, visible, tokens))

    def hidden(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, D], the input of the output layer."""
        return self.decode(tokens, self.prefill(source, visible))[0]

    def attention_weights(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """Attention weights of target tokens over source positions [B, T, S]."""
        weights = self.decode(tokens, self.prefill(source, visible))[1]
        assert weights is not None, "this network has no attention"
        return weights

    def prefill(self, source: Tensor, visible: Tensor) -> DecoderState:
        """The state before the first target token, given sources [B, S] whose real tokens are `visible`."""
        memory, final = self.encoder(self.embed_source(source), visible)
        initial = [part for h in final for part in (h, torch.zeros_like(h))[: self.decoder.tensors_per_layer]]
        attended = [memory, self.attention.keys(memory), visible] if self.attends else []
        return (*initial, *attended, *final[-1:] * self.peeky)

    def step(self, state: DecoderState, token: Tensor) -> tuple[Tensor, DecoderState]:  # [B] -> [B, V]
        hidden, _, state = self.decode(token[:, None], state)
        return self.out(hidden)[:, 0], state

    def decode(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, Tensor | None, DecoderState]:
        """Final hidden states [B, T, D], attention weights [B, T, S] if any, and the state after these tokens [B, T]."""
        count = self.decoder.tensors_per_layer * len(self.decoder.units)
        recurrent_state, source = state[:count], state[count:]
        x = self.embed(tokens)
        peeked = [source[-1][:, None].expand(-1, tokens.shape[1], -1)] if self.peeky else []
        h, _, recurrent_state = self.decoder(torch.cat([x, *peeked], 2), recurrent_state)
        hidden, weights = h, None
        if self.attends:
            memory, keys, visible = source[:3]
            weights = self.attention(h, keys, visible)
            hidden = self.combine(torch.cat([weights.to(memory.dtype) @ memory, h], 2)).tanh()
        hidden = self.drop(torch.cat([hidden, *peeked], 2))
        return hidden, weights, (*recurrent_state, *source)
