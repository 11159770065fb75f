"""Stacked recurrent layers: Elman 1990 (RNN), Cho et al. 2014 (GRU) or Hochreiter & Schmidhuber 1997 (LSTM).

Each layer computes all time steps in one call. B batch, T time, D inputs, H units of a layer.
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
RecurrentState = tuple[Tensor, ...]  # for each layer h [B, H], followed by c [B, H] of an LSTM
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
    """A recurrent layer for each pair of consecutive `widths`, its inputs and its units.

    `dropout` is the probability of dropping a unit before each layer and after the last: one value more than there are
    layers. With `variational` one mask serves all time steps of a batch (Gal & Ghahramani 2016, section 4), otherwise one
    is sampled for each. `weight_drop` is the probability of dropping a recurrent weight for a batch (Merity et al. 2018,
    section 2). Raises ConfigError for probabilities outside [0, 0.99].
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
        self.tensors_per_layer = 2 if cell == "lstm" else 1  # of the state
        self.drops = nn.ModuleList(Dropout(probability, variational) for probability in dropout)
        self.weight_drop = Dropout(weight_drop)
        layer = LAYERS[cell][0]
        self.layers = nn.ModuleList(layer(inputs, units, batch_first=True) for inputs, units in pairwise(widths))

    def forward(self, x: Tensor, state: RecurrentState) -> Hidden:
        """Hidden states of the last layer [B, T, H], with and without dropout, and the state after the last time step."""
        final_state: list[Tensor] = []
        h = x = self.drops[0](x)
        for number in range(len(self.layers)):
            first = number * self.tensors_per_layer
            h, layer_state = self.run_layer(number, x, state[first : first + self.tensors_per_layer])
            final_state += layer_state
            x = self.drops[number + 1](h)
        return Hidden(x, h, tuple(final_state))

    def run_layer(self, number: int, x: Tensor, state: RecurrentState) -> tuple[Tensor, list[Tensor]]:
        """One layer over all time steps: its hidden states [B, T, H] and its final state."""
        layer: Any = self.layers[number]
        weights = [layer.weight_ih_l0, self.weight_drop(layer.weight_hh_l0), layer.bias_ih_l0, layer.bias_hh_l0]
        initial = [part[None].to(x.dtype) for part in state]  # a batch in another precision may have left it
        h, *final = operators.recurrent(
            LAYERS[self.cell][1], x, initial if self.cell == "lstm" else initial[0], weights, self.training
        )
        return h, [part[0] for part in final]

    def initial_state(self, batch_size: int) -> RecurrentState:
        """All zeros."""
        weight: Any = self.layers[0].weight_hh_l0
        return tuple(weight.new_zeros(batch_size, units) for units in self.units for _ in range(self.tensors_per_layer))
