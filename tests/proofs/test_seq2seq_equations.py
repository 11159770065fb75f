"""The network equals its equations, and its outputs for a row depend neither on other rows nor on padding."""

import functools
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.equations import attention, layers, recurrent
from dlref.interfaces import PairBatch
from dlref.models.seq2seq import Seq2Seq
from dlref.objectives.translation import Translation
from tests.proofs.harness import EXACT
from tests.proofs.test_recurrent_equations import KINDS, Recorded, as_printed

S, T, WORDS, SIZE = 5, 4, 9, 7  # lengths and vocabulary sizes of source and target
CELLS = {kind.__name__.lower(): (gates, step) for gates, step, kind in KINDS}
SCORES = (None, "dot", "scaled", "general", "additive")
SOURCE_LENGTHS, LENGTHS = torch.tensor([3, 5, 1]), torch.tensor([4, 2, 3])
VISIBLE, COUNTED = torch.arange(S) < SOURCE_LENGTHS[:, None], torch.arange(T) < LENGTHS[:, None]


def random_tokens(size: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(1, size, (3, time), generator=torch.Generator().manual_seed(seed + time))


SOURCE, TOKENS, TARGETS = (
    random_tokens(WORDS, S) * VISIBLE,
    random_tokens(SIZE, T) * COUNTED,
    random_tokens(SIZE, T, seed=1) * COUNTED,
)


class Equations:
    """The same network from equations, with the parameters and the recorded dropout masks of `net`."""

    def __init__(self, net: nn.Module, dropped: dict[str, Recorded], **settings: Any) -> None:
        self.p, self.dropped, self.settings = dict(net.named_parameters()), dropped, settings
        self.gates, self.step = CELLS[settings["cell"]]

    def __call__(self, source: Tensor, visible: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the target's words [B, T, V], and attention weights [B, T, S], if any."""
        p, settings = self.p, self.settings
        x, final = p.get("embed_source.weight", p["embed.weight"])[source], []
        x = attention.reverse(x, visible) if settings.get("reversed") else x
        for layer in range(settings["layers"]):
            directions = [self.layer(f"encoder.layers.{layer}.{direction}.layers.0") for direction in range(2)]
            x = self.drop(x, f"encoder.drops.{layer}")
            if settings.get("bidirectional"):
                x, last = attention.encode_both_ways(
                    self.step, self.initial_state(directions[0]), x, visible, *directions
                )
            else:
                x, last = attention.encode(self.step, self.initial_state(directions[0]), x, visible, directions[0])
            final.append(last)
        memory = attention.reverse(x, visible) if settings.get("reversed") else x
        h = p["embed.weight"][tokens]
        h = attention.peeky(h, final[-1]) if settings.get("peeky") else h
        for layer, last in enumerate(final):
            state = (last, torch.zeros_like(last))[: 1 + (self.gates == 4)]
            h = self.drop(h, f"decoder.drops.{layer}")
            h, _ = recurrent.unroll(self.step, h, [state], [self.layer(f"decoder.layers.{layer}")])
        weights = None
        if settings["attention"]:
            weights = attention.attention_weights(h, memory, visible, self.score)
            context = attention.contexts(weights, memory)
            h = attention.attentional(context, h, p["combine.weight"], p["combine.bias"])
        h = attention.peeky(h, final[-1]) if settings.get("peeky") else h
        h = self.drop(h, "drop").flatten(0, 1)
        logits = layers.affine(h, p.get("out.weight", p["embed.weight"]), p["out.bias"])
        return logits.view(*tokens.shape, -1), weights

    def layer(self, name: str) -> list[Tensor]:
        names = [f"{name}.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        return as_printed(self.gates, *(self.p[each] for each in names)) if names[0] in self.p else []

    def initial_state(self, weights: list[Tensor]) -> recurrent.CellState:
        return (weights[1].new_zeros(1, weights[1].shape[-1]),) * (1 + (self.gates == 4))

    def drop(self, x: Tensor, name: str) -> Tensor:
        if name not in self.dropped:
            return x
        drop = self.dropped[name]
        return layers.dropout(x, drop.kept[0].expand_as(x), drop.rate)

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        p, kind = (
            {name.removeprefix("attention."): weight for name, weight in self.p.items()},
            self.settings["attention"],
        )
        if kind == "additive":
            return attention.additive(
                *(q, k, p["query_projection.weight"], p["key_projection.weight"]),
                *(p["query_projection.bias"], p["additive_score.weight"][0]),
            )
        if kind == "general":
            return attention.general(q, k, p["key_projection.weight"])
        return (attention.dot if kind == "dot" else attention.scaled_dot)(q, k)


@pytest.mark.parametrize(
    "settings",
    [
        {"cell": "lstm", "attention": "dot", "layers": 2, "hidden": 3, "dropout": 0.3},
        {"cell": "lstm", "attention": "scaled", "layers": 1, "reversed": True, "bidirectional": True, "tied": True},
        {"cell": "gru", "attention": "additive", "layers": 2, "bidirectional": True, "hidden": 6, "input_dropout": 0.4},
        {"cell": "gru", "attention": None, "layers": 1, "peeky": True, "reversed": True, "hidden": 5},
        {"cell": "lstm", "attention": None, "layers": 2, "peeky": True, "reversed": True, "dropout": 0.2, "variational": True},
        {"cell": "rnn", "attention": "general", "layers": 1, "peeky": True, "reversed": True, "output_dropout": 0.4},
        {"cell": "rnn", "attention": None, "layers": 2, "tied": True, "shared_embeddings": True},
    ],
    ids=lambda settings: "-".join(str(name if value is True else value) for name, value in settings.items()),
)  # fmt: skip
def test_the_network_equals_its_equations(settings: dict[str, Any]) -> None:
    """The loss with label smoothing, and its gradient at every parameter."""
    torch.manual_seed(3)
    words = SIZE if settings.get("shared_embeddings") else WORDS
    source = SOURCE.clamp(max=words - 1)
    net = Seq2Seq(words, SIZE, width=4, **settings).double()
    dropped = recorded(net)
    totals = Translation(net, label_smoothing=0.1)(PairBatch(source, VISIBLE, TOKENS, TARGETS, COUNTED))
    logits, weights = Equations(net, dropped, **settings)(source, VISIBLE, TOKENS)
    fast, slow = torch.as_tensor(totals["loss"].total), attention.masked_cross_entropy(logits, TARGETS, COUNTED, 0.1)
    torch.testing.assert_close(fast, slow, **EXACT)
    torch.testing.assert_close(
        totals["nll"].total, attention.masked_cross_entropy(logits, TARGETS, COUNTED, 0.0), **EXACT
    )
    parameters = list(net.parameters())
    for mine, theirs in zip(*(torch.autograd.grad(total, parameters) for total in (fast, slow)), strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)
    assert net.attends == (weights is not None)
    if not dropped:
        torch.testing.assert_close(net(source, VISIBLE, TOKENS), logits, **EXACT)
        if weights is not None:
            torch.testing.assert_close(net.attention_weights(source, VISIBLE, TOKENS), weights, **EXACT)


def recorded(net: nn.Module) -> dict[str, Recorded]:
    """Replace every active dropout layer by one that records its masks; these, by name."""
    found = {
        name: Recorded(each.dropped / 256, each.variational)
        for name, each in net.named_modules()
        if getattr(each, "dropped", 0)
    }
    for name, dropout in found.items():
        net.set_submodule(name, dropout)
    return found


def test_variational_dropout_has_one_mask_for_all_time_steps() -> None:
    net = Seq2Seq(WORDS, SIZE, 4, layers=2, bidirectional=True, peeky=True, dropout=0.3, variational=True)
    dropped = recorded(net)
    net(SOURCE, VISIBLE, TOKENS)
    times = {name: [mask.shape[1] for mask in drop.kept] for name, drop in dropped.items() if drop.kept}
    names = {"drop", *(f"{part}.drops.{layer}" for part in ("encoder", "decoder") for layer in range(2))}
    assert times == {name: [1] for name in names}


@functools.cache
def networks(cell: str, score: str | None) -> list[tuple[str, Any]]:
    """Networks with this cell and attention in all further settings, each with a description."""
    found = []
    names = ("peeky", "reversed", "bidirectional", "layers")
    for values in itertools.product(*[(False, True)] * 3, (1, 2)):
        torch.manual_seed(5)
        settings: Any = dict(zip(names, values, strict=True))
        kind: Any = {"cell": cell, "attention": score}
        net = Seq2Seq(WORDS, SIZE, 4, 6, **kind, **settings)
        found.append((str(settings), net.double()))
    return found


every_network = pytest.mark.parametrize(("cell", "score"), list(itertools.product(CELLS, SCORES)))


def same(mine: Tensor, theirs: Tensor, settings: str) -> None:
    torch.testing.assert_close(mine, theirs, msg=lambda difference: f"{settings}: {difference}", **EXACT)


@every_network
@torch.no_grad()
def test_decoding_token_by_token_equals_teacher_forcing(cell: str, score: str | None) -> None:
    for settings, net in networks(cell, score):
        state = net.prefill(SOURCE, VISIBLE)
        for t, expected in enumerate(net(SOURCE, VISIBLE, TOKENS).unbind(dim=1)):
            logits, state = net.step(state, TOKENS[:, t])
            same(logits, expected, settings)


@every_network
@torch.no_grad()
def test_rows_of_a_state_can_be_reordered_and_repeated(cell: str, score: str | None) -> None:
    """As beam search does."""
    order = torch.tensor([2, 0, 0, 1])
    for settings, net in networks(cell, score):
        _, state = net.step(net.prefill(SOURCE, VISIBLE), TOKENS[:, 0])
        expected = net(SOURCE[order], VISIBLE[order], TOKENS[order][:, :2])[:, 1]
        logits, _ = net.step(tuple(part.index_select(0, order) for part in state), TOKENS[order, 1])
        same(logits, expected, settings)


@every_network
@torch.no_grad()
def test_a_sentence_alone_equals_the_same_sentence_in_a_padded_batch(cell: str, score: str | None) -> None:
    for settings, net in networks(cell, score):
        together = net(SOURCE, VISIBLE, TOKENS)
        weights = net.attention_weights(SOURCE, VISIBLE, TOKENS) if net.attends else None
        for b, (words, length) in enumerate(zip(SOURCE_LENGTHS, LENGTHS, strict=True)):
            alone = SOURCE[b : b + 1, :words], VISIBLE[b : b + 1, :words], TOKENS[b : b + 1, :length]
            same(together[b, :length], net(*alone)[0], settings)
            if weights is not None:
                same(weights[b, :length, :words], net.attention_weights(*alone)[0], settings)


@every_network
@torch.no_grad()
def test_the_order_of_sentences_in_a_batch_does_not_matter(cell: str, score: str | None) -> None:
    order = torch.tensor([2, 0, 1])
    for settings, net in networks(cell, score):
        together = net(SOURCE, VISIBLE, TOKENS)
        same(net(SOURCE[order], VISIBLE[order], TOKENS[order]), together[order], settings)


@every_network
def test_padding_tokens_affect_neither_outputs_nor_gradients(cell: str, score: str | None) -> None:
    source = torch.where(VISIBLE, SOURCE.clamp(max=WORDS - 2), WORDS - 1)
    tokens = torch.where(COUNTED, TOKENS.clamp(max=SIZE - 2), SIZE - 1)
    for settings, net in networks(cell, score):
        outputs = net(source, VISIBLE, tokens)
        with torch.no_grad():
            same(outputs[COUNTED], net(source * VISIBLE, VISIBLE, tokens * COUNTED)[COUNTED], settings)
        found = torch.autograd.grad(
            outputs[COUNTED].square().sum(), [net.embed_source.weight, net.embed.weight], materialize_grads=True
        )
        assert not any(gradient[-1].any() for gradient in found), settings
        assert all(gradient[1:-1].any() for gradient in found), settings


@pytest.mark.parametrize(("cell", "score"), list(itertools.product(CELLS, SCORES[1:])))
@torch.no_grad()
def test_attention_weights_sum_to_1_and_are_0_at_padding(cell: str, score: str) -> None:
    for settings, net in networks(cell, score):
        weights = net.attention_weights(SOURCE, VISIBLE, TOKENS)
        same(weights.sum(2), torch.ones(3, T, dtype=torch.float64), settings)
        assert torch.equal(weights > 0, VISIBLE[:, None].expand(-1, T, -1)), settings
