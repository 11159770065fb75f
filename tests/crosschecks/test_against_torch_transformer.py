"""The encoder-decoder Transformer against torch.nn.Transformer, and attention of seq2seq against torch's function.

B batch, S source time, T target time, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from dlref.data.parallel import Pairs
from dlref.models.attention import Attention
from dlref.models.transformer import Transformer
from dlref.objectives.translation import Translation
from tests.crosschecks.rows import crosscheck

Agree = Callable[..., None]
SOURCE_WORDS, WORDS, WIDTH, HEADS, HIDDEN, LAYERS, DECODER_LAYERS = 19, 23, 16, 4, 40, 2, 3
SOURCE_LENGTHS, LENGTHS = (9, 4, 1), (3, 7, 5)  # tokens of each row; the others are padding
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}


def real(lengths: tuple[int, ...]) -> Tensor:  # [B, T] bool
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def batch() -> Pairs:
    random = torch.Generator().manual_seed(3)
    source, tokens, targets = (
        torch.randint(words, visible.shape, generator=random)
        for words, visible in ((SOURCE_WORDS, real(SOURCE_LENGTHS)), (WORDS, real(LENGTHS)), (WORDS, real(LENGTHS)))
    )
    return Pairs(source, real(SOURCE_LENGTHS), tokens, targets, real(LENGTHS))


def made(prenorm: bool, activation: Literal["relu", "gelu"]) -> tuple[Transformer, nn.Transformer]:
    """A network with random weights, and torch's; what follows the last block is a norm in torch, which dlref has with
    `prenorm` alone, as the papers do."""
    net = Transformer(
        SOURCE_WORDS, WORDS, WIDTH, LAYERS, HEADS, DECODER_LAYERS, HIDDEN, prenorm=prenorm, activation=activation
    ).double()
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


def features(net: Transformer, theirs: nn.Transformer, pairs: Pairs) -> Tensor:
    """torch's final hidden states [B, T, D]; its masks are true where nothing is to be seen, and dlref masks no target
    padding, which comes last and so is seen by no token that counts."""
    length, hidden = pairs.tokens.shape[1], ~pairs.visible
    inputs = net.embed_source(pairs.source)[0], net.embed(pairs.tokens)[0]
    masks = {
        "tgt_mask": torch.ones(length, length, dtype=torch.bool).triu(1),
        "src_key_padding_mask": hidden,
        "memory_key_padding_mask": hidden,
        "tgt_key_padding_mask": ~pairs.counted,
    }
    return torch.func.functional_call(theirs, weights(net), inputs, masks)


CASES = [(prenorm, activation) for prenorm in (False, True) for activation in ("relu", "gelu")]


@pytest.mark.parametrize(("prenorm", "activation"), CASES)
@crosscheck(
    "encoder-decoder Transformer, pre- and post-norm, padding and causal masks: logits, loss and gradients",
    "torch",
    "weights to `torch.nn.Transformer`; token vectors, positions and logits are dlref's",
)
def test_transformer(prenorm: bool, activation: Literal["relu", "gelu"], agree: Agree) -> None:
    """The gradients are those at dlref's weights, of which torch's are made."""
    (net, theirs), pairs = made(prenorm, activation), batch()
    logits = net.out(features(net, theirs, pairs))[pairs.counted]
    agree(net.eval()(pairs.source, pairs.visible, pairs.tokens)[pairs.counted], logits, **FLOAT64)
    evaluated = Translation(net).eval()(pairs)["loss"]
    expected = nn.functional.cross_entropy(logits, pairs.targets[pairs.counted])
    agree(evaluated.total / evaluated.count, expected, **FLOAT64)
    for smoothing in (0.0, 0.1):
        loss = Translation(net, smoothing)(pairs)["loss"]
        ours = loss.total / loss.count
        expected = nn.functional.cross_entropy(logits, pairs.targets[pairs.counted], label_smoothing=smoothing)
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
    expected, state = net.out(features(net.eval(), theirs.train(), pairs)), net.begin(pairs.source, pairs.visible)
    for step, counted in enumerate(pairs.counted.unbind(1)):
        logits, state = net.step(state, pairs.tokens[:, step])
        agree(logits[counted], expected[counted, step], **FLOAT64)


@pytest.mark.parametrize("score", ["dot", "general", "scaled"])
@crosscheck(
    "attention of seq2seq (Luong): contexts and gradients",
    "torch",
    "`scaled_dot_product_attention` of queries, keys of `Attention` and values; a scale of 1 but for `scaled`",
)
def test_luong_attention(score: Literal["dot", "general", "scaled"], agree: Agree) -> None:
    random = torch.Generator().manual_seed(0)
    attention, visible = Attention(score, WIDTH).double(), real(SOURCE_LENGTHS)
    queries, memory = (
        torch.randn(*shape, WIDTH, generator=random, dtype=torch.float64, requires_grad=True)
        for shape in (real(LENGTHS).shape, visible.shape)
    )
    keys = nn.functional.linear(memory, attention.of_key.weight) if score == "general" else memory
    theirs = nn.functional.scaled_dot_product_attention(
        queries, keys, memory, visible[:, None], scale=None if score == "scaled" else 1.0
    )
    ours = attention(queries, attention.keys(memory), visible) @ memory
    agree(ours, theirs, **FLOAT64)
    wanted = [queries, memory, *attention.parameters()]
    for mine, other in zip(*(torch.autograd.grad(each.square().sum(), wanted) for each in (ours, theirs)), strict=True):
        agree(mine, other, **FLOAT64)
