"""Recurrent layers, one step in time after the other, and what a language model makes of them.

B batch, T time, D inputs, H units, G gates, V vocabulary. Each gate has its own matrices, in torch's order: `into` [G, H, D]
from the inputs, `recurrent` [G, H, H] from the units a step before, and `bias` [G, H]; a is their `net_input`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dlref.equations import tensor, total
from dlref.equations.layers import affine, sigmoid, tanh

State = tuple[Tensor, ...]  # [B, H]: h, and for the LSTM c


def net_input(x: Tensor, h: Tensor, into: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    """a_bj = b_j + Σ_i w_ji x_bi + Σ_k u_jk h_bk. [B, D], [B, H], [H, D], [H, H], [H] -> [B, H]."""
    rows: list[list[Tensor]] = []
    for below, before in zip(x, h, strict=True):
        rows.append([])
        for j in range(len(bias)):
            from_below = total(into[j, i] * below[i] for i in range(len(below)))
            from_before = total(recurrent[j, k] * before[k] for k in range(len(before)))
            rows[-1].append(bias[j] + from_below + from_before)
    return tensor(rows)


def rnn_step(x: Tensor, state: State, into: Tensor, recurrent: Tensor, bias: Tensor) -> State:
    """h' = tanh(a): Elman 1990, figure 2, whose units have the logistic function where most have tanh since."""
    (h,) = state
    return (tanh(net_input(x, h, into, recurrent, bias)),)


def lstm_step(x: Tensor, state: State, into: Tensor, recurrent: Tensor, bias: Tensor) -> State:
    """c' = f c + i g and h' = o tanh(c'), with i, f, o = σ(a_i), σ(a_f), σ(a_o) and g = tanh(a_g).

    Hochreiter & Schmidhuber 1997, section 4, with the forget gate f of Gers et al. 2000, section 3.
    """
    h, c = state
    a = [net_input(x, h, into[gate], recurrent[gate], bias[gate]) for gate in range(4)]
    i, f, g, o = sigmoid(a[0]), sigmoid(a[1]), tanh(a[2]), sigmoid(a[3])
    batch, units = c.shape
    cells = tensor([[f[b, j] * c[b, j] + i[b, j] * g[b, j] for j in range(units)] for b in range(batch)])
    shown = tanh(cells)
    return tensor([[o[b, j] * shown[b, j] for j in range(units)] for b in range(batch)]), cells


def gru_step(x: Tensor, state: State, into: Tensor, recurrent: Tensor, bias: Tensor, inner: Tensor) -> State:
    """h' = (1 - z) n + z h with r, z = σ(a_r), σ(a_z) and n_j = tanh(b_j + Σ_i w_ji x_i + r_j (d_j + Σ_k u_jk h_k)).

    Cho et al. 2014, equations 5 to 8, but for n: as torch and cuDNN have it, r multiplies what comes out of the recurrent
    weights, with a bias d [H] of its own. In the paper r_k multiplies h_k before them, and there is no bias.
    """
    (h,) = state
    r, z = (sigmoid(net_input(x, h, into[gate], recurrent[gate], bias[gate])) for gate in range(2))
    below, before = affine(x, into[2], bias[2]), affine(h, recurrent[2], inner)
    batch, units = h.shape
    n = tanh(tensor([[below[b, j] + r[b, j] * before[b, j] for j in range(units)] for b in range(batch)]))
    return (tensor([[(1 - z[b, j]) * n[b, j] + z[b, j] * h[b, j] for j in range(units)] for b in range(batch)]),)


def unroll(
    step: Callable[..., State], x: Tensor, states: Sequence[State], weights: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, list[State]]:
    """The states h of the last layer at every time, and the last states of all; each layer reads the h of the one below.

    [B, T, D], from a state and the weights of every layer -> [B, T, H].
    """
    sequence, ends = [x[:, t] for t in range(x.shape[1])], []
    for state, layer in zip(states, weights, strict=True):
        for t in range(len(sequence)):
            state = step(sequence[t], state, *layer)
            sequence[t] = state[0]
        ends.append(state)
    return torch.stack(sequence, dim=1), ends


def variational_dropout(x: Tensor, kept: Tensor, share: float) -> Tensor:  # [B, T, D], [B, D] -> [B, T, D]
    """x_bti / (1 - p) at all times t if unit i of row b is kept, else 0 at all: Gal & Ghahramani 2016, equation 7.

    Of its two masks the one on what a layer reads from below, scaled in training.
    """
    batch, time, width = x.shape
    y = torch.zeros_like(x)
    for b in range(batch):
        for t in range(time):
            for i in range(width):
                if kept[b, i]:
                    y[b, t, i] = x[b, t, i] / (1 - share)
    return y


def weight_drop(recurrent: Tensor, kept: Tensor, share: float) -> Tensor:  # [G, H, H], [G, H, H] -> [G, H, H]
    """u_gjk / (1 - p) if this weight is kept, else 0, for a whole sequence and all its rows: Merity et al. 2018, section 2.

    DropConnect (Wan et al. 2013) on the recurrent weights alone.
    """
    gates, units, _ = recurrent.shape
    dropped = torch.zeros_like(recurrent)
    for g in range(gates):
        for j in range(units):
            for k in range(units):
                if kept[g, j, k]:
                    dropped[g, j, k] = recurrent[g, j, k] / (1 - share)
    return dropped


def log_softmax(scores: Tensor) -> Tensor:  # [B, T, V] -> [B, T, V]
    """log p_btv = s_btv - log Σ_w e^s_btw (Bridle 1990)."""
    rows = []
    for row in scores.flatten(0, 1):
        log_sum = torch.log(total(torch.exp(score) for score in row))
        rows.append([score - log_sum for score in row])
    return tensor(rows).view(scores.shape)


def total_nats(scores: Tensor, targets: Tensor) -> Tensor:  # [B, T, V], [B, T] -> scalar
    """-Σ_b Σ_t log p_bt of the token that came."""
    batch, time = targets.shape
    logs = log_softmax(scores)
    return -total(logs[b, t, targets[b, t]] for b in range(batch) for t in range(time))


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> float:
    """exp(Σ nats / Σ tokens) over all pieces of a text, which may differ in length (Jelinek et al. 1977)."""
    return math.exp(sum(nats) / sum(tokens))
