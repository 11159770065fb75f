"""The recurrent language model: Mikolov et al. 2010, with the LSTM of Hochreiter & Schmidhuber 1997.

Dropout between the layers only, as in Zaremba et al. 2014.
"""

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError

State = tuple[Tensor, Tensor]  # hidden and cell, each [L, B, D]


class RecurrentLM(nn.Module):
    """Word vectors, `layers` LSTM layers of the same width, and word scores from the transposed word vectors.

    B batch, T time, D width, L layers, V vocabulary.
    """

    def __init__(self, vocab_size: int, width: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if width < 1 or layers < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                f"network.width {width} and layers {layers} take 1 or more, dropout {dropout} from 0 to below 1"
            )
        self.embed = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, width, layers, dropout=dropout if layers > 1 else 0.0, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, vocab_size)
        self.out.weight = self.embed.weight  # Press & Wolf 2017
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:  # [B, T] -> [B, T, V]
        # The recurrence stays in full precision: its errors compound over time, and few CPUs have the half one.
        with torch.autocast(tokens.device.type, enabled=False):
            h, state = self.lstm(self.dropout(self.embed(tokens)), state)
        return self.out(self.dropout(h)), state
