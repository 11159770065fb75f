"""The next token, given those before: cross-entropy, with the network's state carried from piece to piece."""

from typing import Any

import torch.nn.functional as F

from dlref.metrics import Mean, Totals
from dlref.objectives import Carrying, at_least_float32


class LanguageModelling(Carrying):
    """`nll` is in nats per token, so the perplexity is per token too.

    Truncated back-propagation through time (Williams & Peng 1990): a piece begins with the state that the one before
    ended with. Training and evaluation each carry their own.
    """

    def forward(self, batch: Any) -> Totals:
        state = None if batch.begins else self.states[self.training]
        logits, state = self.net(batch.tokens, state)
        # The gradient stops here: the state is carried over, its history is not.
        self.states[self.training] = tuple(part.detach() for part in state)
        logits, targets = at_least_float32(logits).flatten(0, 1), batch.targets.flatten()
        nll = F.cross_entropy(logits, targets, reduction="sum")
        count = len(targets)
        return {
            "loss": Mean(nll, count),
            "nll": Mean(nll, count),
            "accuracy": Mean((logits.argmax(1) == targets).sum(), count),
        }
