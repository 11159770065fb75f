"""The encoder-decoder Transformer against torch.nn.Transformer, and attention of seq2seq against torch's function.

B batch, S source time, T target time, D width, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.interfaces import PairBatch
from dlref.models.blockwise_attention import BLOCK, attend
from dlref.models.rnn_attention import RNNAttention
from dlref.models.transformer import Transformer
from dlref.objectives.translation import Translation
from tests.crosschecks.rows import crosscheck

Agree = Callable[..., None]
SOURCE_WORDS, WORDS, WIDTH, HEADS, HIDDEN, LAYERS, DECODER_LAYERS = 19, 23, 16, 4, 40, 2, 3
SOURCE_LENGTHS, LENGTHS = (9, 4, 1), (3, 7, 5)  # tokens of each row; the others are padding
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}


def real(lengths: tuple[int, ...]) -> Tensor:  # [B, T] bool
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def batch() -> PairBatch:
    random = torch.Generator().manual_seed(3)
    source, tokens, targets = (
        torch.randint(words, visible.shape, generator=random)
        for words, visible in ((SOURCE_WORDS, real(SOURCE_LENGTHS)), (WORDS, real(LENGTHS)), (WORDS, real(LENGTHS)))
    )
    return PairBatch(source, real(SOURCE_LENGTHS), tokens, targets, real(LENGTHS))


def made(
    prenorm: bool, activation: Literal["relu", "gelu"], tied: bool = False, joint: bool = False
) -> tuple[Transformer, nn.Transformer]:
    """A network with random weights, and torch's; what follows the last block is a norm in torch, which dlref has with
    `prenorm` alone, as the papers do."""
    settings: Any = {"prenorm": prenorm, "activation": activation, "tied": tied, "shared_embeddings": joint}
    source_words = WORDS if joint else SOURCE_WORDS
    net = Transformer(source_words, WORDS, WIDTH, LAYERS, HEADS, DECODER_LAYERS, HIDDEN, **settings).double()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    theirs = nn.Transformer(
        WIDTH, HEADS, LAYERS, DECODER_LAYERS, HIDDEN, 0.0, activation, batch_first=True, norm_first=prenorm
    ).double()
    if not prenorm:
        theirs.encoder.norm = theirs.decoder.norm = None
    return net, theirs


def weights(net: Transformer) -> dict[str, Tensor]:
    """torch's weights, those of queries, keys and values in one matrix."""
    found: dict[str, Tensor] = {}

    def add(name: str, layer: Any) -> None:
        found.update({f"{name}.{kind}": parameter for kind, parameter in layer.named_parameters()})

    block: Any
    for side, blocks in (("encoder", net.encoder), ("decoder", net.decoder)):
        for number, block in enumerate(blocks):
            own = f"{side}.layers.{number}"
            parts = {"self_attn": block.self_attention}
            if block.cross:
                parts["multihead_attn"] = block.cross_attention
            for name, part in parts.items():
                asked = (part.query, part.key, part.value)
                found[f"{own}.{name}.in_proj_weight"] = torch.cat([layer.weight for layer in asked])
                found[f"{own}.{name}.in_proj_bias"] = torch.cat([layer.bias for layer in asked])
                add(f"{own}.{name}.out_proj", part.out)
            add(f"{own}.linear1", block.feed_forward.up)
            add(f"{own}.linear2", block.feed_forward.down)
            for place, norm in enumerate(block.norms, 1):
                add(f"{own}.norm{place}", norm)
    add("encoder.norm", net.source_norm)  # none of an identity
    add("decoder.norm", net.norm)
    return found


def positions(length: int) -> Tensor:  # [T, D]
    """Vaswani et al. 2017, section 3.5, number by number."""
    angles = [[t / 10_000 ** ((d - d % 2) / WIDTH) for d in range(WIDTH)] for t in range(length)]
    rows = [[math.cos(angle) if d % 2 else math.sin(angle) for d, angle in enumerate(row)] for row in angles]
    return torch.tensor(rows, dtype=torch.float64)


def vectors(weight: Tensor, tokens: Tensor) -> Tensor:  # [V, D], [B, T] -> [B, T, D]
    return F.embedding(tokens, weight) * WIDTH**0.5 + positions(tokens.shape[1])


def logits_of(
    net: Transformer, theirs: nn.Transformer, pairs: PairBatch, tied: bool = False, joint: bool = False
) -> Tensor:
    """torch's logits [B, T, V] with dlref's weights, of which the target's token vectors serve more than once if `tied` or
    `joint`. torch's masks are true where nothing is to be seen, and dlref masks no target padding, which comes last and so
    is seen by no token that counts."""
    length, hidden = pairs.tokens.shape[1], ~pairs.visible
    ours: Any = net
    tokens = ours.embed.tokens.weight
    source = tokens if joint else ours.embed_source.tokens.weight
    inputs = vectors(source, pairs.source), vectors(tokens, pairs.tokens)
    masks = {
        "tgt_mask": torch.ones(length, length, dtype=torch.bool).triu(1),
        "src_key_padding_mask": hidden,
        "memory_key_padding_mask": hidden,
        "tgt_key_padding_mask": ~pairs.counted,
    }
    states = torch.func.functional_call(theirs, weights(net), inputs, masks)
    return F.linear(states, tokens if tied else net.out.weight, net.out.bias)


CASES = [(prenorm, activation) for prenorm in (False, True) for activation in ("relu", "gelu")]


@pytest.mark.parametrize(("tied", "joint"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("prenorm", "activation"), CASES)
@crosscheck(
    "encoder-decoder Transformer, pre- and post-norm, padding and causal masks: logits, loss and gradients",
    "torch",
    "weights to `torch.nn.Transformer`; token embeddings, sinusoidal positions and logits by formulas; "
    "untied, `tied`, `shared_embeddings`",
)
def test_transformer(prenorm: bool, activation: Literal["relu", "gelu"], tied: bool, joint: bool, agree: Agree) -> None:
    """The gradients are those at dlref's weights, of which torch's are made."""
    (net, theirs), pairs = made(prenorm, activation, tied, joint), batch()
    logits = logits_of(net, theirs, pairs, tied, joint)[pairs.counted]
    agree(net.eval()(pairs.source, pairs.visible, pairs.tokens)[pairs.counted], logits, **FLOAT64)
    evaluated = Translation(net).eval()(pairs)["loss"]
    expected = F.cross_entropy(logits, pairs.targets[pairs.counted])
    agree(evaluated.total / evaluated.count, expected, **FLOAT64)
    for smoothing in (0.0, 0.1):
        loss = Translation(net, smoothing)(pairs)["loss"]
        ours = loss.total / loss.count
        expected = F.cross_entropy(logits, pairs.targets[pairs.counted], label_smoothing=smoothing)
        agree(ours, expected, **FLOAT64)
        for mine, other in zip(
            torch.autograd.grad(ours, list(net.parameters())),
            torch.autograd.grad(expected, list(net.parameters()), retain_graph=True),
            strict=True,
        ):
            agree(mine, other, **FLOAT64)


@pytest.mark.parametrize("prenorm", [False, True])
@crosscheck(
    "encoder-decoder Transformer, token by token with kept keys and values: logits",
    "torch",
    "the same; torch reads all tokens at once",
)
@torch.no_grad()
def test_transformer_decoding(prenorm: bool, agree: Agree) -> None:
    (net, theirs), pairs = made(prenorm, "relu"), batch()
    expected, state = logits_of(net.eval(), theirs.train(), pairs), net.prefill(pairs.source, pairs.visible)
    for step, counted in enumerate(pairs.counted.unbind(1)):
        logits, state = net.step(state, pairs.tokens[:, step])
        agree(logits[counted], expected[counted, step], **FLOAT64)


@pytest.mark.parametrize("mask", ["none", "causal", "padding"])
@crosscheck(
    "attention over more than one block of queries: outputs and gradients",
    "torch",
    "`scaled_dot_product_attention` of 599 queries with an explicit mask; dlref takes 256 queries at a time",
)
def test_long_attention(mask: str, agree: Agree) -> None:
    random, queries = torch.Generator().manual_seed(0), 2 * BLOCK + 87
    keys = queries if mask == "causal" else 301
    q, k, v = (
        torch.randn(2, 3, length, 5, generator=random, dtype=torch.float64, requires_grad=True)
        for length in (queries, keys, keys)
    )
    visible = torch.arange(keys) < torch.tensor([[keys], [40]])  # [B, S]
    allowed = {
        "none": torch.ones(queries, keys, dtype=torch.bool),
        "causal": torch.ones(queries, keys, dtype=torch.bool).tril(),
        "padding": visible[:, None, None],
    }
    ours = attend(q, k, v, causal=mask == "causal", visible=visible if mask == "padding" else None)
    theirs = F.scaled_dot_product_attention(q, k, v, allowed[mask])
    agree(ours, theirs, **FLOAT64)
    weight = torch.randn(ours.shape, generator=random, dtype=torch.float64)
    for mine, other in zip(*(torch.autograd.grad(each, (q, k, v), weight) for each in (ours, theirs)), strict=True):
        agree(mine, other, **FLOAT64)


@pytest.mark.parametrize("score", ["dot", "general", "scaled"])
@crosscheck(
    "attention of seq2seq (Luong): contexts and gradients",
    "torch",
    "`scaled_dot_product_attention` of queries, keys of `RNNAttention` and values; a scale of 1 but for `scaled`",
)
def test_luong_attention(score: Literal["dot", "general", "scaled"], agree: Agree) -> None:
    random = torch.Generator().manual_seed(0)
    attention, visible = RNNAttention(score, WIDTH).double(), real(SOURCE_LENGTHS)
    queries, memory = (
        torch.randn(*shape, WIDTH, generator=random, dtype=torch.float64, requires_grad=True)
        for shape in (real(LENGTHS).shape, visible.shape)
    )
    keys = F.linear(memory, attention.key_projection.weight) if score == "general" else memory
    theirs = F.scaled_dot_product_attention(
        queries, keys, memory, visible[:, None], scale=None if score == "scaled" else 1.0
    )
    ours = attention(queries, attention.keys(memory), visible) @ memory
    agree(ours, theirs, **FLOAT64)
    wanted = [queries, memory, *attention.parameters()]
    for mine, other in zip(*(torch.autograd.grad(each.square().sum(), wanted) for each in (ours, theirs)), strict=True):
        agree(mine, other, **FLOAT64)
