"""Attention and encoders as printed equal those of the networks; a row alone equals the same row in a padded batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.equations import attention
from dlref.interfaces import EncoderDecoder, PairBatch
from dlref.models.rnn_attention import RNNAttention, Score
from dlref.models.seq2seq import Encoder
from dlref.objectives.translation import Translation
from tests.proofs.harness import EXACT, agree, proves, random
from tests.proofs.test_recurrent_equations import KINDS, B, D, H, as_printed, weights

T, S, A = 2, 5, 6  # queries, keys, units of a context
VISIBLE = torch.tensor([[True] * words + [False] * (S - words) for words in (3, 5, 1)])


class AttentionWeights(RNNAttention):
    """The network's attention weights as a function of hidden states instead of keys."""

    def forward(self, q: Tensor, memory: Tensor, visible: Tensor) -> Tensor:
        return super().forward(q, self.keys(memory), visible)


def fast_weights(score: Score, q: Tensor, k: Tensor, *parameters: Tensor) -> Tensor:
    net = AttentionWeights(score, H)
    named = dict(zip([name for name, _ in net.named_parameters()], parameters, strict=True))
    return torch.func.functional_call(net, named, (q, k, VISIBLE))


def agree_on_weights(
    score: Score, slow: Callable[..., Callable[[Tensor, Tensor], Tensor]], *parameters: Tensor
) -> None:
    agree(
        lambda q, k, *w: attention.attention_weights(q, k, VISIBLE, slow(*w)),
        lambda q, k, *w: fast_weights(score, q, k, *w),
        *(random(B, T, H), random(B, S, H), *parameters),
    )


@proves(attention.dot)
def dot(equation: Any) -> None:
    agree_on_weights("dot", lambda: equation)


@proves(attention.scaled_dot)
def scaled_dot(equation: Any) -> None:
    agree_on_weights("scaled", lambda: equation)


@proves(attention.general)
def general(equation: Any) -> None:
    agree_on_weights("general", lambda w: lambda q, k: equation(q, k, w), random(H, H))


@proves(attention.additive)
def additive(equation: Any) -> None:
    agree_on_weights(
        "additive",
        lambda w_key, w_query, bias, v: lambda q, k: equation(q, k, w_query, w_key, bias, v[0]),
        *(random(H, H), random(H, H, seed=1), random(H), random(1, H)),
    )


@proves(attention.attention_weights)
def attention_weights(equation: Any) -> None:
    """A softmax over the words of each row, without padding."""

    def alone(q: Tensor, k: Tensor) -> Tensor:
        rows = []
        for b, words in enumerate(VISIBLE.sum(1).tolist()):
            rows.append(F.pad((q[b] @ k[b, :words].T).softmax(1), (0, S - words)))
        return torch.stack(rows)

    agree(lambda q, k: equation(q, k, VISIBLE, attention.dot), alone, random(B, T, H), random(B, S, H))


@proves(attention.contexts)
def contexts(equation: Any) -> None:
    agree(equation, torch.bmm, random(B, T, S), random(B, S, H))


@proves(attention.attentional)
def attentional(equation: Any) -> None:
    agree(
        equation,
        lambda c, h, w, b: torch.tanh(F.linear(torch.cat([c, h], dim=2), w, b)),
        *(random(B, T, A), random(B, T, H), random(7, A + H), random(7)),
    )


@proves(attention.peeky)
def peeky(equation: Any) -> None:
    agree(
        equation,
        lambda x, h: torch.cat([x, h[:, None].expand(-1, T, -1)], dim=2),
        *(random(B, T, A), random(B, H)),
    )


def encoded(
    kind: type[nn.RNNBase], x: Tensor, weights: Sequence[Tensor], *, bidirectional: bool = False, reversed: bool = False
) -> tuple[Tensor, Tensor]:
    """Hidden states of the network's encoder at every position, 0 at padding, and after the last word."""
    directions = 2 if bidirectional else 1
    cell: Any = kind.__name__.lower()
    net = Encoder(cell, [D, directions * H], [0.0], False, bidirectional, reversed)
    named = dict(zip([name for name, _ in net.named_parameters()], weights, strict=True))
    h, (last,) = torch.func.functional_call(net, named, (x, VISIBLE))
    return h * VISIBLE[:, :, None], last


def initial_state(kind: type[nn.RNNBase]) -> tuple[Tensor, ...]:
    return (torch.zeros(1, H, dtype=torch.float64),) * (2 if kind is nn.LSTM else 1)


@proves(attention.reverse)
def reverse(equation: Any) -> None:
    """Reading backward equals reversing the words, reading forward, and reversing the hidden states."""

    def slow(x: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        h, last = encoded(nn.RNN, equation(x, VISIBLE), given)
        return equation(h, VISIBLE), last

    agree(slow, lambda x, *given: encoded(nn.RNN, x, given, reversed=True), random(B, S, D), *weights(1, D))


@proves(attention.encode)
def encode(equation: Any) -> None:
    for gates, step, kind in KINDS:
        agree(
            lambda x, *given, gates=gates, step=step, kind=kind: equation(
                step, initial_state(kind), x, VISIBLE, as_printed(gates, *given)
            ),
            lambda x, *given, kind=kind: encoded(kind, x, given),
            *(random(B, S, D), *weights(gates, D)),
        )


@proves(attention.encode_both_ways)
def encode_both_ways(equation: Any) -> None:
    for gates, step, kind in KINDS:
        agree(
            lambda x, *given, gates=gates, step=step, kind=kind: equation(
                *(step, initial_state(kind), x, VISIBLE, as_printed(gates, *given[:4]), as_printed(gates, *given[4:]))
            ),
            lambda x, *given, kind=kind: encoded(kind, x, given, bidirectional=True),
            *(random(B, S, D), *weights(gates, D), *weights(gates, D, seed=7)),
        )


class FixedHidden(nn.Module, EncoderDecoder):
    """A network whose hidden states are its source."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(D, 7)

    def hidden(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        return source


@proves(attention.masked_cross_entropy)
def masked_cross_entropy(equation: Any) -> None:
    """The loss of the objective, without label smoothing in evaluation."""
    targets = torch.tensor([[1, 5, 2], [4, 0, 0]])
    counted = targets > 0
    for smoothing, training in ((0.0, True), (0.3, True), (0.3, False)):
        objective = Translation(FixedHidden(), smoothing).train(training)

        def fast(x: Tensor, weight: Tensor, bias: Tensor, objective: Any = objective) -> Tensor:
            named = {"net.out.weight": weight, "net.out.bias": bias}
            pairs = PairBatch(x, counted, targets, targets, counted)
            return torch.func.functional_call(objective, named, (pairs,))["loss"].total

        agree(
            lambda x, w, b, e=smoothing * training: equation(F.linear(x, w, b), targets, counted, e),
            fast,
            *(random(2, 3, D), random(7, D), random(7)),
        )


def test_padding_does_not_change_a_context() -> None:
    q, k = random(1, T, H), random(1, S, H)
    for words in range(1, S + 1):
        visible = torch.arange(S)[None] < words
        padded, alone = (
            attention.contexts(attention.attention_weights(q, keys, seen, attention.dot), keys)
            for keys, seen in ((k, visible), (k[:, :words], visible[:, :words]))
        )
        torch.testing.assert_close(padded, alone, **EXACT)
