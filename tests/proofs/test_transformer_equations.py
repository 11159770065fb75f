"""Head by head and token by token = the layers that are trained."""

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
    Embedding,
    FeedForward,
    MultiHeadAttention,
    Positions,
    turn,
    waves,
)
from tests.proofs.harness import EXACT, agree, proves, random

B, H, K, S, T, F, V = 3, 2, 4, 5, 6, 7, 9  # rows, heads and their numbers, places, tokens, hidden units, vocabulary
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


def called(net: nn.Module, given: tuple[Tensor, ...], *inputs: Any) -> Any:
    """What it makes of these, with the given parameters in its own order."""
    return torch.func.functional_call(
        net, dict(zip([name for name, _ in net.named_parameters()], given, strict=True)), inputs
    )


def own(net: nn.Module) -> list[Tensor]:
    """Random parameters of its shapes."""
    return [random(*p.shape, seed=seed) for seed, (_, p) in enumerate(net.named_parameters())]


@proves(transformer.embedded)
def embedded(equation: Any) -> None:
    tokens = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))

    def made(positions: Positions, given: tuple[Tensor, ...]) -> Tensor:
        return called(Embedding(V, D, H, T, positions, 0.0), given, tokens)[0]

    agree(lambda table, p: equation(tokens, table, p), lambda *p: made("learned", p), random(V, D), random(T, D))
    for positions, places in (("sinusoidal", transformer.sinusoidal(T, D)), ("rotary", torch.zeros(T, D).double())):
        agree(
            lambda table, p=places: equation(tokens, table, p),
            lambda table, kind=positions: made(kind, (table,)),
            random(V, D),
        )


@proves(transformer.sinusoidal)
def sinusoidal(equation: Any) -> None:
    """Later tokens have what they would have had after the ones before."""
    net, tokens = Embedding(V, D, H, T, "sinusoidal", 0.0), torch.zeros(1, 2, dtype=torch.int64)
    for start in range(T - 1):
        found = called(net, (torch.zeros(V, D, dtype=torch.float64),), tokens, start)[0]
        torch.testing.assert_close(found[0], equation(T, D)[start : start + 2], **EXACT)


@proves(transformer.rotary)
def rotary(equation: Any) -> None:
    def fast(x: Tensor) -> Tensor:
        return turn(x[:, None], waves(T, K))[:, 0]

    agree(equation, fast, random(B, T, K))


@proves(transformer.causal)
def causal(equation: Any) -> None:
    """torch's causal attention among its tokens, whose values are the places themselves, sees the same."""
    zeros, places = torch.zeros(1, T, 1), torch.eye(T)[None]
    shares = nn.functional.scaled_dot_product_attention(zeros, zeros, places, is_causal=True)[0]
    assert [[equation(0, t, s) for s in range(T)] for t in range(T)] == (shares > 0).tolist()


def padded(b: int, t: int, s: int) -> bool:
    return bool(VISIBLE[b, s])


@proves(transformer.head)
def head(equation: Any) -> None:
    """One head, also in blocks of queries, of which the last is shorter; values that name the places make shares."""

    def fast(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
        eye = torch.eye(k.shape[1], dtype=k.dtype).expand(len(k), -1, -1)
        found, share = (
            blockwise_attention.attend(q[:, None], k[:, None], each[:, None], **how)[:, 0] for each in (v, eye)
        )
        return found, share

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
    """Those of the heads into which the attention that is trained splits what one layer yields."""
    net = MultiHeadAttention(D, H, bias=True, qk_norm=False)
    agree(
        lambda x, w, b: torch.stack([torch.stack([equation(h, H, (w, b))(row) for h in range(H)]) for row in x]),
        lambda x, w, b: net.split(nn.functional.linear(x, w, b)),
        *(random(B, T, D), random(D, D), random(D)),
    )


class Attending(nn.Module):
    """The attention that is trained, from what it looks at, and its shares."""

    def __init__(self, *sizes: int, **settings: bool) -> None:
        super().__init__()
        self.trained = MultiHeadAttention(*sizes, **settings)

    def forward(self, x: Tensor, memory: Tensor, rotary: bool, *how: Any) -> tuple[Tensor, Tensor]:
        angles = waves(T, K) if rotary else None
        known = self.trained.remember(memory, angles)
        return self.trained(x, known, angles, *how), self.trained.shares(x, known, angles, *how)


@proves(transformer.multi_head)
def multi_head(equation: Any) -> None:
    """Of the words of another sequence, and causal among its own tokens, with all that is done to queries and keys."""
    net = Attending(D, H, bias=True, qk_norm=False)
    agree(
        lambda x, m, *p: equation(x, m, padded, H, [*zip(p[::2], p[1::2], strict=True)]),
        lambda x, m, *p: called(net, p, x, m, False, False, VISIBLE),
        *(random(B, T, D), random(B, S, D), *own(net)),
    )
    whole = Attending(D, H, bias=True, qk_norm=True)

    def placed(gain: Tensor) -> Callable[[Tensor], Tensor]:
        eps = torch.finfo(torch.float64).eps  # torch's own, where it is given none
        return lambda q: transformer.rotary(transformer.each_token(q, lambda row: transformer.rms_norm(row, gain, eps)))

    def slow(x: Tensor, *p: Tensor) -> tuple[Tensor, Tensor]:
        weights = [*zip(p[:8:2], p[1:8:2], strict=True)]
        return equation(x, x, transformer.causal, H, weights, placed(p[8]), placed(p[9]))

    agree(slow, lambda x, *p: called(whole, p, x, x, True, True), random(B, T, D), *own(whole))


@proves(transformer.feed_forward)
def feed_forward(equation: Any) -> None:
    for name, activation in ACTIVATIONS.items():
        net = FeedForward(D, F, name, bias=True)
        agree(
            lambda x, w, b, v, c, f=activation: equation(x, (w, b), (v, c), f),
            lambda x, *p, net=net: called(net, p, x),
            *(random(B, T, D), *own(net)),
        )


def activation_is_trained(name: Activation, equation: Callable[[Tensor], Tensor]) -> None:
    """The one between its two layers, of which the second hands it on."""
    net = FeedForward(D, F, name, bias=False)
    agree(
        lambda x, w: equation(x @ w.T),
        lambda x, w: called(net, (w, torch.eye(D, F, dtype=x.dtype)), x[None])[0, :, :F],
        *(2 * random(B, D), random(*net.up.weight.shape)),
    )


@proves(transformer.squared_relu)
def squared_relu(equation: Any) -> None:
    activation_is_trained("relu2", equation)


@proves(transformer.gelu_tanh)
def gelu_tanh(equation: Any) -> None:
    activation_is_trained("gelu_tanh", equation)


@proves(transformer.swiglu)
def swiglu(equation: Any) -> None:
    activation_is_trained("swiglu", equation)


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
def test_attention_without_a_gradient_is_the_same(
    how: dict[str, Any], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise_attention, "BLOCK", block)
    places = T if how.get("causal") else S
    q, k, v = random(B, H, T, K).requires_grad_(), random(B, H, places, K), random(B, H, places, K, seed=1)
    learned = blockwise_attention.attend(q, k, v, **how)
    with torch.no_grad():
        torch.testing.assert_close(blockwise_attention.attend(q, k, v, **how), learned, **EXACT)


def test_no_query_finds_nothing() -> None:
    q, k = random(B, H, 0, K).requires_grad_(), random(B, H, S, K)
    assert blockwise_attention.attend(q, k, k).shape == q.shape
    assert blockwise_attention.attend(q, q, q, causal=True).shape == q.shape


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    """One query and one key at every place: their score is the same wherever they stand as far from each other."""
    q, k = (transformer.rotary(random(1, 1, K, seed=seed).expand(1, T, K))[0] for seed in range(2))
    scores = q @ k.T
    for distance in range(1 - T, T):
        same = scores.diagonal(distance)
        torch.testing.assert_close(same, same[:1].expand_as(same), **EXACT)
    assert len({round(float(scores.diagonal(distance)[0]), 6) for distance in range(1 - T, T)}) == 2 * T - 1


def test_turning_changes_no_length() -> None:
    x = random(B, T, K)
    torch.testing.assert_close(transformer.rotary(x).norm(dim=2), x.norm(dim=2), **EXACT)


def test_a_place_is_another_one_turned() -> None:
    """p_(t + k) is a linear function of p_t for any fixed k, which is why these waves were chosen (section 3.5)."""
    places = transformer.sinusoidal(T, D).view(T, D // 2, 2)
    for k in range(T):
        angles = torch.tensor([k / 10000 ** (2 * i / D) for i in range(D // 2)], dtype=torch.float64)
        sin, cos = places[: T - k].unbind(2)
        turned = torch.stack([sin * angles.cos() + cos * angles.sin(), cos * angles.cos() - sin * angles.sin()], 2)
        torch.testing.assert_close(places[k:], turned, **EXACT)


def test_what_a_head_does_not_see_changes_nothing() -> None:
    q, k, v = random(1, T, K), random(1, S, K), random(1, S, K, seed=1)
    for words in range(1, S + 1):
        padded, _ = transformer.head(q, k, v, lambda b, t, s, words=words: s < words)
        alone, _ = transformer.head(q, k[:, :words], v[:, :words], lambda b, t, s: True)
        torch.testing.assert_close(padded, alone, **EXACT)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_half_precision_is_that_in_double_to_its_rounding(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients, over several blocks of queries."""
    monkeypatch.setattr(blockwise_attention, "BLOCK", 4)
    q, k, v, slope = (random(2, 3, 10, 8, seed=seed) for seed in range(4))
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        y = blockwise_attention.attend(*leaves, causal=causal)
        found.append([y, *torch.autograd.grad(y, leaves, slope.to(dtype))])
    for exact, half in zip(*found, strict=True):
        assert (exact - half).abs().max() < 0.03 * exact.abs().max()
