"""Layers of a recurrent cell, one above the other: that of Elman 1990, Cho et al. 2014 (GRU), or Hochreiter & Schmidhuber
1997 (LSTM), each over all time steps in one call.

B batch, T time, D inputs, H units of a layer.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dlref import operators
from dlref.errors import ConfigError
from dlref.interfaces import Hidden
from dlref.models.layers import Dropout

Cell = Literal["rnn", "gru", "lstm"]
State = tuple[Tensor, ...]  # of each layer its h [B, H], and an LSTM's c [B, H] behind it
LAYERS: dict[str, tuple[Any, Any]] = {
    "rnn": (nn.RNN, torch.rnn_tanh),
    "gru": (nn.GRU, torch.gru),
    "lstm": (nn.LSTM, torch.lstm),
}


def require_sizes(width: int, hidden: int, layers: int) -> None:
    """Raise ConfigError for sizes below 1."""
    if min(width, hidden, layers) < 1:
        raise ConfigError(f"network.width {width}, hidden {hidden} and layers {layers} take 1 or more")


class RecurrentLayers(nn.Module):
    """A layer for each two neighbours of `widths`, of so many inputs and units.

    `dropout` is the share of units that are dropped in training before each layer, and behind the last: one more than
    there are layers. If `variational`, one mask serves all time steps of a batch (Gal & Ghahramani 2016, section 4), else
    one is drawn for each. `weight_drop` is the share of recurrent weights that are 0 for a batch (Merity et al. 2018,
    section 2). Raises ConfigError for shares that make no sense.
    """

    def __init__(
        self,
        cell: Cell,
        widths: Sequence[int],
        dropout: Sequence[float],
        variational: bool = False,
        weight_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.cell, self.units = cell, list(widths[1:])
        self.parts = 2 if cell == "lstm" else 1  # of a layer's state
        self.drops = nn.ModuleList(Dropout(share, variational) for share in dropout)
        self.weight_drop = Dropout(weight_drop)
        kind = LAYERS[cell][0]
        self.layers = nn.ModuleList(kind(inputs, units, batch_first=True) for inputs, units in pairwise(widths))

    def forward(self, x: Tensor, state: State) -> Hidden:
        """Hidden states of the last layer [B, T, H], with and without dropout, and the state after the last time step."""
        end: list[Tensor] = []
        h = x = self.drops[0](x)
        for number in range(len(self.layers)):
            h, last = self.run(number, x, state[number * self.parts : (number + 1) * self.parts])
            end += last
            x = self.drops[number + 1](h)
        return Hidden(x, h, tuple(end))

    def run(self, number: int, x: Tensor, state: State) -> tuple[Tensor, list[Tensor]]:
        """One layer over all time steps, whatever is dropped of its weights: every h [B, T, H], and its last state."""
        layer: Any = self.layers[number]
        weights = [layer.weight_ih_l0, self.weight_drop(layer.weight_hh_l0), layer.bias_ih_l0, layer.bias_hh_l0]
        first = [part[None].to(x.dtype) for part in state]  # which a run in another precision may have left
        state_in = first if self.cell == "lstm" else first[0]
        h, *last = operators.recurrent(LAYERS[self.cell][1], x, state_in, weights, self.training)
        return h, [part[0] for part in last]

    def start(self, rows: int) -> State:
        """The state before anything was read: 0."""
        weight: Any = self.layers[0].weight_hh_l0
        return tuple(weight.new_zeros(rows, units) for units in self.units for _ in range(self.parts))
