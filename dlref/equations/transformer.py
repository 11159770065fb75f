"""The layers of a Transformer: Vaswani et al. 2017 unless a function names its own source.

B batch, T tokens, S keys, D width, H heads of K = D / H dimensions each, F hidden units, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dlref.equations import tensor, total
from dlref.equations.attention import attention_weights, contexts, scaled_dot
from dlref.equations.layers import affine, elementwise, relu

Affine = tuple[Tensor, Tensor]  # weights [outputs, inputs] and bias [outputs]
Rule = Callable[[int, int, int], bool]  # in row b, may token t see position s?


def embed(tokens: Tensor, table: Tensor, positions: Tensor) -> Tensor:  # [B, T], [V, D], [T, D] -> [B, T, D]
    """x_bti = √D e_yi + p_ti with the embeddings e of the token y = y_bt and p of its position: sections 3.4 and 3.5."""
    root = math.sqrt(table.shape[1])
    return tensor(
        [
            [[root * table[y, i] + positions[t, i] for i in range(table.shape[1])] for t, y in enumerate(row)]
            for row in tokens
        ]
    )


def sinusoidal(time: int, width: int) -> Tensor:  # -> [T, D]
    """p_t(2i) = sin(t / 10000^(2i / D)) and p_t(2i + 1) = cos(t / 10000^(2i / D)): section 3.5."""
    rows = []
    for t in range(time):
        angles = [t / 10000 ** (2 * i / width) for i in range(width // 2)]
        rows.append([number for angle in angles for number in (math.sin(angle), math.cos(angle))])
    return torch.tensor(rows, dtype=torch.float64)


def rotary(x: Tensor) -> Tensor:  # [B, T, K] -> [B, T, K]
    """x_i and x_(i + K / 2) of token t, rotated in their plane by the angle t / 10000^(2i / K).

    Su et al. 2021, section 3.2.2, where the two are adjacent.
    """
    half = x.shape[2] // 2
    rows = []
    for row in x:
        for t, numbers in enumerate(row):
            first, second = [], []
            for i, (a, b) in enumerate(zip(numbers[:half], numbers[half:], strict=True)):
                angle = t / 10000 ** (i / half)
                first.append(a * math.cos(angle) - b * math.sin(angle))
                second.append(a * math.sin(angle) + b * math.cos(angle))
            rows.append([*first, *second])
    return tensor(rows).view(x.shape)


def causal(b: int, t: int, s: int) -> bool:
    """A token attends to itself and earlier tokens: section 3.2.3."""
    return s <= t


def head(q: Tensor, k: Tensor, v: Tensor, sees: Rule) -> tuple[Tensor, Tensor]:
    """Outputs Σ_s α_bts v_bs, and attention weights α_bts ∝ e^(q_bt · k_bs / √K) over the positions that t sees: equation 1.

    [B, T, K], [B, S, K], [B, S, K] -> [B, T, K], [B, T, S].
    """
    rows: list[list[Tensor]] = []
    for b in range(len(q)):
        rows.append([])
        for t in range(q.shape[1]):
            visible = torch.tensor([[sees(b, t, s) for s in range(k.shape[1])]])
            rows[-1].append(attention_weights(q[b : b + 1, t : t + 1], k[b : b + 1], visible, scaled_dot)[0, 0])
    weights = tensor(rows)
    return contexts(weights, v), weights


def projection(h: int, heads: int, weights: Affine) -> Callable[[Tensor], Tensor]:  # of [B, D] -> [B, K]
    """The map from rows x to x W_h + b_h, for head h of weights in which all heads are stacked."""
    weight, bias = weights
    width = len(bias) // heads
    own = slice(h * width, (h + 1) * width)
    return lambda x: affine(x, weight[own], bias[own])


def multi_head(
    x: Tensor,
    memory: Tensor,
    sees: Rule,
    heads: int,
    weights: Sequence[Affine],
    map_query: Callable[[Tensor], Tensor] = lambda q: q,
    map_key: Callable[[Tensor], Tensor] = lambda k: k,
) -> tuple[Tensor, Tensor]:
    """Concat(head_1, …, head_H) W^O with head_i of x W_i^Q, m W_i^K and m W_i^V, and the attention weights: section 3.2.2.

    [B, T, D], [B, S, D] -> [B, T, D], [B, H, T, S]. The four `weights` are those of queries, keys, values and outputs;
    `map_query` and `map_key` are applied to the queries and keys of each head [B, T, K].
    """
    query, key, value, out = weights
    outputs, attended = [], []
    for h in range(heads):
        q, k = (
            map_query(each_token(x, projection(h, heads, query))),
            map_key(each_token(memory, projection(h, heads, key))),
        )
        output, attention = head(q, k, each_token(memory, projection(h, heads, value)), sees)
        outputs.append(output)
        attended.append(attention)
    joined = [[[a for output in outputs for a in output[b, t]] for t in range(x.shape[1])] for b in range(len(x))]
    y = each_token(tensor(joined), lambda rows: affine(rows, *out))
    return y, tensor([[attention[b] for attention in attended] for b in range(len(x))])


def feed_forward(x: Tensor, up: Affine, down: Affine, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """FFN(x) = f(x W_1 + b_1) W_2 + b_2, where f is max(0, ·): equation 2. [B, T, D] -> [B, T, D]."""
    return each_token(x, lambda rows: affine(activation(affine(rows, *up)), *down))


def squared_relu(x: Tensor) -> Tensor:
    """max(0, a)² (So et al. 2021)."""
    return elementwise(relu(x), lambda a: a**2)


def gelu_tanh(x: Tensor) -> Tensor:
    """a (1 + tanh(√(2 / π) (a + 0.044715 a³))) / 2, an approximation of a Φ(a) (Hendrycks & Gimpel 2016, section 2)."""
    return elementwise(x, lambda a: a * (1 + torch.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) / 2)


def swiglu(x: Tensor) -> Tensor:  # [B, 2F] -> [B, F]
    """y_f = x_f σ(x_f) x_(F + f): Shazeer 2020, equation 5 with β = 1, where the two halves of x are xW + b and xV + c."""
    half = x.shape[1] // 2
    return tensor([[row[f] / (1 + torch.exp(-row[f])) * row[half + f] for f in range(half)] for row in x])


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:  # [B, D], [D] -> [B, D]
    """y_i = g_i x_i / √(Σ_j x_j² / D + ε): Zhang & Sennrich 2019, equation 4, which has no ε."""
    rows = []
    for row in x:
        root_mean_square = torch.sqrt(total(a**2 for a in row) / len(row) + eps)
        rows.append([scale[i] * a / root_mean_square for i, a in enumerate(row)])
    return tensor(rows)


def each_token(x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:  # [B, T, D] -> [B, T, H]
    """A layer of rows [B, D], applied to every token independently."""
    return tensor([layer(row) for row in x])
