"""Sequence-to-sequence learning: cross-entropy of each target token, given the source and the target tokens before it.

B pairs, T target tokens; N target tokens without padding; D width, V vocabulary.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators
from dlref.errors import ConfigError
from dlref.interfaces import EncoderDecoder, PairBatch, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Objective, at_least_float32
from dlref.objectives.fused.linear_cross_entropy import LinearCrossEntropy, cross_entropy

# torch 2.11 fails to compile it for a number of rows that is not constant.
linear_cross_entropy = operators.uncompiled(LinearCrossEntropy.apply)


class Translation(Objective[PairBatch]):
    """Cross-entropy of each target token, END included and padding excluded; `nll` is in nats per token.

    Teacher forcing (Williams & Zipser 1989): the decoder's input is the reference target, not its own output. With
    `label_smoothing` ε the loss is the cross-entropy with (1 - ε) one-hot + ε uniform (Szegedy et al. 2016, section 7),
    which is nll + ε (the target's logit - the mean logit).
    """

    net: Any  # EncoderDecoder
    nll_unit = "token"

    def __init__(self, net: nn.Module, label_smoothing: float = 0.0) -> None:
        super().__init__(net)
        if not declares(net, EncoderDecoder):
            raise ConfigError(
                f"objective Translation is for networks with dlref.interfaces.EncoderDecoder, not {type(net).__name__}; "
                "choose model=seq2seq or transformer"
            )
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"objective.label_smoothing is {label_smoothing}; it takes a number from 0 to below 1")
        self.label_smoothing = label_smoothing

    def forward(self, batch: PairBatch) -> Totals:
        features = self.net.hidden(batch.source, batch.visible, batch.tokens)[batch.counted]  # [N, D]
        targets, out = batch.targets[batch.counted], self.net.out
        if self.training:
            nll, hits = linear_cross_entropy(features, out.weight, out.bias, targets)
        else:
            nll, hits = cross_entropy(at_least_float32(out(features)), targets)
        count = len(targets)
        return {
            "loss": Mean(nll + self.smoothing_loss(features, targets), count),
            "nll": Mean(nll.detach(), count),
            "accuracy": Mean(hits, count),
        }

    def smoothing_loss(self, features: Tensor, targets: Tensor) -> Tensor | float:  # [N, D], [N]
        """ε Σ (the target's logit - the mean logit), computed without the logits."""
        if not (self.training and self.label_smoothing):
            return 0.0
        weight, bias = self.net.out.weight, self.net.out.bias
        differences = at_least_float32(features) * (F.embedding(targets, weight) - weight.mean(0))
        return self.label_smoothing * (differences.sum() + bias[targets].sum() - len(targets) * bias.mean())
