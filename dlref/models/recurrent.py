"""Recurrent language models: Mikolov et al. 2010, with the cell of Elman 1990, Cho et al. 2014 (GRU) or Hochreiter &
Schmidhuber 1997 (LSTM), regularised as in Zaremba et al. 2014, Gal & Ghahramani 2016, and Merity et al. 2018.

B batch, T time, D width, H hidden width, L layers, V vocabulary.
"""

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.models.layers import Dropout

Cell = Literal["rnn", "gru", "lstm"]
State = tuple[Tensor, ...]  # of each layer its h [B, H], and an LSTM's c [B, H] behind it
LAYERS: dict[str, tuple[Any, Any]] = {
    "rnn": (nn.RNN, torch.rnn_tanh),
    "gru": (nn.GRU, torch.gru),
    "lstm": (nn.LSTM, torch.lstm),
}


class RecurrentLM(nn.Module):
    """Word vectors of `width`, `layers` of a recurrent cell, and the next word's scores, unnormalised logarithms.

    All layers are as wide as the word vectors, or `hidden` where it is set. With `tied` the scores use the word vectors again
    (Press & Wolf 2017), and the last layer is as wide as these.

    Shares that are dropped in training: `dropout` of the units before each layer and before the scores, one mask for all
    time steps of a batch if it is `variational` (Gal & Ghahramani 2016, section 4), else drawn for each; `input_dropout` and
    `output_dropout` replace it at the word vectors and before the scores; `word_dropout` of the vocabulary, whose vectors
    are 0 for a batch; `weight_drop` of the recurrent weights, likewise (Merity et al. 2018, section 2). `sparse` makes the
    word vectors' gradient one of rows, which plain gradient descent takes faster. Raises ConfigError for shares and sizes
    that make no sense.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        layers: int = 1,
        hidden: int | None = None,
        cell: Cell = "lstm",
        tied: bool = True,
        dropout: float = 0.0,
        input_dropout: float | None = None,
        output_dropout: float | None = None,
        variational: bool = False,
        word_dropout: float = 0.0,
        weight_drop: float = 0.0,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        hidden = width if hidden is None else hidden
        input_dropout = dropout if input_dropout is None else input_dropout
        output_dropout = dropout if output_dropout is None else output_dropout
        if min(width, hidden, layers) < 1:
            raise ConfigError(f"network.width {width}, hidden {hidden} and layers {layers} take 1 or more")
        if tied and sparse:
            raise ConfigError(
                "network.sparse is for word vectors that the scores do not use; set network.tied=false too"
            )
        self.cell, self.variational = cell, variational
        self.drops = nn.ModuleList(
            Dropout(share) for share in (input_dropout, *[dropout] * (layers - 1), output_dropout)
        )
        self.word_drop, self.weight_drop = Dropout(word_dropout), Dropout(weight_drop)
        widths = [width, *[hidden] * (layers - 1), width if tied else hidden]
        kind = LAYERS[cell][0]
        self.widths = widths[1:]
        self.embed = nn.Embedding(vocab_size, width, sparse=sparse)
        self.layers = nn.ModuleList(kind(inputs, outputs, batch_first=True) for inputs, outputs in pairwise(widths))
        self.out = nn.Linear(widths[-1], vocab_size)
        if tied:
            self.out.weight = self.embed.weight
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        nn.init.uniform_(self.out.weight, -0.1, 0.1)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:  # [B, T] -> [B, T, V]
        features, _, state = self.read(tokens, state)
        return self.out(features), state

    def read(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """What `out` makes scores of [B, T, D], the same before dropout, and the state behind the last token."""
        x = self.drop(self.vectors(tokens), 0)
        begin = self.start(len(tokens)) if state is None else state
        size = len(begin) // len(self.layers)
        end: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            h, last = self.run(layer, x, begin[number * size : (number + 1) * size])
            end += last
            x = self.drop(h, number + 1)
        return x, h, tuple(end)

    def vectors(self, tokens: Tensor) -> Tensor:  # [B, T] -> [B, T, D]
        if not (self.training and self.word_drop.dropped):
            return self.embed(tokens)
        return self.embed(tokens) * self.word_drop(self.embed.weight.new_ones(self.embed.num_embeddings, 1))[tokens]

    def drop(self, x: Tensor, place: int) -> Tensor:  # [B, T, D]
        drop = self.drops[place]
        if not (self.training and drop.dropped):
            return x
        return x * drop(torch.ones_like(x[:, :1])) if self.variational else drop(x)

    def run(self, layer: Any, x: Tensor, state: State) -> tuple[Tensor, list[Tensor]]:
        """One layer over all time steps in one call, whatever is dropped of its weights."""
        weights = [layer.weight_ih_l0, self.weight_drop(layer.weight_hh_l0), layer.bias_ih_l0, layer.bias_hh_l0]
        first = [part[None] for part in state]
        h, *last = LAYERS[self.cell][1](
            x, first if self.cell == "lstm" else first[0], weights, True, 1, 0.0, self.training, False, True
        )
        return h, [part[0] for part in last]

    def start(self, rows: int) -> State:
        """The state before anything was read: 0."""
        parts = 2 if self.cell == "lstm" else 1
        return tuple(self.out.weight.new_zeros(rows, width) for width in self.widths for _ in range(parts))

    def begin(self, context: Tensor) -> State:
        """The state behind tokens [B, T], of which there may be none."""
        return self.read(context)[2] if context.shape[1] else self.start(len(context))

    def step(self, state: State, token: Tensor) -> tuple[Tensor, State]:  # [B] -> [B, V]
        logits, state = self(token[:, None], state)
        return logits[:, 0], state
