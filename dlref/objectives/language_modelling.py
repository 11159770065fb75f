"""The next token, given those before: cross-entropy, with the network's state carried from piece to piece."""

from typing import Any

from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import LanguageModel, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Carrying, at_least_float32
from dlref.objectives.fused.linear_cross_entropy import LinearCrossEntropy, cross_entropy


class LanguageModelling(Carrying):
    """`nll` is in nats per token, so the perplexity is per token too.

    Truncated back-propagation through time (Williams & Peng 1990): a piece begins with the state that the one before
    ended with. Training and evaluation each carry their own. In training `loss` also has, per token, `activation` times
    the mean square of what the scores are made of, and `change` times that of its change from token to token, before
    dropout (Merity et al. 2017, *Revisiting activation regularization for language RNNs*).
    """

    net: Any
    nll_unit = "token"

    def __init__(self, net: nn.Module, activation: float = 0.0, change: float = 0.0) -> None:
        super().__init__(net)
        self.has_hidden_states = declares(net, LanguageModel)
        if (activation or change) and not self.has_hidden_states:
            raise ConfigError(
                "objective.activation and change are for networks with dlref.interfaces.LanguageModel, "
                f"not {type(net).__name__}"
            )
        self.activation, self.change = activation, change

    def forward(self, batch: Any) -> Totals:
        state = None if batch.begins else self.states[self.training]
        targets, new = batch.targets.flatten(), slice(-batch.targets.shape[1], None)  # the others are there to be seen
        penalty: Tensor | float = 0.0
        if self.has_hidden_states:
            hidden = self.net.hidden(batch.tokens, state)
            out, features, state = self.net.out, hidden.dropped[:, new], hidden.state
            logits = None if self.training else out(features)
        else:
            logits, state = self.net(batch.tokens, state)
            logits = logits[:, new]
        if logits is None:
            nll, hits = LinearCrossEntropy.apply(features.flatten(0, 1), out.weight, out.bias, targets)
            penalty = self.penalty(features, hidden.raw)
        else:
            nll, hits = cross_entropy(at_least_float32(logits).flatten(0, 1), targets)
        # The gradient stops here: the state is carried over, its history is not.
        self.states[self.training] = tuple(part.detach() for part in state)
        count = len(targets)
        return {
            "loss": Mean(nll + penalty, count),
            "nll": Mean(nll.detach(), count),
            "accuracy": Mean(hits, count),
        }

    def penalty(self, features: Tensor, raw: Tensor) -> Tensor | float:  # [B, T, D] each
        total: Tensor | float = 0.0
        if self.activation:
            total = total + self.activation * at_least_float32(features).square().mean(2).sum()
        if self.change and raw.shape[1] > 1:
            steps = at_least_float32(raw[:, 1:] - raw[:, :-1]).square().mean((1, 2)).sum()
            total = total + self.change * steps * raw.shape[1]
        return total
