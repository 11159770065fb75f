"""Whole Transformers by hand = the networks; with a cache = without; and a row, whatever stands beside and behind it."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.data.text.parallel import Pairs
from dlref.data.text.token_streams import Piece
from dlref.equations import attention, layers, recurrent, tensor, transformer
from dlref.models.transformer import Transformer
from dlref.models.transformer_lm import TransformerLM
from dlref.objectives.language_modelling import LanguageModelling
from dlref.objectives.translation import Translation
from tests.conftest import first
from tests.proofs.harness import EXACT
from tests.proofs.test_recurrent_equations import Recorded
from tests.proofs.test_seq2seq_equations import recorded
from tests.proofs.test_transformer_equations import ACTIVATIONS

H, D, S, T, F, SIZE, WORDS, CONTEXT = 2, 8, 5, 6, 7, 9, 10, 11  # heads, width, times, hidden units and vocabularies
SOURCE_LENGTHS, LENGTHS = torch.tensor([3, 5, 1]), torch.tensor([6, 2, 4])
VISIBLE, COUNTED = torch.arange(S) < SOURCE_LENGTHS[:, None], torch.arange(T) < LENGTHS[:, None]


def drawn(size: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(1, size, (3, time), generator=torch.Generator().manual_seed(seed + time))


SOURCE, TOKENS, TARGETS = drawn(WORDS, S) * VISIBLE, drawn(SIZE, T) * COUNTED, drawn(SIZE, T, seed=1) * COUNTED


def made(kind: type[nn.Module], *sizes: int, **settings: Any) -> Any:
    """A network all of whose numbers are random, gains and shifts too."""
    torch.manual_seed(3)
    net = kind(*sizes, width=D, heads=H, **settings).double()
    for p in net.parameters():
        nn.init.normal_(p, 0.3, 0.5)
    return net


class ByHand:
    """A network of these settings, with the masks that its dropout has drawn, by the names of the modules."""

    def __init__(self, net: nn.Module, dropped: dict[str, Recorded], **settings: Any) -> None:
        self.p, self.settings = dict(net.named_parameters(remove_duplicate=False)), settings
        self.kept = {place: (iter(drop.kept), drop.share) for place, drop in dropped.items()}

    def language_model(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of the next tokens [B, T, V], and each layer's and head's shares [B, layers, H, T, T]."""
        x, looked = self.embedded("embed", tokens), []
        for layer in range(self.settings["layers"]):
            x, share = self.attended(f"blocks.{layer}", 0, x, x, transformer.causal)
            x = self.fed_forward(f"blocks.{layer}", 1, x)
            looked.append(share)
        return self.scored(self.ended("norm", x)), self.by_layer(looked)

    def translator(self, source: Tensor, visible: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of the target's words [B, T, V], and the shares of the source's [B, layers, H, T, S]."""

        def padded(b: int, t: int, s: int) -> bool:
            return bool(visible[b, s])

        memory, looked = (
            self.embedded("embed" if self.settings.get("shared_embeddings") else "embed_source", source),
            [],
        )
        for layer in range(self.settings["layers"]):
            memory, _ = self.attended(f"encoder.{layer}", 0, memory, memory, padded)
            memory = self.fed_forward(f"encoder.{layer}", 1, memory)
        memory = self.ended("source_norm", memory)
        x = self.embedded("embed", tokens)
        for layer in range(self.settings.get("decoder_layers", self.settings["layers"])):
            x, _ = self.attended(f"decoder.{layer}", 0, x, x, transformer.causal)
            x, share = self.attended(f"decoder.{layer}", 1, x, memory, padded)
            x = self.fed_forward(f"decoder.{layer}", 2, x)
            looked.append(share)
        return self.scored(self.ended("norm", x)), self.by_layer(looked)

    def embedded(self, place: str, tokens: Tensor) -> Tensor:
        table, time = self.p[f"{place}.tokens.weight"], tokens.shape[1]
        places = torch.zeros(time, D, dtype=torch.float64)
        if self.settings["positions"] == "sinusoidal":
            places = transformer.sinusoidal(time, D)
        if self.settings["positions"] == "learned":
            places = self.p[f"{place}.places.weight"]
        return self.drop(transformer.embedded(tokens, table, places), f"{place}.drop")

    def attended(
        self, block: str, part: int, x: Tensor, memory: Tensor, sees: transformer.Rule
    ) -> tuple[Tensor, Tensor]:
        """To itself in the first part of a block, which alone knows of places if they are rotary; else to the memory."""
        here = f"{block}.{'cross_attention' if part else 'self_attention'}"
        weights = [self.affine(f"{here}.{name}") for name in ("query", "key", "value", "out")]
        of_query, of_key = (self.of_head(f"{here}.{whose}_norm", rotary=not part) for whose in ("query", "key"))
        given = self.before(block, part, x)
        memory = memory if part else given
        found, share = transformer.multi_head(given, memory, sees, H, weights, of_query, of_key)
        return self.after(block, part, x, found), share

    def of_head(self, norm: str, rotary: bool) -> Callable[[Tensor], Tensor]:
        def placed(q: Tensor) -> Tensor:
            if self.settings.get("qk_norm"):
                q = self.rms(norm, q)
            return transformer.rotary(q) if rotary and self.settings["positions"] == "rotary" else q

        return placed

    def fed_forward(self, block: str, part: int, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.settings["activation"]]
        up, down = (self.affine(f"{block}.feed_forward.{name}") for name in ("up", "down"))
        return self.after(block, part, x, transformer.feed_forward(self.before(block, part, x), up, down, activation))

    def before(self, block: str, part: int, x: Tensor) -> Tensor:
        return self.norm(f"{block}.norms.{part}", x) if self.settings["prenorm"] else x

    def after(self, block: str, part: int, x: Tensor, found: Tensor) -> Tensor:
        x = x + self.drop(found, f"{block}.drop")
        return x if self.settings["prenorm"] else self.norm(f"{block}.norms.{part}", x)

    def ended(self, place: str, x: Tensor) -> Tensor:
        return self.norm(place, x) if self.settings["prenorm"] else x

    def norm(self, place: str, x: Tensor) -> Tensor:
        if self.settings["norm"] == "rms":
            return self.rms(place, x)
        gain, shift = self.affine(place)
        return transformer.each_token(x, lambda row: layers.layer_norm(row, gain, shift, 1e-5))

    def rms(self, place: str, x: Tensor) -> Tensor:
        gain, eps = self.p[f"{place}.weight"], torch.finfo(torch.float64).eps
        return transformer.each_token(x, lambda row: transformer.rms_norm(row, gain, eps))

    def affine(self, place: str) -> transformer.Affine:
        weight = self.p[f"{place}.weight"]
        return weight, self.p.get(f"{place}.bias", weight.new_zeros(len(weight)))

    def drop(self, x: Tensor, place: str) -> Tensor:
        if place not in self.kept:
            return x
        masks, share = self.kept[place]
        return layers.dropout(x, next(masks), share)

    def scored(self, x: Tensor) -> Tensor:
        return transformer.each_token(x, lambda row: layers.affine(row, *self.affine("out")))

    def by_layer(self, looked: list[Tensor]) -> Tensor:
        return tensor([[share[b] for share in looked] for b in range(3)])


def same_gradients(net: nn.Module, fast: Any, slow: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(fast), slow, **EXACT)
    names, parameters = zip(*net.named_parameters(), strict=True)
    for name, mine, theirs in zip(
        names, *(torch.autograd.grad(each, parameters) for each in (fast, slow)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, msg=lambda text, name=name: f"{name}: {text}", **EXACT)
        assert mine.abs().max() > 1e-6 or name.endswith("key.bias"), name  # which a softmax does not notice


def named(*cases: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each case by a name that holds all of them."""
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
def test_the_whole_language_model_by_hand(tied: Any, name: str) -> None:
    """Total nats of the next tokens: the value, and the gradient at every parameter."""
    settings, tied = LANGUAGE_MODELS[name], tied == "tied"
    net = made(TransformerLM, SIZE, CONTEXT, hidden=F, tied=tied, qk_norm=tied, **settings)
    dropped, (tokens, targets) = recorded(net), (drawn(SIZE, T), drawn(SIZE, T, seed=1))
    totals = LanguageModelling(net)(Piece(tokens, targets, True))
    scores, shares = ByHand(net, dropped, qk_norm=tied, **settings).language_model(tokens)
    same_gradients(net, totals["loss"].total, recurrent.total_nats(scores, targets))
    if not dropped:
        torch.testing.assert_close(net(tokens)[0], scores, **EXACT)
        torch.testing.assert_close(net.attention_weights(tokens), shares, **EXACT)


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
def test_the_whole_translator_by_hand(name: str) -> None:
    """Total nats of the counted targets, their labels smoothed: the value, and the gradient at every parameter."""
    settings = TRANSLATORS[name]
    words = SIZE if settings.get("shared_embeddings") else WORDS
    source = SOURCE.clamp(max=words - 1)
    net = made(Transformer, words, SIZE, hidden=F, context=CONTEXT, **settings)
    dropped = recorded(net)
    totals = Translation(net, smoothing=0.1)(Pairs(source, VISIBLE, TOKENS, TARGETS, COUNTED))
    scores, shares = ByHand(net, dropped, **settings).translator(source, VISIBLE, TOKENS)
    same_gradients(net, totals["loss"].total, attention.counted_nats(scores, TARGETS, COUNTED, 0.1))
    torch.testing.assert_close(totals["nll"].total, attention.counted_nats(scores, TARGETS, COUNTED, 0.0), **EXACT)
    if not dropped:
        torch.testing.assert_close(net(source, VISIBLE, TOKENS), scores, **EXACT)
        torch.testing.assert_close(net.attention_weights(source, VISIBLE, TOKENS), shares, **EXACT)


@functools.cache
def networks(kind: type[nn.Module], *sizes: int) -> list[tuple[str, Any]]:
    """All ways to place tokens and to normalise, with their settings in words; in evaluation, dropout drops nothing."""
    names = ("positions", "norm", "prenorm", "qk_norm")
    values = itertools.product(("sinusoidal", "learned", "rotary"), ("layer", "rms"), *[(False, True)] * 2)
    every = [dict(zip(names, each, strict=True)) for each in values]
    return [(str(each), made(kind, *sizes, layers=2, dropout=0.3, **each).eval()) for each in every]


def models(context: int = CONTEXT) -> list[tuple[str, TransformerLM]]:
    return networks(TransformerLM, SIZE, context)


def translators() -> list[tuple[str, Transformer]]:
    return networks(Transformer, WORDS, SIZE)


def same(mine: Tensor, theirs: Tensor, settings: str) -> None:
    torch.testing.assert_close(mine, theirs, msg=lambda difference: f"{settings}: {difference}", **EXACT)


ORDER = torch.tensor([2, 0, 0, 1])


@torch.no_grad()
def test_a_translation_token_by_token_is_reading_at_once() -> None:
    for settings, net in translators():
        state = net.prefill(SOURCE, VISIBLE)
        for t, expected in enumerate(net(SOURCE, VISIBLE, TOKENS).unbind(dim=1)):
            logits, state = net.step(state, TOKENS[:, t])
            same(logits, expected, settings)


@torch.no_grad()
def test_the_rows_of_a_translation_can_be_reordered_and_repeated() -> None:
    """As beam search does: they go on like the sentences that they came from."""
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
def test_writing_token_by_token_is_reading_at_once() -> None:
    tokens = drawn(SIZE, CONTEXT)
    for settings, net in models():
        state = net.prefill(tokens[:, :0])
        for t, expected in enumerate(net(tokens)[0].unbind(dim=1)):
            logits, state = net.step(state, tokens[:, t])
            same(logits, expected, settings)


@torch.no_grad()
def test_the_rows_of_a_language_model_can_be_reordered_and_repeated() -> None:
    tokens = drawn(SIZE, CONTEXT)
    for settings, net in models():
        state = net.prefill(tokens[:, :4])
        state = tuple(part.index_select(0, ORDER) for part in state)
        expected = net(tokens[ORDER])[0]
        for t in range(4, CONTEXT):
            logits, state = net.step(state, tokens[ORDER, t])
            same(logits, expected[:, t], settings)


@pytest.mark.parametrize("context", first(5, of=[1, 4, 5]))
@torch.no_grad()
def test_past_its_context_a_language_model_reads_the_second_half_and_what_is_new(context: int) -> None:
    tokens = drawn(SIZE, 3 * context)
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
def test_what_a_language_model_begins_with_are_the_last_tokens_that_leave_room_for_one(context: int) -> None:
    """For every length up to three contexts: the state of reading those one by one, and all of a context with a further one."""
    tokens = drawn(SIZE, 3 * context + 1)
    for settings, net in models(context):
        for length in range(3 * context + 1):
            begun, first = net.prefill(tokens[:, :length]), max(length - context + 1, 0)
            read = net.prefill(tokens[:, :0])
            for t in range(first, length):
                _, read = net.step(read, tokens[:, t])
            for mine, theirs in zip(begun, read, strict=True):
                same(mine, theirs, f"{settings}, {length} tokens")
            logits, _ = net.step(begun, tokens[:, length])
            same(logits, net(tokens[:, first : length + 1])[0][:, -1], f"{settings}, {length} tokens")


@torch.no_grad()
def test_a_sentence_alone_is_the_same_as_in_a_padded_batch() -> None:
    for settings, net in translators():
        together, shares = net(SOURCE, VISIBLE, TOKENS), net.attention_weights(SOURCE, VISIBLE, TOKENS)
        for b, (words, length) in enumerate(zip(SOURCE_LENGTHS, LENGTHS, strict=True)):
            alone = SOURCE[b : b + 1, :words], VISIBLE[b : b + 1, :words], TOKENS[b : b + 1, :length]
            same(together[b, :length], net(*alone)[0], settings)
            same(shares[b, :, :, :length, :words], net.attention_weights(*alone)[0], settings)


@torch.no_grad()
def test_attention_is_shared_among_the_words_of_the_source() -> None:
    for settings, net in translators():
        shares = net.attention_weights(SOURCE, VISIBLE, TOKENS)
        same(shares.sum(4), torch.ones(3, 2, H, T, dtype=torch.float64), settings)
        assert torch.equal(shares > 0, VISIBLE[:, None, None, None].expand_as(shares)), settings


def test_what_stands_in_the_padding_does_not_matter() -> None:
    """Nor does anything flow back into it: the vectors of what stands there have no gradient."""
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
def test_what_comes_later_and_stands_in_other_rows_does_not_matter_to_a_language_model() -> None:
    tokens = drawn(SIZE, T)
    for settings, net in models():
        together = net(tokens)[0]
        for b, length in itertools.product(range(3), range(1, T + 1)):
            same(together[b, :length], net(tokens[b : b + 1, :length])[0][0], settings)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_blocks_that_begin_at_zero_hand_on_what_they_are_given(tied: bool) -> None:
    torch.manual_seed(3)
    net = TransformerLM(SIZE, CONTEXT, D, 2, H, zero_init=True, tied=tied).double()
    tokens = drawn(SIZE, T)
    x = net.norm(net.embed(tokens)[0])
    torch.testing.assert_close(net.hidden(tokens).dropped, x, **EXACT)
    assert net(tokens)[0].any() == tied
