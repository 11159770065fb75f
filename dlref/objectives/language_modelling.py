"""Language modeling: cross-entropy of the next token, with the hidden state carried from batch to batch.

B streams, T tokens of a segment, D width, V vocabulary.
"""

from typing import Any

from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import LanguageModel, TokenBatch, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Carrying, at_least_float32
from dlref.objectives.fused.linear_cross_entropy import LinearCrossEntropy, cross_entropy


class LanguageModelling(Carrying[TokenBatch]):
    """Cross-entropy of each next token; `nll` is in nats per token, so the perplexity is per token too.

    Truncated back-propagation through time (Williams & Peng 1990): each segment starts with the final state of the segment
    before it. Training and evaluation have separate states. In training `loss` also contains, per token, activation
    regularization, `ar` times the mean square of the final hidden states after dropout, and temporal activation
    regularization, `tar` times the mean square of their differences between consecutive tokens before dropout (Merity et
    al. 2017, *Revisiting activation regularization for language RNNs*).
    """

    net: Any  # LanguageModel, or another network with logits, state = net(tokens, state)
    nll_unit = "token"

    def __init__(self, net: nn.Module, ar: float = 0.0, tar: float = 0.0) -> None:
        super().__init__(net)
        self.has_hidden_states = declares(net, LanguageModel)
        if (ar or tar) and not self.has_hidden_states:
            raise ConfigError(
                f"objective.ar and tar are for networks with dlref.interfaces.LanguageModel, not {type(net).__name__}"
            )
        self.ar, self.tar = ar, tar

    def forward(self, batch: TokenBatch) -> Totals:
        state = None if batch.reset_state else self.states[self.training]
        predicted = slice(-batch.targets.shape[1], None)  # of overlapping windows only the last tokens
        targets = batch.targets.flatten()
        penalty: Tensor | float = 0.0
        if not self.has_hidden_states:
            logits, state = self.net(batch.tokens, state)
            nll, hits = cross_entropy(at_least_float32(logits[:, predicted]).flatten(0, 1), targets)
        else:
            hidden = self.net.hidden(batch.tokens, state)
            features, out, state = hidden.dropped[:, predicted], self.net.out, hidden.state
            if self.training:
                nll, hits = LinearCrossEntropy.apply(features.flatten(0, 1), out.weight, out.bias, targets)
                penalty = self.penalty(features, hidden.raw)
            else:
                nll, hits = cross_entropy(at_least_float32(out(features)).flatten(0, 1), targets)
        # The gradient stops here: the state is carried over, its history is not.
        self.states[self.training] = tuple(part.detach() for part in state)
        count = len(targets)
        return {
            "loss": Mean(nll + penalty, count),
            "nll": Mean(nll.detach(), count),
            "accuracy": Mean(hits, count),
        }

    def penalty(self, dropped: Tensor, raw: Tensor) -> Tensor | float:  # [B, T, D] each
        """The regularization of a batch, summed over its tokens."""
        total: Tensor | float = 0.0
        if self.ar:
            total = total + self.ar * at_least_float32(dropped).square().mean(2).sum()
        if self.tar and raw.shape[1] > 1:
            squares = at_least_float32(raw[:, 1:] - raw[:, :-1]).square().mean((1, 2)).sum()
            total = total + self.tar * squares * raw.shape[1]
        return total
