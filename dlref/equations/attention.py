"""Recurrent encoders, and attention of a decoder to their hidden states.

B batch, S source, T target, D width of a query, K of a key, A units of the additive score, H units, V vocabulary. A query q
is the decoder's state h_t, a key k the encoder's h_s.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dlref.equations import tensor, total
from dlref.equations.layers import tanh
from dlref.equations.losses import cross_entropy
from dlref.equations.recurrent import CellState, unroll


def additive(q: Tensor, k: Tensor, query_weights: Tensor, key_weights: Tensor, bias: Tensor, v: Tensor) -> Tensor:
    """Σ_a v_a tanh(b_a + Σ_i w_ai q_i + Σ_j u_aj k_j). [D], [K], [A, D], [A, K], [A], [A] -> scalar.

    Bahdanau et al. 2015, appendix A.1.2, which omits the bias b for readability.
    """
    units = []
    for a in range(len(v)):
        from_query = total(query_weights[a, i] * q[i] for i in range(len(q)))
        from_key = total(key_weights[a, j] * k[j] for j in range(len(k)))
        units.append(v[a] * tanh(bias[a] + from_query + from_key))
    return total(units)


def dot(q: Tensor, k: Tensor) -> Tensor:  # [D], [D] -> scalar
    """Σ_i q_i k_i: Luong et al. 2015, section 3.1."""
    return total(q[i] * k[i] for i in range(len(q)))


def general(q: Tensor, k: Tensor, weight: Tensor) -> Tensor:  # [D], [K], [D, K] -> scalar
    """Σ_i Σ_j q_i w_ij k_j: Luong et al. 2015, section 3.1."""
    return total(q[i] * weight[i, j] * k[j] for i in range(len(q)) for j in range(len(k)))


def scaled_dot(q: Tensor, k: Tensor) -> Tensor:  # [D], [D] -> scalar
    """Σ_i q_i k_i / √D: Vaswani et al. 2017, equation 1."""
    return total(q[i] * k[i] for i in range(len(q))) / math.sqrt(len(q))


def attention_weights(q: Tensor, k: Tensor, visible: Tensor, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """α_bts = e^score(q_bt, k_bs) / Σ_r e^score(q_bt, k_br), over the visible positions; 0 at padding.

    [B, T, D], [B, S, K], [B, S] -> [B, T, S]. Bahdanau et al. 2015, equation 6; Luong et al. 2015, equation 7.
    """
    y = torch.zeros(len(q), q.shape[1], k.shape[1], dtype=q.dtype)
    for b in range(len(q)):
        for t in range(q.shape[1]):
            exponentials = {s: torch.exp(score(q[b, t], k[b, s])) for s in range(k.shape[1]) if visible[b, s]}
            for s, exponential in exponentials.items():
                y[b, t, s] = exponential / total(exponentials.values())
    return y


def contexts(weights: Tensor, values: Tensor) -> Tensor:  # [B, T, S], [B, S, K] -> [B, T, K]
    """c_bt = Σ_s α_bts h_bs: Bahdanau et al. 2015, equation 5."""
    batch, time, source = weights.shape
    width = values.shape[2]
    return tensor(
        [
            [
                [total(weights[b, t, s] * values[b, s, j] for s in range(source)) for j in range(width)]
                for t in range(time)
            ]
            for b in range(batch)
        ]
    )


def attentional(c: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """h̃_i = tanh(b_i + Σ_j w_ij c_j + Σ_k w_i(K + k) h_k), which is tanh(W [c; h] + b).

    [B, T, K], [B, T, H], [D, K + H], [D] -> [B, T, D]. Luong et al. 2015, equation 5, which has no b.
    """
    width = c.shape[2]
    rows: list[list[Tensor]] = []
    for context, hidden in zip(c.flatten(0, 1), h.flatten(0, 1), strict=True):
        rows.append([])
        for i in range(len(bias)):
            from_context = total(weight[i, j] * context[j] for j in range(width))
            from_hidden = total(weight[i, width + k] * hidden[k] for k in range(len(hidden)))
            rows[-1].append(tanh(bias[i] + from_context + from_hidden))
    return tensor(rows).view(*c.shape[:2], -1)


def peeky(x: Tensor, h: Tensor) -> Tensor:  # [B, T, D], [B, H] -> [B, T, D + H]
    """[x_bt; h_b], the encoder's last h at every time: Saito, *Deep Learning from Scratch 2*, section 7.3.2.

    After Cho et al. 2014, section 2.2, whose decoder and output layer both see the summary of the source.
    """
    return tensor([[[*x[b, t], *h[b]] for t in range(x.shape[1])] for b in range(len(x))])


def reverse(x: Tensor, visible: Tensor) -> Tensor:  # [B, S, ...], [B, S] -> [B, S, ...]
    """The words of each row from its last to its first, with padding kept at the end: Sutskever et al. 2014, section 3.3."""
    rows = []
    for b in range(len(x)):
        words = int(visible[b].sum())
        order = [words - 1 - s for s in range(words)]
        rows.append([x[b, s] for s in [*order, *range(words, x.shape[1])]])
    return tensor(rows)


def encode(
    step: Callable[..., CellState], state: CellState, x: Tensor, visible: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Hidden states of one layer at every word of each row, 0 at padding, and after the last word: Cho et al. 2014, equation 1.

    Padding is not read; each row starts from the same state [1, H]. [B, S, D], [B, S] -> [B, S, H], [B, H].
    """
    rows, final = [], []
    for b in range(len(x)):
        words = int(visible[b].sum())
        h, (last,) = unroll(step, x[b : b + 1, :words], [state], [weights])
        rows.append([*h[0], *[torch.zeros_like(last[0][0])] * (x.shape[1] - words)])
        final.append(last[0][0])
    return tensor(rows), tensor(final)


def encode_both_ways(
    step: Callable[..., CellState],
    state: CellState,
    x: Tensor,
    visible: Tensor,
    forward: Sequence[Tensor],
    backward: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """[h_bs; h'_bs]: h reads the words up to s, and h' those from the last back to s, with weights of its own.

    [B, S, D], [B, S] -> [B, S, 2H], and [B, 2H] after all words. Schuster & Paliwal 1997; Bahdanau et al. 2015, section 3.2.
    """
    h, last = encode(step, state, x, visible, forward)
    h_backward, first = encode(step, state, reverse(x, visible), visible, backward)
    h_backward = reverse(h_backward, visible)
    joined = [[[*h[b, s], *h_backward[b, s]] for s in range(x.shape[1])] for b in range(len(x))]
    return tensor(joined), tensor([[*last[b], *first[b]] for b in range(len(x))])


def masked_cross_entropy(logits: Tensor, targets: Tensor, counted: Tensor, smoothing: float) -> Tensor:
    """-Σ_b Σ_t Σ_k q_btk log p_btk over the targets that are `counted`, with q = (1 - ε) [k = y_bt] + ε / V.

    [B, T, V], [B, T], [B, T] -> scalar. Szegedy et al. 2016, section 7; Sutskever et al. 2014, equation 1, where ε is 0.
    """
    batch, time = targets.shape
    return total(
        cross_entropy(logits[b, t][None], targets[b, t][None], smoothing)
        for b in range(batch)
        for t in range(time)
        if counted[b, t]
    )
