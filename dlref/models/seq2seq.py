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
from dlref.models.rnn_attention import Attention, Score

State = tuple[Tensor, ...]  # the decoder's own, each [B, H]; then what it knows of the source, each [B, ...]


class Encoder(nn.Module):
    """Layers of a recurrent cell over sources of different lengths.

    `reversed` reads each from its end (Sutskever et al. 2014, section 3.3); `bidirectional` reads it both ways, each with
    half of the units (Schuster & Paliwal 1997).
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
        self.reversed, ways = reversed, 2 if bidirectional else 1
        if any(units % ways for units in widths[1:]):
            raise ConfigError(f"network.hidden is {widths[-1]}; both directions share it, so it takes an even number")
        self.drops = nn.ModuleList(Dropout(share, variational) for share in dropout)
        self.layers = nn.ModuleList(
            nn.ModuleList(RecurrentLayers(cell, [inputs, units // ways], [0.0, 0.0]) for _ in range(ways))
            for inputs, units in pairwise(widths)
        )

    def forward(self, x: Tensor, visible: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Of word vectors [B, S, D]: the last layer's h at every place [B, S, H], each layer's behind the last [B, H]."""
        rows, places = torch.arange(len(x), device=x.device), torch.arange(x.shape[1], device=x.device)
        lengths = visible.sum(1, keepdim=True)
        turned = torch.where(visible, lengths - 1 - places, places) + rows[:, None] * len(places)

        def turn(x: Tensor) -> Tensor:  # each row around, its padding left behind it
            return x.flatten(0, 1).index_select(0, turned.flatten()).view_as(x)

        x, ends = turn(x) if self.reversed else x, []
        ways: Any
        for drop, ways in zip(self.drops, self.layers, strict=True):
            ahead, *back = ways
            x = drop(x)
            h = ahead.run(0, x, ahead.start(len(x)))[0]
            end = h[rows, lengths[:, 0] - 1]
            for way in back:
                other = turn(way.run(0, turn(x), way.start(len(x)))[0])
                h, end = torch.cat([h, other], 2), torch.cat([end, other[:, 0]], 1)
            ends.append(end)
            x = h
        return turn(x) if self.reversed else x, ends


class Seq2Seq(nn.Module, EncoderDecoder, Seq2SeqDecoder, HasCrossAttention):
    """An encoder, and a decoder that begins with what each layer of it ends with; the c of an LSTM begins at 0.

    All layers are as wide as the word vectors, or `hidden` where it is set. With `attention`, the decoder's h and the places
    of the source that it attends to, weighted, make the scores: tanh(W [context; h]) (Luong et al. 2015, equation 5);
    without, h alone. A `peeky` decoder also sees the encoder's last h at every step, before its layers and before the
    scores (Cho et al. 2014, equations 1 and 2). `tied` scores use the word vectors again (Press & Wolf 2017). With
    `shared_embeddings` source and target have one vocabulary and one table of word vectors.

    `dropout` is the share of units dropped before each layer and before the scores, `input_dropout` and `output_dropout`
    replace it at the word vectors and before the scores; one mask for all time steps if `variational`. `init` is how weights
    but the word vectors begin. Raises ConfigError for sizes and shares that make no sense.
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
            self.attend, self.combine = Attention(attention, hidden), nn.Linear(2 * hidden, features)
        self.drop = Dropout(dropout if output_dropout is None else output_dropout, variational)
        self.out = nn.Linear(features + hidden * peeky, target_vocab_size)
        if tied:
            if self.out.weight.shape != self.embed.weight.shape:
                raise ConfigError(
                    f"network.tied takes scores of as many features as the width {width}, not {self.out.in_features}; set "
                    "attention and no peeky, or hidden to the width"
                )
            self.out.weight = self.embed.weight
        initialize(self, init)
        for embed in dict.fromkeys([self.embed, self.embed_source]):  # one, if they are joint
            nn.init.normal_(embed.weight, 0.0, width**-0.5)

    def forward(
        self, source: Tensor, visible: Tensor, tokens: Tensor
    ) -> Tensor:  # [B, S], [B, S] bool, [B, T] -> [B, T, V]
        return self.out(self.hidden(source, visible, tokens))

    def hidden(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, D], the input of the output layer."""
        return self.follow(tokens, self.prefill(source, visible))[0]

    def attention_weights(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """To which share each target token attends to each place of the source [B, T, S]."""
        shares = self.follow(tokens, self.prefill(source, visible))[1]
        assert shares is not None, "this network has no attention"
        return shares

    def prefill(self, source: Tensor, visible: Tensor) -> State:
        """The state after reading sources [B, S], of which those are real that are `visible`."""
        memory, ends = self.encoder(self.embed_source(source), visible)
        own = [part for end in ends for part in (end, torch.zeros_like(end))[: self.decoder.parts]]
        known = [memory, self.attend.keys(memory), visible] if self.attends else []
        return (*own, *known, *ends[-1:] * self.peeky)

    def step(self, state: State, token: Tensor) -> tuple[Tensor, State]:  # [B] -> [B, V]
        features, _, state = self.follow(token[:, None], state)
        return self.out(features)[:, 0], state

    def follow(self, tokens: Tensor, state: State) -> tuple[Tensor, Tensor | None, State]:
        """Features [B, T, D], what each token attends to [B, T, S] if any, and the state after these tokens [B, T]."""
        count = self.decoder.parts * len(self.decoder.units)
        own, known = state[:count], state[count:]
        x = self.embed(tokens)
        peeked = [known[-1][:, None].expand(-1, tokens.shape[1], -1)] if self.peeky else []
        h, _, own = self.decoder(torch.cat([x, *peeked], 2), own)
        features, shares = h, None
        if self.attends:
            memory, keys, visible = known[:3]
            shares = self.attend(h, keys, visible)
            features = self.combine(torch.cat([shares.to(memory.dtype) @ memory, h], 2)).tanh()
        features = self.drop(torch.cat([features, *peeked], 2))
        return features, shares, (*own, *known)
