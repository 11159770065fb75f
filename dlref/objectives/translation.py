"""What a sequence is to become, token by token: cross-entropy of each, given the source and the right tokens before it."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators
from dlref.errors import ConfigError
from dlref.interfaces import EncoderDecoder, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Objective, at_least_float32
from dlref.objectives.fused.linear_cross_entropy import LinearCrossEntropy, cross_entropy

# torch 2.11 stumbles over a number of rows that it does not know.
score = operators.uncompiled(LinearCrossEntropy.apply)


class Translation(Objective):
    """`nll` is in nats per target token, its end included; padding is not counted.

    Teacher forcing (Williams & Zipser 1989): the network reads the right tokens, not its own. With `smoothing` ε the loss is
    that of the right token with share 1 - ε, and of all V with ε / V each (Szegedy et al. 2016, section 7): nll plus ε times
    what the right score lies above the mean one.
    """

    net: Any
    nll_unit = "token"

    def __init__(self, net: nn.Module, smoothing: float = 0.0) -> None:
        super().__init__(net)
        if not declares(net, EncoderDecoder):
            raise ConfigError(
                f"objective Translation is for networks with dlref.interfaces.EncoderDecoder, not {type(net).__name__}; "
                "choose model=seq2seq or transformer"
            )
        if not 0 <= smoothing < 1:
            raise ConfigError(f"objective.smoothing is {smoothing}; it takes a share from 0 to below 1")
        self.smoothing = smoothing

    def forward(self, batch: Any) -> Totals:
        features = self.net.hidden(batch.source, batch.visible, batch.tokens)[batch.counted]
        targets, out = batch.targets[batch.counted], self.net.out
        if self.training:
            nll, hits = score(features, out.weight, out.bias, targets)
        else:
            nll, hits = cross_entropy(at_least_float32(out(features)), targets)
        count = len(targets)
        return {
            "loss": Mean(nll + self.smooth(features, targets), count),
            "nll": Mean(nll.detach(), count),
            "accuracy": Mean(hits, count),
        }

    def smooth(self, features: Tensor, targets: Tensor) -> Tensor | float:  # [N, D], [N]
        if not (self.training and self.smoothing):
            return 0.0
        weight, bias = self.net.out.weight, self.net.out.bias
        above = at_least_float32(features) * (F.embedding(targets, weight) - weight.mean(0))
        return self.smoothing * (above.sum() + bias[targets].sum() - len(targets) * bias.mean())
