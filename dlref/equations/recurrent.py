"""Recurrent layers, one time step after the other, and the loss of a language model.

B batch, T time, D inputs, H units, G gates, V vocabulary. Each gate has its own matrices, in torch's order:
`input_weights` [G, H, D], `recurrent_weights` [G, H, H] and `bias` [G, H]; a is their `net_input`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dlref.equations import tensor, total
from dlref.equations.layers import affine, sigmoid, tanh

CellState = tuple[Tensor, ...]  # h [B, H], and c [B, H] of an LSTM


def net_input(x: Tensor, h: Tensor, input_weights: Tensor, recurrent_weights: Tensor, bias: Tensor) -> Tensor:
    """a_bj = b_j + Σ_i w_ji x_bi + Σ_k u_jk h_bk. [B, D], [B, H], [H, D], [H, H], [H] -> [B, H]."""
    rows: list[list[Tensor]] = []
    for below, before in zip(x, h, strict=True):
        rows.append([])
        for j in range(len(bias)):
            from_below = total(input_weights[j, i] * below[i] for i in range(len(below)))
            from_before = total(recurrent_weights[j, k] * before[k] for k in range(len(before)))
            rows[-1].append(bias[j] + from_below + from_before)
    return tensor(rows)


def rnn_step(x: Tensor, state: CellState, input_weights: Tensor, recurrent_weights: Tensor, bias: Tensor) -> CellState:
    """h' = tanh(a): Elman 1990, figure 2, whose units have the logistic function instead of today's tanh."""
    (h,) = state
    return (tanh(net_input(x, h, input_weights, recurrent_weights, bias)),)


def lstm_step(x: Tensor, state: CellState, input_weights: Tensor, recurrent_weights: Tensor, bias: Tensor) -> CellState:
    """c' = f c + i g and h' = o tanh(c'), with i, f, o = σ(a_i), σ(a_f), σ(a_o) and g = tanh(a_g).

    Hochreiter & Schmidhuber 1997, section 4, with the forget gate f of Gers et al. 2000, section 3.
    """
    h, c = state
    a = [net_input(x, h, input_weights[gate], recurrent_weights[gate], bias[gate]) for gate in range(4)]
    i, f, g, o = sigmoid(a[0]), sigmoid(a[1]), tanh(a[2]), sigmoid(a[3])
    batch, units = c.shape
    cells = tensor([[f[b, j] * c[b, j] + i[b, j] * g[b, j] for j in range(units)] for b in range(batch)])
    tanh_c = tanh(cells)
    return tensor([[o[b, j] * tanh_c[b, j] for j in range(units)] for b in range(batch)]), cells


def gru_step(
    x: Tensor, state: CellState, input_weights: Tensor, recurrent_weights: Tensor, bias: Tensor, recurrent_bias: Tensor
) -> CellState:
    """h' = (1 - z) n + z h with r, z = σ(a_r), σ(a_z) and n_j = tanh(b_j + Σ_i w_ji x_i + r_j (d_j + Σ_k u_jk h_k)).

    Cho et al. 2014, equations 5 to 8, except n: as in torch and cuDNN, r multiplies the output of the recurrent weights,
    which have a bias d [H] of their own. In the paper r_k multiplies h_k before them, and there is no bias.
    """
    (h,) = state
    r, z = (sigmoid(net_input(x, h, input_weights[gate], recurrent_weights[gate], bias[gate])) for gate in range(2))
    below, before = affine(x, input_weights[2], bias[2]), affine(h, recurrent_weights[2], recurrent_bias)
    batch, units = h.shape
    n = tanh(tensor([[below[b, j] + r[b, j] * before[b, j] for j in range(units)] for b in range(batch)]))
    return (tensor([[(1 - z[b, j]) * n[b, j] + z[b, j] * h[b, j] for j in range(units)] for b in range(batch)]),)


def unroll(
    step: Callable[..., CellState], x: Tensor, states: Sequence[CellState], weights: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, list[CellState]]:
    """Hidden states of the last layer at every time step, and the final states of all layers.

    Each layer's input is the h of the layer below. [B, T, D], with a state and weights for every layer -> [B, T, H].
    """
    sequence, final_states = [x[:, t] for t in range(x.shape[1])], []
    for state, layer in zip(states, weights, strict=True):
        for t in range(len(sequence)):
            state = step(sequence[t], state, *layer)
            sequence[t] = state[0]
        final_states.append(state)
    return torch.stack(sequence, dim=1), final_states


def variational_dropout(x: Tensor, kept: Tensor, probability: float) -> Tensor:  # [B, T, D], [B, D] -> [B, T, D]
    """x_bti / (1 - p) at all times t if unit i of row b is kept, else 0 at all: Gal & Ghahramani 2016, equation 7.

    This is the mask on a layer's inputs; the paper has a second one on its recurrent inputs. Scaled in training.
    """
    batch, time, width = x.shape
    y = torch.zeros_like(x)
    for b in range(batch):
        for t in range(time):
            for i in range(width):
                if kept[b, i]:
                    y[b, t, i] = x[b, t, i] / (1 - probability)
    return y


def weight_drop(weights: Tensor, kept: Tensor, probability: float) -> Tensor:  # [G, H, H], [G, H, H] -> [G, H, H]
    """u_gjk / (1 - p) if this weight is kept, else 0, for a whole sequence and all its rows: Merity et al. 2018, section 2.

    DropConnect (Wan et al. 2013) on the recurrent weights alone.
    """
    gates, units, _ = weights.shape
    dropped = torch.zeros_like(weights)
    for g in range(gates):
        for j in range(units):
            for k in range(units):
                if kept[g, j, k]:
                    dropped[g, j, k] = weights[g, j, k] / (1 - probability)
    return dropped


def log_softmax(logits: Tensor) -> Tensor:  # [B, T, V] -> [B, T, V]
    """log p_btv = z_btv - log Σ_w e^z_btw (Bridle 1990)."""
    rows = []
    for row in logits.flatten(0, 1):
        log_sum = torch.log(total(torch.exp(logit) for logit in row))
        rows.append([logit - log_sum for logit in row])
    return tensor(rows).view(logits.shape)


def total_nll(logits: Tensor, targets: Tensor) -> Tensor:  # [B, T, V], [B, T] -> scalar
    """-Σ_b Σ_t log p_bty of the targets y = y_bt, in nats."""
    batch, time = targets.shape
    logs = log_softmax(logits)
    return -total(logs[b, t, targets[b, t]] for b in range(batch) for t in range(time))


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> float:
    """exp(Σ nats / Σ tokens) over all segments of a text, which may differ in length (Jelinek et al. 1977)."""
    return math.exp(sum(nats) / sum(tokens))
