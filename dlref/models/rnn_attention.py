"""Which parts of what was read matter now: Bahdanau et al. 2015 and Luong et al. 2015.

B batch, T queries, S places that are attended to, H units.
"""

import math
from typing import Any, Literal

from torch import Tensor, nn

Score = Literal["additive", "dot", "general", "scaled"]


class Attention(nn.Module):
    """Shares of what each query attends to, from one of four scores of a query q and a place's h:

    `dot` q · h, `general` q · W h (Luong et al. 2015, equation 8), `scaled` q · h / √H (Vaswani et al. 2017, equation 1), and
    `additive` v · tanh(U q + W h) (Bahdanau et al. 2015, appendix A.1.2).
    """

    def __init__(self, score: Score, units: int) -> None:
        super().__init__()
        self.score = score
        if score in ("general", "additive"):
            self.of_key = nn.Linear(units, units, bias=False)
        if score == "additive":
            self.of_query: Any = nn.Linear(units, units)
            self.of_both: Any = nn.Linear(units, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:  # [B, S, H] -> [B, S, H]
        """What all queries are compared with, computed once."""
        if self.score == "scaled":
            return memory / math.sqrt(memory.shape[2])
        return memory if self.score == "dot" else self.of_key(memory)

    def forward(
        self, queries: Tensor, keys: Tensor, visible: Tensor
    ) -> Tensor:  # [B, T, H], …, [B, S] bool -> [B, T, S]
        if self.score == "additive":
            scores = self.of_both((self.of_query(queries)[:, :, None] + keys[:, None]).tanh()).squeeze(3)
        else:
            scores = queries @ keys.transpose(1, 2)
        return scores.masked_fill(~visible[:, None], -math.inf).softmax(2)
