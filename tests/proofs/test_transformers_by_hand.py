"""The networks equal their equations, decoding with a cache equals teacher forcing, and rows do not affect each other."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.equations import attention, layers, recurrent, tensor, transformer
from dlref.interfaces import PairBatch, TokenBatch
from dlref.models.transformer import Transformer
from dlref.models.transformer_lm import TransformerLM
from dlref.objectives.language_modelling import LanguageModelling
from dlref.objectives.translation import Translation
from tests.conftest import first
from tests.proofs.harness import EXACT
from tests.proofs.test_recurrent_equations import Recorded
from tests.proofs.test_seq2seq_equations import recorded
from tests.proofs.test_transformer_equations import ACTIVATIONS

H, D, S, T, F, SIZE, WORDS, CONTEXT = (
    2,
    8,
    5,
    6,
    7,
    9,
    10,
    11,
)  # heads, width, lengths, hidden units, vocabulary sizes, context
SOURCE_LENGTHS, LENGTHS = torch.tensor([3, 5, 1]), torch.tensor([6, 2, 4])
VISIBLE, COUNTED = torch.arange(S) < SOURCE_LENGTHS[:, None], torch.arange(T) < LENGTHS[:, None]


def random_tokens(size: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(1, size, (3, time), generator=torch.Generator().manual_seed(seed + time))


SOURCE, TOKENS, TARGETS = (
    random_tokens(WORDS, S) * VISIBLE,
    random_tokens(SIZE, T) * COUNTED,
    random_tokens(SIZE, T, seed=1) * COUNTED,
)


def random_network(kind: type[nn.Module], *sizes: int, **settings: Any) -> Any:
    """A network in which all parameters are random, also biases and the scales of norms."""
    torch.manual_seed(3)
    net = kind(*sizes, width=D, heads=H, **settings).double()
    for p in net.parameters():
        nn.init.normal_(p, 0.3, 0.5)
    return net


class Equations:
    """The same network from equations, with the parameters and the recorded dropout masks of `net`."""

    def __init__(self, net: nn.Module, dropped: dict[str, Recorded], **settings: Any) -> None:
        self.p, self.settings = dict(net.named_parameters(remove_duplicate=False)), settings
        self.kept = {name: (iter(drop.kept), drop.rate) for name, drop in dropped.items()}

    def language_model(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the next tokens [B, T, V], and attention weights [B, layers, H, T, T]."""
        x, weights = self.embed("embed", tokens), []
        for layer in range(self.settings["layers"]):
            x, attention = self.attend(f"blocks.{layer}", 0, x, x, transformer.causal)
            x = self.feed_forward(f"blocks.{layer}", 1, x)
            weights.append(attention)
        return self.logits(self.final_norm("norm", x)), self.by_layer(weights)

    def translator(self, source: Tensor, visible: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the target [B, T, V], and cross-attention weights [B, layers, H, T, S]."""

        def padded(b: int, t: int, s: int) -> bool:
            return bool(visible[b, s])

        weights = []
        memory = self.embed("embed" if self.settings.get("shared_embeddings") else "embed_source", source)
        for layer in range(self.settings["layers"]):
            memory, _ = self.attend(f"encoder.{layer}", 0, memory, memory, padded)
            memory = self.feed_forward(f"encoder.{layer}", 1, memory)
        memory = self.final_norm("source_norm", memory)
        x = self.embed("embed", tokens)
        for layer in range(self.settings.get("decoder_layers", self.settings["layers"])):
            x, _ = self.attend(f"decoder.{layer}", 0, x, x, transformer.causal)
            x, attention = self.attend(f"decoder.{layer}", 1, x, memory, padded)
            x = self.feed_forward(f"decoder.{layer}", 2, x)
            weights.append(attention)
        return self.logits(self.final_norm("norm", x)), self.by_layer(weights)

    def embed(self, name: str, tokens: Tensor) -> Tensor:
        table, time = self.p[f"{name}.tokens.weight"], tokens.shape[1]
        positions = torch.zeros(time, D, dtype=torch.float64)
        if self.settings["positions"] == "sinusoidal":
            positions = transformer.sinusoidal(time, D)
        if self.settings["positions"] == "learned":
            positions = self.p[f"{name}.learned.weight"]
        return self.drop(transformer.embed(tokens, table, positions), f"{name}.drop")

    def attend(self, block: str, part: int, x: Tensor, memory: Tensor, sees: transformer.Rule) -> tuple[Tensor, Tensor]:
        """Self-attention, the first part of a block, with rotary positions if any; or cross-attention to the memory."""
        name = f"{block}.{'cross_attention' if part else 'self_attention'}"
        weights = [self.affine(f"{name}.{each}") for each in ("query", "key", "value", "out")]
        map_query, map_key = (self.map_head(f"{name}.{each}_norm", rotary=not part) for each in ("query", "key"))
        normed = self.part_input(block, part, x)
        memory = memory if part else normed
        output, attention = transformer.multi_head(normed, memory, sees, H, weights, map_query, map_key)
        return self.add(block, part, x, output), attention

    def map_head(self, norm: str, rotary: bool) -> Callable[[Tensor], Tensor]:
        def normalize_and_rotate(q: Tensor) -> Tensor:
            if self.settings.get("qk_norm"):
                q = self.rms(norm, q)
            return transformer.rotary(q) if rotary and self.settings["positions"] == "rotary" else q

        return normalize_and_rotate

    def feed_forward(self, block: str, part: int, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.settings["activation"]]
        up, down = (self.affine(f"{block}.feed_forward.{name}") for name in ("up", "down"))
        return self.add(block, part, x, transformer.feed_forward(self.part_input(block, part, x), up, down, activation))

    def part_input(self, block: str, part: int, x: Tensor) -> Tensor:
        return self.norm(f"{block}.norms.{part}", x) if self.settings["prenorm"] else x

    def add(self, block: str, part: int, x: Tensor, output: Tensor) -> Tensor:
        x = x + self.drop(output, f"{block}.drop")
        return x if self.settings["prenorm"] else self.norm(f"{block}.norms.{part}", x)

    def final_norm(self, name: str, x: Tensor) -> Tensor:
        return self.norm(name, x) if self.settings["prenorm"] else x

    def norm(self, name: str, x: Tensor) -> Tensor:
        if self.settings["norm"] == "rms":
            return self.rms(name, x)
        scale, bias = self.affine(name)
        return transformer.each_token(x, lambda row: layers.layer_norm(row, scale, bias, 1e-5))

    def rms(self, name: str, x: Tensor) -> Tensor:
        scale, eps = self.p[f"{name}.weight"], torch.finfo(torch.float64).eps
        return transformer.each_token(x, lambda row: transformer.rms_norm(row, scale, eps))

    def affine(self, name: str) -> transformer.Affine:
        weight = self.p[f"{name}.weight"]
        return weight, self.p.get(f"{name}.bias", weight.new_zeros(len(weight)))

    def drop(self, x: Tensor, name: str) -> Tensor:
        if name not in self.kept:
            return x
        masks, rate = self.kept[name]
        return layers.dropout(x, next(masks), rate)

    def logits(self, x: Tensor) -> Tensor:
        return transformer.each_token(x, lambda row: layers.affine(row, *self.affine("out")))

    def by_layer(self, weights: list[Tensor]) -> Tensor:
        return tensor([[layer[b] for layer in weights] for b in range(3)])


def same_gradients(net: nn.Module, fast: Any, slow: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(fast), slow, **EXACT)
    names, parameters = zip(*net.named_parameters(), strict=True)
    for name, mine, theirs in zip(
        names, *(torch.autograd.grad(each, parameters) for each in (fast, slow)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, msg=lambda text, name=name: f"{name}: {text}", **EXACT)
        assert mine.abs().max() > 1e-6 or name.endswith("key.bias"), name  # to which a softmax is invariant


def named(*cases: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by a name that lists them."""
    return {"-".join(str(k if v is True else v) for k, v in settings.items()): settings for settings in cases}


LANGUAGE_MODELS = named(
    {"positions": "rotary", "norm": "rms", "prenorm": True, "activation": "relu2", "layers": 2},
    {"positions": "sinusoidal", "norm": "layer", "prenorm": False, "activation": "relu", "layers": 2, "bias": True},
    {"positions": "learned", "norm": "rms", "prenorm": False, "activation": "swiglu", "layers": 1, "dropout": 0.3},
    {"positions": "rotary", "norm": "layer", "prenorm": True, "activation": "gelu", "layers": 1, "bias": True},
)


@pytest.mark.parametrize(
    ("tied", "name"),
    first(
        *zip(["untied", "tied"], list(LANGUAGE_MODELS)[2:], strict=True),
        of=itertools.product(["tied", "untied"], LANGUAGE_MODELS),
    ),
)
def test_the_language_model_equals_its_equations(tied: Any, name: str) -> None:
    """The loss, its gradient at every parameter, logits and attention weights."""
    settings, tied = LANGUAGE_MODELS[name], tied == "tied"
    net = random_network(TransformerLM, SIZE, CONTEXT, hidden=F, tied=tied, qk_norm=tied, **settings)
    dropped, (tokens, targets) = recorded(net), (random_tokens(SIZE, T), random_tokens(SIZE, T, seed=1))
    totals = LanguageModelling(net)(TokenBatch(tokens, targets, True))
    logits, weights = Equations(net, dropped, qk_norm=tied, **settings).language_model(tokens)
    same_gradients(net, totals["loss"].total, recurrent.total_nll(logits, targets))
    if not dropped:
        torch.testing.assert_close(net(tokens)[0], logits, **EXACT)
        torch.testing.assert_close(net.attention_weights(tokens), weights, **EXACT)


TRANSLATORS = named(
    {"positions": "sinusoidal", "norm": "layer", "prenorm": False, "activation": "relu", "layers": 2, "dropout": 0.3},
    {"positions": "sinusoidal", "norm": "rms", "prenorm": True, "activation": "gelu", "layers": 1, "qk_norm": True,
     "tied": True, "bias": False},
    {"positions": "rotary", "norm": "rms", "prenorm": True, "activation": "swiglu", "layers": 2, "decoder_layers": 1,
     "qk_norm": True},
    {"positions": "rotary", "norm": "layer", "prenorm": False, "activation": "relu2", "layers": 1, "tied": True,
     "shared_embeddings": True, "bias": False},
    {"positions": "learned", "norm": "layer", "prenorm": True, "activation": "relu", "layers": 1, "decoder_layers": 2,
     "shared_embeddings": True, "dropout": 0.2},
    {"positions": "learned", "norm": "rms", "prenorm": False, "activation": "gelu", "layers": 1, "qk_norm": True},
)  # fmt: skip


@pytest.mark.parametrize("name", first(list(TRANSLATORS)[3], of=TRANSLATORS))
def test_the_translator_equals_its_equations(name: str) -> None:
    """The loss with label smoothing, its gradient at every parameter, logits and attention weights."""
    settings = TRANSLATORS[name]
    words = SIZE if settings.get("shared_embeddings") else WORDS
    source = SOURCE.clamp(max=words - 1)
    net = random_network(Transformer, words, SIZE, hidden=F, context=CONTEXT, **settings)
    dropped = recorded(net)
    totals = Translation(net, label_smoothing=0.1)(PairBatch(source, VISIBLE, TOKENS, TARGETS, COUNTED))
    logits, weights = Equations(net, dropped, **settings).translator(source, VISIBLE, TOKENS)
    same_gradients(net, totals["loss"].total, attention.masked_cross_entropy(logits, TARGETS, COUNTED, 0.1))
    torch.testing.assert_close(
        totals["nll"].total, attention.masked_cross_entropy(logits, TARGETS, COUNTED, 0.0), **EXACT
    )
    if not dropped:
        torch.testing.assert_close(net(source, VISIBLE, TOKENS), logits, **EXACT)
        torch.testing.assert_close(net.attention_weights(source, VISIBLE, TOKENS), weights, **EXACT)


@functools.cache
def networks(kind: type[nn.Module], *sizes: int) -> list[tuple[str, Any]]:
    """Networks in evaluation mode with all kinds of positions and norms, each with a description."""
    names = ("positions", "norm", "prenorm", "qk_norm")
    values = itertools.product(("sinusoidal", "learned", "rotary"), ("layer", "rms"), *[(False, True)] * 2)
    every = [dict(zip(names, each, strict=True)) for each in values]
    return [(str(each), random_network(kind, *sizes, layers=2, dropout=0.3, **each).eval()) for each in every]


def models(context: int = CONTEXT) -> list[tuple[str, TransformerLM]]:
    return networks(TransformerLM, SIZE, context)


def translators() -> list[tuple[str, Transformer]]:
    return networks(Transformer, WORDS, SIZE)


def same(mine: Tensor, theirs: Tensor, settings: str) -> None:
    torch.testing.assert_close(mine, theirs, msg=lambda difference: f"{settings}: {difference}", **EXACT)


ORDER = torch.tensor([2, 0, 0, 1])


@torch.no_grad()
def test_translating_token_by_token_equals_teacher_forcing() -> None:
    for settings, net in translators():
        state = net.prefill(SOURCE, VISIBLE)
        for t, expected in enumerate(net(SOURCE, VISIBLE, TOKENS).unbind(dim=1)):
            logits, state = net.step(state, TOKENS[:, t])
            same(logits, expected, settings)


@torch.no_grad()
def test_rows_of_a_translator_state_can_be_reordered_and_repeated() -> None:
    """As beam search does."""
    for settings, net in translators():
        expected = net(SOURCE[ORDER], VISIBLE[ORDER], TOKENS[ORDER])
        state = net.prefill(SOURCE, VISIBLE)
        for t in range(2):
            _, state = net.step(state, TOKENS[:, t])
        state = tuple(part.index_select(0, ORDER) for part in state)
        for t in range(2, T):
            logits, state = net.step(state, TOKENS[ORDER, t])
            same(logits, expected[:, t], settings)


@torch.no_grad()
def test_a_language_model_with_a_cache_equals_one_without() -> None:
    tokens = random_tokens(SIZE, CONTEXT)
    for settings, net in models():
        state = net.prefill(tokens[:, :0])
        for t, expected in enumerate(net(tokens)[0].unbind(dim=1)):
            logits, state = net.step(state, tokens[:, t])
            same(logits, expected, settings)


@torch.no_grad()
def test_rows_of_a_language_model_state_can_be_reordered_and_repeated() -> None:
    tokens = random_tokens(SIZE, CONTEXT)
    for settings, net in models():
        state = net.prefill(tokens[:, :4])
        state = tuple(part.index_select(0, ORDER) for part in state)
        expected = net(tokens[ORDER])[0]
        for t in range(4, CONTEXT):
            logits, state = net.step(state, tokens[ORDER, t])
            same(logits, expected[:, t], settings)


@pytest.mark.parametrize("context", first(5, of=[1, 4, 5]))
@torch.no_grad()
def test_a_full_context_is_cut_to_its_second_half(context: int) -> None:
    tokens = random_tokens(SIZE, 3 * context)
    for settings, net in models(context):
        state, first = net.prefill(tokens[:, :0]), 0
        for t in range(tokens.shape[1]):
            if t - first == context:
                first = t - context // 2
            logits, state = net.step(state, tokens[:, t])
            same(logits, net(tokens[:, first : t + 1])[0][:, -1], settings)


@pytest.mark.slow
@pytest.mark.parametrize("context", [1, 4, 5])
@torch.no_grad()
def test_prefill_keeps_the_last_tokens_that_leave_room_for_one(context: int) -> None:
    """For every prompt length up to three contexts: the state equals that of decoding these tokens one by one."""
    tokens = random_tokens(SIZE, 3 * context + 1)
    for settings, net in models(context):
        for length in range(3 * context + 1):
            state, first = net.prefill(tokens[:, :length]), max(length - context + 1, 0)
            expected = net.prefill(tokens[:, :0])
            for t in range(first, length):
                _, expected = net.step(expected, tokens[:, t])
            for mine, theirs in zip(state, expected, strict=True):
                same(mine, theirs, f"{settings}, {length} tokens")
            logits, _ = net.step(state, tokens[:, length])
            same(logits, net(tokens[:, first : length + 1])[0][:, -1], f"{settings}, {length} tokens")


@torch.no_grad()
def test_a_sentence_alone_equals_the_same_sentence_in_a_padded_batch() -> None:
    for settings, net in translators():
        together, weights = net(SOURCE, VISIBLE, TOKENS), net.attention_weights(SOURCE, VISIBLE, TOKENS)
        for b, (words, length) in enumerate(zip(SOURCE_LENGTHS, LENGTHS, strict=True)):
            alone = SOURCE[b : b + 1, :words], VISIBLE[b : b + 1, :words], TOKENS[b : b + 1, :length]
            same(together[b, :length], net(*alone)[0], settings)
            same(weights[b, :, :, :length, :words], net.attention_weights(*alone)[0], settings)


@torch.no_grad()
def test_attention_weights_sum_to_1_and_are_0_at_padding() -> None:
    for settings, net in translators():
        weights = net.attention_weights(SOURCE, VISIBLE, TOKENS)
        same(weights.sum(4), torch.ones(3, 2, H, T, dtype=torch.float64), settings)
        assert torch.equal(weights > 0, VISIBLE[:, None, None, None].expand_as(weights)), settings


def test_padding_tokens_affect_neither_outputs_nor_gradients() -> None:
    source = torch.where(VISIBLE, SOURCE.clamp(max=WORDS - 2), WORDS - 1)
    tokens = torch.where(COUNTED, TOKENS.clamp(max=SIZE - 2), SIZE - 1)
    for settings, net in translators():
        outputs = net(source, VISIBLE, tokens)
        with torch.no_grad():
            same(outputs[COUNTED], net(source * VISIBLE, VISIBLE, tokens * COUNTED)[COUNTED], settings)
        tables = [net.embed_source.tokens.weight, net.embed.tokens.weight]
        for table, gradient in zip(tables, torch.autograd.grad(outputs[COUNTED].square().sum(), tables), strict=True):
            read = (source if table is tables[0] else tokens).unique()[:-1]
            assert not gradient[-1].any(), settings
            assert gradient[read].any(1).all(), settings


@torch.no_grad()
def test_later_tokens_and_other_rows_do_not_affect_a_language_model() -> None:
    tokens = random_tokens(SIZE, T)
    for settings, net in models():
        together = net(tokens)[0]
        for b, length in itertools.product(range(3), range(1, T + 1)):
            same(together[b, :length], net(tokens[b : b + 1, :length])[0][0], settings)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_blocks_with_zero_init_are_the_identity(tied: bool) -> None:
    torch.manual_seed(3)
    net = TransformerLM(SIZE, CONTEXT, D, 2, H, zero_init=True, tied=tied).double()
    tokens = random_tokens(SIZE, T)
    x = net.norm(net.embed(tokens)[0])
    torch.testing.assert_close(net.hidden(tokens).dropped, x, **EXACT)
    assert net(tokens)[0].any() == tied
