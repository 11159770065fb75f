"""The layers of a Transformer as printed equal those of the networks."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from dlref.equations import layers, transformer
from dlref.models import blockwise_attention
from dlref.models.transformer_layers import (
    Activation,
    FeedForward,
    MultiHeadAttention,
    Positions,
    TokenEmbedding,
    apply_rotary,
    sinusoids,
)
from tests.proofs.harness import EXACT, agree, proves, random

B, H, K, S, T, F, V = 3, 2, 4, 5, 6, 7, 9  # batch, heads and their dimensions, keys, tokens, hidden units, vocabulary
D = H * K
EPS = 1e-3
VISIBLE = torch.tensor([[True] * words + [False] * (S - words) for words in (3, 5, 1)])
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": layers.relu,
    "relu2": transformer.squared_relu,
    "gelu": layers.gelu,
    "gelu_tanh": transformer.gelu_tanh,
    "swiglu": transformer.swiglu,
}


def call(net: nn.Module, parameters: tuple[Tensor, ...], *inputs: Any) -> Any:
    """The network's outputs with these parameters, in the order of its own."""
    return torch.func.functional_call(
        net, dict(zip([name for name, _ in net.named_parameters()], parameters, strict=True)), inputs
    )


def random_parameters(net: nn.Module) -> list[Tensor]:
    return [random(*p.shape, seed=seed) for seed, (_, p) in enumerate(net.named_parameters())]


@proves(transformer.embed)
def embed(equation: Any) -> None:
    tokens = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))

    def fast(positions: Positions, parameters: tuple[Tensor, ...]) -> Tensor:
        return call(TokenEmbedding(V, D, H, T, positions, 0.0), parameters, tokens)[0]

    agree(lambda table, p: equation(tokens, table, p), lambda *p: fast("learned", p), random(V, D), random(T, D))
    for positions, vectors in (("sinusoidal", transformer.sinusoidal(T, D)), ("rotary", torch.zeros(T, D).double())):
        agree(
            lambda table, p=vectors: equation(tokens, table, p),
            lambda table, kind=positions: fast(kind, (table,)),
            random(V, D),
        )


@proves(transformer.sinusoidal)
def sinusoidal(equation: Any) -> None:
    """Also for tokens that start at a later position."""
    net, tokens = TokenEmbedding(V, D, H, T, "sinusoidal", 0.0), torch.zeros(1, 2, dtype=torch.int64)
    for start in range(T - 1):
        found = call(net, (torch.zeros(V, D, dtype=torch.float64),), tokens, start)[0]
        torch.testing.assert_close(found[0], equation(T, D)[start : start + 2], **EXACT)


@proves(transformer.rotary)
def rotary(equation: Any) -> None:
    def fast(x: Tensor) -> Tensor:
        return apply_rotary(x[:, None], sinusoids(T, K))[:, 0]

    agree(equation, fast, random(B, T, K))


@proves(transformer.causal)
def causal(equation: Any) -> None:
    """torch's causal attention has positive weights, read off with one-hot values, at the same positions."""
    zeros, one_hot = torch.zeros(1, T, 1), torch.eye(T)[None]
    weights = nn.functional.scaled_dot_product_attention(zeros, zeros, one_hot, is_causal=True)[0]
    assert [[equation(0, t, s) for s in range(T)] for t in range(T)] == (weights > 0).tolist()


def padded(b: int, t: int, s: int) -> bool:
    return bool(VISIBLE[b, s])


@proves(transformer.head)
def head(equation: Any) -> None:
    """Outputs and attention weights, read off with one-hot values, also in several blocks of queries."""

    def fast(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
        one_hot = torch.eye(k.shape[1], dtype=k.dtype).expand(len(k), -1, -1)
        outputs, weights = (
            blockwise_attention.attend(q[:, None], k[:, None], each[:, None], **how)[:, 0] for each in (v, one_hot)
        )
        return outputs, weights

    for block in (blockwise_attention.BLOCK, 4, 1):
        with mock.patch.object(blockwise_attention, "BLOCK", block):
            agree(
                lambda q, k, v: equation(q, k, v, padded),
                lambda q, k, v: fast(q, k, v, visible=VISIBLE),
                *(random(B, T, K), random(B, S, K), random(B, S, K, seed=1)),
            )
            agree(
                lambda q, k, v: equation(q, k, v, transformer.causal),
                lambda q, k, v: fast(q, k, v, causal=True),
                *(random(B, T, K, seed=seed) for seed in range(3)),
            )


@proves(transformer.projection)
def projection(equation: Any) -> None:
    """A head's part of the one projection that the network computes for all heads."""
    net = MultiHeadAttention(D, H, bias=True, qk_norm=False)
    agree(
        lambda x, w, b: torch.stack([torch.stack([equation(h, H, (w, b))(row) for h in range(H)]) for row in x]),
        lambda x, w, b: net.split_heads(nn.functional.linear(x, w, b)),
        *(random(B, T, D), random(D, D), random(D)),
    )


class Attending(nn.Module):
    """The network's attention from `x` to another sequence: outputs and attention weights."""

    def __init__(self, *sizes: int, **settings: bool) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(*sizes, **settings)

    def forward(self, x: Tensor, memory: Tensor, rotary: bool, *how: Any) -> tuple[Tensor, Tensor]:
        rotation = sinusoids(T, K) if rotary else None
        arguments = (x, self.attention.keys_values(memory, rotation), rotation, *how)
        return self.attention(*arguments), self.attention.attention_weights(*arguments)


@proves(transformer.multi_head)
def multi_head(equation: Any) -> None:
    """Cross-attention with padding, and causal self-attention with QK-norm and rotary positions."""
    net = Attending(D, H, bias=True, qk_norm=False)
    agree(
        lambda x, m, *p: equation(x, m, padded, H, [*zip(p[::2], p[1::2], strict=True)]),
        lambda x, m, *p: call(net, p, x, m, False, False, VISIBLE),
        *(random(B, T, D), random(B, S, D), *random_parameters(net)),
    )
    normed = Attending(D, H, bias=True, qk_norm=True)

    def normalize_and_rotate(scale: Tensor) -> Callable[[Tensor], Tensor]:
        eps = torch.finfo(torch.float64).eps  # torch's default
        return lambda q: transformer.rotary(
            transformer.each_token(q, lambda row: transformer.rms_norm(row, scale, eps))
        )

    def slow(x: Tensor, *p: Tensor) -> tuple[Tensor, Tensor]:
        weights = [*zip(p[:8:2], p[1:8:2], strict=True)]
        return equation(x, x, transformer.causal, H, weights, normalize_and_rotate(p[8]), normalize_and_rotate(p[9]))

    agree(slow, lambda x, *p: call(normed, p, x, x, True, True), random(B, T, D), *random_parameters(normed))


@proves(transformer.feed_forward)
def feed_forward(equation: Any) -> None:
    for name, activation in ACTIVATIONS.items():
        net = FeedForward(D, F, name, bias=True)
        agree(
            lambda x, w, b, v, c, f=activation: equation(x, (w, b), (v, c), f),
            lambda x, *p, net=net: call(net, p, x),
            *(random(B, T, D), *random_parameters(net)),
        )


def agree_on_activation(name: Activation, equation: Callable[[Tensor], Tensor]) -> None:
    """The activation of a feed-forward layer whose second matrix is the identity."""
    net = FeedForward(D, F, name, bias=False)
    agree(
        lambda x, w: equation(x @ w.T),
        lambda x, w: call(net, (w, torch.eye(D, F, dtype=x.dtype)), x[None])[0, :, :F],
        *(2 * random(B, D), random(*net.up.weight.shape)),
    )


@proves(transformer.squared_relu)
def squared_relu(equation: Any) -> None:
    agree_on_activation("relu2", equation)


@proves(transformer.gelu_tanh)
def gelu_tanh(equation: Any) -> None:
    agree_on_activation("gelu_tanh", equation)


@proves(transformer.swiglu)
def swiglu(equation: Any) -> None:
    agree_on_activation("swiglu", equation)


@proves(transformer.rms_norm)
def rms_norm(equation: Any) -> None:
    agree(
        lambda x, g: equation(x, g, EPS),
        lambda x, g: nn.functional.rms_norm(x, [D], g, EPS),
        *(3 * random(B, D) + 2, random(D)),
    )


@proves(transformer.each_token)
def each_token(equation: Any) -> None:
    agree(lambda x: equation(x, layers.softmax), lambda x: x.softmax(2), random(B, T, D))


@pytest.mark.parametrize("how", [{}, {"causal": True}, {"visible": VISIBLE}], ids=["all", "causal", "visible"])
@pytest.mark.parametrize("block", [blockwise_attention.BLOCK, 4])
def test_attention_with_and_without_gradients_is_the_same(
    how: dict[str, Any], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise_attention, "BLOCK", block)
    keys = T if how.get("causal") else S
    q, k, v = random(B, H, T, K).requires_grad_(), random(B, H, keys, K), random(B, H, keys, K, seed=1)
    with_gradients = blockwise_attention.attend(q, k, v, **how)
    with torch.no_grad():
        torch.testing.assert_close(blockwise_attention.attend(q, k, v, **how), with_gradients, **EXACT)


def test_attention_of_no_queries_is_empty() -> None:
    q, k = random(B, H, 0, K).requires_grad_(), random(B, H, S, K)
    assert blockwise_attention.attend(q, k, k).shape == q.shape
    assert blockwise_attention.attend(q, q, q, causal=True).shape == q.shape


def test_rotary_logits_depend_on_the_distance_alone() -> None:
    """The logits of one query and one key, each at every position, are constant along diagonals."""
    q, k = (transformer.rotary(random(1, 1, K, seed=seed).expand(1, T, K))[0] for seed in range(2))
    logits = q @ k.T
    for distance in range(1 - T, T):
        same = logits.diagonal(distance)
        torch.testing.assert_close(same, same[:1].expand_as(same), **EXACT)
    assert len({round(float(logits.diagonal(distance)[0]), 6) for distance in range(1 - T, T)}) == 2 * T - 1


def test_rotation_preserves_norms() -> None:
    x = random(B, T, K)
    torch.testing.assert_close(transformer.rotary(x).norm(dim=2), x.norm(dim=2), **EXACT)


def test_a_sinusoidal_position_is_a_rotation_of_another() -> None:
    """p_(t + k) is a linear function of p_t for any fixed k, the reason for this choice (section 3.5)."""
    positions = transformer.sinusoidal(T, D).view(T, D // 2, 2)
    for k in range(T):
        angles = torch.tensor([k / 10000 ** (2 * i / D) for i in range(D // 2)], dtype=torch.float64)
        sin, cos = positions[: T - k].unbind(2)
        rotated = torch.stack([sin * angles.cos() + cos * angles.sin(), cos * angles.cos() - sin * angles.sin()], 2)
        torch.testing.assert_close(positions[k:], rotated, **EXACT)


def test_masked_keys_do_not_change_a_head() -> None:
    q, k, v = random(1, T, K), random(1, S, K), random(1, S, K, seed=1)
    for words in range(1, S + 1):
        padded, _ = transformer.head(q, k, v, lambda b, t, s, words=words: s < words)
        alone, _ = transformer.head(q, k[:, :words], v[:, :words], lambda b, t, s: True)
        torch.testing.assert_close(padded, alone, **EXACT)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_bfloat16_is_that_in_float64_up_to_rounding(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients, over several blocks of queries."""
    monkeypatch.setattr(blockwise_attention, "BLOCK", 4)
    q, k, v, grad_out = (random(2, 3, 10, 8, seed=seed) for seed in range(4))
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        y = blockwise_attention.attend(*leaves, causal=causal)
        found.append([y, *torch.autograd.grad(y, leaves, grad_out.to(dtype))])
    for exact, half in zip(*found, strict=True):
        assert (exact - half).abs().max() < 0.03 * exact.abs().max()
