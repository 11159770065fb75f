"""Recurrent cells as printed equal torch's layers, with their dropout, and a language model's loss equals its equation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.equations import recurrent
from dlref.interfaces import TokenBatch
from dlref.metrics import Totals, add
from dlref.models.layers import Dropout
from dlref.models.recurrent_lm import RecurrentLM
from dlref.objectives.language_modelling import LanguageModelling
from tests.proofs.harness import EXACT, agree, proves, random

L, B, D, H, T = 2, 3, 4, 5, 6  # layers, batch, inputs, units, time
KINDS: list[tuple[int, Callable[..., recurrent.CellState], type[nn.RNNBase]]] = [  # with their number of gates
    (1, recurrent.rnn_step, nn.RNN),
    (4, recurrent.lstm_step, nn.LSTM),
    (3, recurrent.gru_step, nn.GRU),
]


def weights(gates: int, inputs: int, seed: int = 0) -> list[Tensor]:
    """Random weights of one layer in torch's layout: gates stacked, and one bias for each of the two matrices."""
    rows = gates * H
    return [random(rows, inputs, seed=seed), random(rows, H, seed=seed + 1), *random(2, rows, seed=seed)]


def as_printed(gates: int, w_in: Tensor, w_rec: Tensor, bias: Tensor, other_bias: Tensor) -> list[Tensor]:
    """The weights as the equations take them: both biases added, except those of the GRU's third gate, the candidate."""
    if gates == 1:
        return [w_in, w_rec, bias + other_bias]
    units = w_rec.shape[1]
    biases = (bias + other_bias).view(gates, units)
    w_in, w_rec = w_in.view(gates, units, -1), w_rec.view(gates, units, units)
    if gates == 4:
        return [w_in, w_rec, biases]
    return [w_in, w_rec, torch.stack([*biases[:2], bias[2 * units :]]), other_bias[2 * units :]]


def layers(kind: type[nn.RNNBase], x: Tensor, states: tuple[Tensor, ...], *given: Tensor) -> tuple[Tensor, ...]:
    """torch's layers with these weights: hidden states of the last layer, and the final h (and c) of each layer."""
    net = kind(x.shape[2], H, len(given) // 4, batch_first=True, dtype=x.dtype)
    named = dict(zip([name for name, _ in net.named_parameters()], given, strict=True))
    h, final = torch.func.functional_call(net, named, (x, states if kind is nn.LSTM else states[0]))
    return (h, *final) if kind is nn.LSTM else (h, final)


def agree_with_torch(equation: Any, gates: int, kind: type[nn.RNNBase]) -> None:
    states = [random(B, H), random(B, H, seed=1)][: 2 if kind is nn.LSTM else 1]
    count = len(states)

    def fast(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        initial = tuple(state[None] for state in given[:count])
        return tuple(state[0] for state in layers(kind, x[:, None], initial, *given[count:])[1:])

    agree(
        lambda x, *given: equation(x, given[:count], *as_printed(gates, *given[count:])),
        fast,
        random(B, D),
        *states,
        *weights(gates, D),
    )


@proves(recurrent.net_input)
def net_input(equation: Any) -> None:
    agree(
        equation,
        lambda x, h, w, u, b: F.linear(x, w, b) + F.linear(h, u),
        *(random(B, D), random(B, H), random(H, D), random(H, H), random(H)),
    )


@proves(recurrent.rnn_step)
def rnn_step(equation: Any) -> None:
    agree_with_torch(equation, 1, nn.RNN)


@proves(recurrent.lstm_step)
def lstm_step(equation: Any) -> None:
    agree_with_torch(equation, 4, nn.LSTM)


@proves(recurrent.gru_step)
def gru_step(equation: Any) -> None:
    agree_with_torch(equation, 3, nn.GRU)


@proves(recurrent.unroll)
def unroll(equation: Any) -> None:
    """Two layers of each kind, from states that are not 0."""
    for gates, step, kind in KINDS:
        states = [random(L, B, H), random(L, B, H, seed=1)][: 2 if kind is nn.LSTM else 1]
        count = len(states)

        def slow(
            x: Tensor, *given: Tensor, gates: int = gates, step: Any = step, count: int = count
        ) -> tuple[Tensor, ...]:
            both = [as_printed(gates, *given[count : count + 4]), as_printed(gates, *given[count + 4 :])]
            outputs, final = equation(step, x, list(zip(*given[:count], strict=True)), both)
            return outputs, *(torch.stack(parts) for parts in zip(*final, strict=True))

        agree(
            slow,
            lambda x, *given, kind=kind, count=count: layers(kind, x, given[:count], *given[count:]),
            random(B, T, D),
            *states,
            *weights(gates, D),
            *weights(gates, H, seed=7),
        )


@proves(recurrent.variational_dropout)
def variational_dropout(equation: Any) -> None:
    """Inputs and outputs of an LSTM, each with a mask of its own."""
    kept_in, kept_out = random(B, D) > 0, random(B, H) > 0

    def slow(x: Tensor, h: Tensor, c: Tensor, *given: Tensor) -> Tensor:
        states = [(h[0], c[0])]
        outputs, _ = recurrent.unroll(recurrent.lstm_step, equation(x, kept_in, 0.3), states, [as_printed(4, *given)])
        return equation(outputs, kept_out, 0.3)

    def fast(x: Tensor, h: Tensor, c: Tensor, *given: Tensor) -> Tensor:
        outputs = layers(nn.LSTM, x * kept_in[:, None] / 0.7, (h, c), *given)[0]
        return outputs * kept_out[:, None] / 0.7

    agree(slow, fast, random(B, T, D), random(1, B, H), random(1, B, H, seed=1), *weights(4, D))


@proves(recurrent.weight_drop)
def weight_drop(equation: Any) -> None:
    """torch's LSTM with masked recurrent weights, the same for all time steps and rows."""
    kept = random(4, H, H) > 0

    def slow(x: Tensor, h: Tensor, c: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        w_in, w_rec, bias = as_printed(4, *given)
        dropped = [w_in, equation(w_rec, kept, 0.3), bias]
        outputs, final = recurrent.unroll(recurrent.lstm_step, x, [(h[0], c[0])], [dropped])
        return outputs, *(state[None] for state in final[0])

    def fast(x: Tensor, h: Tensor, c: Tensor, w_in: Tensor, w_rec: Tensor, *biases: Tensor) -> tuple[Tensor, ...]:
        return layers(nn.LSTM, x, (h, c), w_in, w_rec * kept.flatten(0, 1) / 0.7, *biases)

    agree(slow, fast, random(B, T, D), random(1, B, H), random(1, B, H, seed=1), *weights(4, D))


@proves(recurrent.log_softmax)
def log_softmax(equation: Any) -> None:
    agree(equation, lambda s: F.log_softmax(s, dim=2), 2 * random(B, T, 7))


class FixedLogits(nn.Module):
    """A network with the same logits for any tokens."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.logits, ()


def totals_of(logits: Tensor, targets: Tensor) -> Totals:
    return LanguageModelling(FixedLogits(logits))(TokenBatch(targets, targets, True))


def random_tokens(batch: int, time: int) -> Tensor:
    return torch.randint(7, (batch, time), generator=torch.Generator().manual_seed(time))


@proves(recurrent.total_nll)
def total_nll(equation: Any) -> None:
    targets = random_tokens(B, T)
    agree(
        lambda s: equation(s, targets),
        lambda s: torch.as_tensor(totals_of(s, targets)["loss"].total),
        2 * random(B, T, 7),
    )


@proves(recurrent.perplexity)
def perplexity(equation: Any) -> None:
    """Over segments of 18 and 6 tokens, where neither their mean perplexity nor their mean loss would do."""
    totals: Totals = {}
    nats, tokens = [], []
    for time in (T, 2):
        logits, targets = 2 * random(B, time, 7), random_tokens(B, time)
        nats.append(float(recurrent.total_nll(logits, targets)))
        tokens.append(targets.numel())
        totals = add(totals, totals_of(logits, targets))
    found = LanguageModelling(nn.Identity()).summarize(totals)["perplexity"]
    torch.testing.assert_close(equation(nats, tokens), found, **EXACT)


class Recorded(Dropout):
    """Dropout that records which units it keeps."""

    def __init__(self, probability: float, variational: bool = False) -> None:
        super().__init__(probability, variational)
        self.kept: list[Tensor] = []

    def mask(self, x: Tensor) -> Tensor:
        mask = super().mask(x)
        self.kept.append(mask > 0)
        return mask

    @property
    def rate(self) -> float:
        """The probability, as rounded by `Dropout`."""
        return self.dropped / 256


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("number", range(3))
def test_the_language_model_equals_its_equations(number: int, tied: bool) -> None:
    """Two layers with every kind of dropout, over two segments with a carried state: the loss and every gradient."""
    torch.manual_seed(3)
    gates, step, kind = KINDS[number]
    cell = kind.__name__.lower()
    net = RecurrentLM(7, D, L, H, cell, tied, dropout=0.3, variational=True, word_dropout=0.2, weight_drop=0.4).double()
    objective, (tokens, targets) = LanguageModelling(net), (random_tokens(B, T), random_tokens(B, T + 1)[:, 1:])
    words = net.word_drop = Recorded(0.2)
    drops = [Recorded(0.3, variational=True) for _ in range(L + 1)]
    net.recurrent.drops, weight_drop = nn.ModuleList(drops), Recorded(0.4)
    net.recurrent.weight_drop = weight_drop
    pieces = [(slice(0, 4), True), (slice(4, T), False)]
    parts = [objective(TokenBatch(tokens[:, part], targets[:, part], begins)) for part, begins in pieces]
    fast = sum(torch.as_tensor(part["loss"].total) for part in parts)

    p = dict(net.named_parameters())
    slow = torch.zeros(())
    states: list[Any] = [
        [torch.zeros(B, width, dtype=torch.float64)] * (1 + (gates == 4)) for width in (H, D if tied else H)
    ]
    for number, (part, _) in enumerate(pieces):
        scale = (words.kept[number].double() / (1 - words.rate))[tokens[:, part]]
        x = p["embed.weight"][tokens[:, part]] * scale
        for layer in range(L):
            x = recurrent.variational_dropout(x, drops[layer].kept[number][:, 0], drops[layer].rate)
            names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            w_in, w_rec, *biases = (p[f"recurrent.layers.{layer}.{name}"] for name in names)
            units = w_rec.shape[1]
            kept = weight_drop.kept[L * number + layer].view(gates, units, units)
            w_rec = recurrent.weight_drop(w_rec.view(gates, units, units), kept, weight_drop.rate).flatten(0, 1)
            given = as_printed(gates, w_in, w_rec, *biases)
            state = tuple(each.detach() for each in states[layer])
            x, (states[layer],) = recurrent.unroll(step, x, [state], [given])
        x = recurrent.variational_dropout(x, drops[L].kept[number][:, 0], drops[L].rate)
        logits = x @ (p["embed.weight"] if tied else p["out.weight"]).T + p["out.bias"]
        slow = slow + recurrent.total_nll(logits, targets[:, part])
    torch.testing.assert_close(fast, slow, **EXACT)
    for mine, theirs in zip(*(torch.autograd.grad(total, list(p.values())) for total in (fast, slow)), strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)
