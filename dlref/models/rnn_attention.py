"""Attention of recurrent networks: Bahdanau et al. 2015 and Luong et al. 2015.

B batch, T queries, S source positions, H units.
"""

import math
from typing import Literal

from torch import Tensor, nn

Score = Literal["additive", "dot", "general", "scaled"]


class RNNAttention(nn.Module):
    """Attention weights, the softmax over source positions of one of four scores of a query q and a hidden state h:

    `dot` q · h, `general` q · W h (Luong et al. 2015, equation 8), `scaled` q · h / √H (Vaswani et al. 2017, equation 1), and
    `additive` v · tanh(U q + W h) (Bahdanau et al. 2015, appendix A.1.2).
    """

    def __init__(self, score: Score, units: int) -> None:
        super().__init__()
        self.score = score
        if score in ("general", "additive"):
            self.key_projection = nn.Linear(units, units, bias=False)
        if score == "additive":
            self.query_projection = nn.Linear(units, units)
            self.additive_score = nn.Linear(units, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:  # [B, S, H] -> [B, S, H]
        """Keys of the encoder's hidden states, computed once for all queries."""
        if self.score == "scaled":
            return memory / math.sqrt(memory.shape[2])
        return memory if self.score == "dot" else self.key_projection(memory)

    def forward(
        self, queries: Tensor, keys: Tensor, visible: Tensor
    ) -> Tensor:  # [B, T, H], [B, S, H], [B, S] bool -> [B, T, S]
        if self.score == "additive":
            logits = self.additive_score((self.query_projection(queries)[:, :, None] + keys[:, None]).tanh()).squeeze(3)
        else:
            logits = queries @ keys.transpose(1, 2)
        return logits.masked_fill(~visible[:, None], -math.inf).softmax(2)
