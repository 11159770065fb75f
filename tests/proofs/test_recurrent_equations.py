"""One step after the other = torch's recurrent layers: their sequences, their dropout, and a language model's loss."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.data.text.token_streams import Piece
from dlref.equations import recurrent
from dlref.metrics import Totals, add
from dlref.models.layers import Dropout
from dlref.models.recurrent_lm import RecurrentLM
from dlref.objectives.language_modelling import LanguageModelling
from tests.proofs.harness import EXACT, agree, proves, random

L, B, D, H, T = 2, 3, 4, 5, 6  # layers, batch, inputs, units, time
KINDS: list[tuple[int, Callable[..., recurrent.State], type[nn.RNNBase]]] = [  # by how many matrices are stacked
    (1, recurrent.rnn_step, nn.RNN),
    (4, recurrent.lstm_step, nn.LSTM),
    (3, recurrent.gru_step, nn.GRU),
]


def weights(gates: int, inputs: int, seed: int = 0) -> list[Tensor]:
    """As torch keeps those of one layer: the gates below one another, and a bias for each of the two matrices."""
    rows = gates * H
    return [random(rows, inputs, seed=seed), random(rows, H, seed=seed + 1), *random(2, rows, seed=seed)]


def as_printed(gates: int, into: Tensor, again: Tensor, bias: Tensor, other: Tensor) -> list[Tensor]:
    """The same as the equations take them: only the GRU's candidate, the third matrix, has two biases."""
    if gates == 1:
        return [into, again, bias + other]
    units = again.shape[1]
    shifts = (bias + other).view(gates, units)
    into, again = into.view(gates, units, -1), again.view(gates, units, units)
    if gates == 4:
        return [into, again, shifts]
    return [into, again, torch.stack([*shifts[:2], bias[2 * units :]]), other[2 * units :]]


def layers(kind: type[nn.RNNBase], x: Tensor, states: tuple[Tensor, ...], *given: Tensor) -> tuple[Tensor, ...]:
    """torch's, with these weights: all h of the last layer, and what h (and c) of each layer ends with."""
    net = kind(x.shape[2], H, len(given) // 4, batch_first=True, dtype=x.dtype)
    named = dict(zip([name for name, _ in net.named_parameters()], given, strict=True))
    h, ends = torch.func.functional_call(net, named, (x, states if kind is nn.LSTM else states[0]))
    return (h, *ends) if kind is nn.LSTM else (h, ends)


def step_is_torchs(equation: Any, gates: int, kind: type[nn.RNNBase]) -> None:
    states = [random(B, H), random(B, H, seed=1)][: 2 if kind is nn.LSTM else 1]
    count = len(states)

    def fast(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        before = tuple(state[None] for state in given[:count])
        return tuple(end[0] for end in layers(kind, x[:, None], before, *given[count:])[1:])

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
    step_is_torchs(equation, 1, nn.RNN)


@proves(recurrent.lstm_step)
def lstm_step(equation: Any) -> None:
    step_is_torchs(equation, 4, nn.LSTM)


@proves(recurrent.gru_step)
def gru_step(equation: Any) -> None:
    step_is_torchs(equation, 3, nn.GRU)


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
            outputs, ends = equation(step, x, list(zip(*given[:count], strict=True)), both)
            return outputs, *(torch.stack(parts) for parts in zip(*ends, strict=True))

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
    """What an LSTM reads and what it yields, each under a mask of its own."""
    read, yielded = random(B, D) > 0, random(B, H) > 0

    def slow(x: Tensor, h: Tensor, c: Tensor, *given: Tensor) -> Tensor:
        states = [(h[0], c[0])]
        outputs, _ = recurrent.unroll(recurrent.lstm_step, equation(x, read, 0.3), states, [as_printed(4, *given)])
        return equation(outputs, yielded, 0.3)

    def fast(x: Tensor, h: Tensor, c: Tensor, *given: Tensor) -> Tensor:
        outputs = layers(nn.LSTM, x * read[:, None] / 0.7, (h, c), *given)[0]
        return outputs * yielded[:, None] / 0.7

    agree(slow, fast, random(B, T, D), random(1, B, H), random(1, B, H, seed=1), *weights(4, D))


@proves(recurrent.weight_drop)
def weight_drop(equation: Any) -> None:
    """torch's LSTM whose recurrent weights were multiplied by the mask: every step of every row has the same."""
    kept = random(4, H, H) > 0

    def slow(x: Tensor, h: Tensor, c: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        into, again, bias = as_printed(4, *given)
        dropped = [into, equation(again, kept, 0.3), bias]
        outputs, ends = recurrent.unroll(recurrent.lstm_step, x, [(h[0], c[0])], [dropped])
        return outputs, *(end[None] for end in ends[0])

    def fast(x: Tensor, h: Tensor, c: Tensor, into: Tensor, again: Tensor, *biases: Tensor) -> tuple[Tensor, ...]:
        return layers(nn.LSTM, x, (h, c), into, again * kept.flatten(0, 1) / 0.7, *biases)

    agree(slow, fast, random(B, T, D), random(1, B, H), random(1, B, H, seed=1), *weights(4, D))


@proves(recurrent.log_softmax)
def log_softmax(equation: Any) -> None:
    agree(equation, lambda s: F.log_softmax(s, dim=2), 2 * random(B, T, 7))


class Given(nn.Module):
    """A network whose scores for any tokens are these."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.scores, ()


def judged(scores: Tensor, targets: Tensor) -> Totals:
    return LanguageModelling(Given(scores))(Piece(targets, targets, True))


def drawn(batch: int, time: int) -> Tensor:
    return torch.randint(7, (batch, time), generator=torch.Generator().manual_seed(time))


@proves(recurrent.total_nats)
def total_nats(equation: Any) -> None:
    targets = drawn(B, T)
    agree(
        lambda s: equation(s, targets),
        lambda s: torch.as_tensor(judged(s, targets)["loss"].total),
        2 * random(B, T, 7),
    )


@proves(recurrent.perplexity)
def perplexity(equation: Any) -> None:
    """Of pieces of 18 and 6 tokens together, which neither the mean of their perplexities nor of their losses is."""
    totals: Totals = {}
    nats, tokens = [], []
    for time in (T, 2):
        scores, targets = 2 * random(B, time, 7), drawn(B, time)
        nats.append(float(recurrent.total_nats(scores, targets)))
        tokens.append(targets.numel())
        totals = add(totals, judged(scores, targets))
    found = LanguageModelling(nn.Identity()).summarize(totals)["perplexity"]
    torch.testing.assert_close(equation(nats, tokens), found, **EXACT)


class Recorded(Dropout):
    """Dropout that tells its masks, as the equations take them: what is kept."""

    def __init__(self, share: float, variational: bool = False) -> None:
        super().__init__(share, variational)
        self.kept: list[Tensor] = []

    def mask(self, x: Tensor) -> Tensor:
        mask = super().mask(x)
        self.kept.append(mask > 0)
        return mask

    @property
    def share(self) -> float:
        return self.dropped / 256


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("number", range(3))
def test_the_whole_language_model_by_hand(number: int, tied: bool) -> None:
    """Two layers with everything dropped that can be, over two pieces of text: every gradient of the objective."""
    torch.manual_seed(3)
    gates, step, kind = KINDS[number]
    cell = kind.__name__.lower()
    net = RecurrentLM(7, D, L, H, cell, tied, dropout=0.3, variational=True, word_dropout=0.2, weight_drop=0.4).double()
    objective, (tokens, targets) = LanguageModelling(net), (drawn(B, T), drawn(B, T + 1)[:, 1:])
    words = net.word_drop = Recorded(0.2)
    drops = [Recorded(0.3, variational=True) for _ in range(L + 1)]
    net.recurrent.drops, again = nn.ModuleList(drops), Recorded(0.4)
    net.recurrent.weight_drop = again
    pieces = [(slice(0, 4), True), (slice(4, T), False)]
    parts = [objective(Piece(tokens[:, part], targets[:, part], begins)) for part, begins in pieces]
    fast = sum(torch.as_tensor(part["loss"].total) for part in parts)

    p = dict(net.named_parameters())
    slow = torch.zeros(())
    states: list[Any] = [
        [torch.zeros(B, width, dtype=torch.float64)] * (1 + (gates == 4)) for width in (H, D if tied else H)
    ]
    for turn, (part, _) in enumerate(pieces):
        scale = (words.kept[turn].double() / (1 - words.share))[tokens[:, part]]
        x = p["embed.weight"][tokens[:, part]] * scale
        for layer in range(L):
            x = recurrent.variational_dropout(x, drops[layer].kept[turn][:, 0], drops[layer].share)
            names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            into, over, *biases = (p[f"recurrent.layers.{layer}.{name}"] for name in names)
            units = over.shape[1]
            kept = again.kept[L * turn + layer].view(gates, units, units)
            over = recurrent.weight_drop(over.view(gates, units, units), kept, again.share).flatten(0, 1)
            given = as_printed(gates, into, over, *biases)
            state = tuple(each.detach() for each in states[layer])
            x, (states[layer],) = recurrent.unroll(step, x, [state], [given])
        x = recurrent.variational_dropout(x, drops[L].kept[turn][:, 0], drops[L].share)
        scores = x @ (p["embed.weight"] if tied else p["out.weight"]).T + p["out.bias"]
        slow = slow + recurrent.total_nats(scores, targets[:, part])
    torch.testing.assert_close(fast, slow, **EXACT)
    for mine, theirs in zip(*(torch.autograd.grad(total, list(p.values())) for total in (fast, slow)), strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)
