"""Encoder, attention and decoder by hand = the network; and what it makes of a row, whatever stands beside and behind it."""

import functools
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.data.text.parallel import Pairs
from dlref.equations import attention, layers, recurrent
from dlref.models.seq2seq import Seq2Seq
from dlref.objectives.translation import Translation
from tests.proofs.harness import EXACT
from tests.proofs.test_recurrent_equations import KINDS, Recorded, as_printed

S, T, WORDS, SIZE = 5, 4, 9, 7  # times and vocabularies of the source and the target
CELLS = {kind.__name__.lower(): (gates, step) for gates, step, kind in KINDS}
SCORES = (None, "dot", "scaled", "general", "additive")
SOURCE_LENGTHS, LENGTHS = torch.tensor([3, 5, 1]), torch.tensor([4, 2, 3])
VISIBLE, COUNTED = torch.arange(S) < SOURCE_LENGTHS[:, None], torch.arange(T) < LENGTHS[:, None]


def drawn(size: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(1, size, (3, time), generator=torch.Generator().manual_seed(seed + time))


SOURCE, TOKENS, TARGETS = drawn(WORDS, S) * VISIBLE, drawn(SIZE, T) * COUNTED, drawn(SIZE, T, seed=1) * COUNTED


class ByHand:
    """A network of these settings, with the masks that its dropout has drawn, by the names of the modules."""

    def __init__(self, net: nn.Module, dropped: dict[str, Recorded], **settings: Any) -> None:
        self.p, self.dropped, self.settings = dict(net.named_parameters()), dropped, settings
        self.gates, self.step = CELLS[settings["cell"]]

    def scores(self, source: Tensor, visible: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Those of the target's words [B, T, V], and the shares [B, T, S] that each attends to, if it does."""
        p, which = self.p, self.settings
        x, ends = p.get("embed_source.weight", p["embed.weight"])[source], []
        x = attention.turned(x, visible) if which.get("reversed") else x
        for layer in range(which["layers"]):
            ways = [self.weights(f"encoder.layers.{layer}.{way}.layers.0") for way in range(2)]
            x = self.drop(x, f"encoder.drops.{layer}")
            if which.get("bidirectional"):
                x, end = attention.encode_both_ways(self.step, self.nothing_read(ways[0]), x, visible, *ways)
            else:
                x, end = attention.encode(self.step, self.nothing_read(ways[0]), x, visible, ways[0])
            ends.append(end)
        memory = attention.turned(x, visible) if which.get("reversed") else x
        h = p["embed.weight"][tokens]
        h = attention.peeky(h, ends[-1]) if which.get("peeky") else h
        for layer, end in enumerate(ends):
            state = (end, torch.zeros_like(end))[: 1 + (self.gates == 4)]
            h = self.drop(h, f"decoder.drops.{layer}")
            h, _ = recurrent.unroll(self.step, h, [state], [self.weights(f"decoder.layers.{layer}")])
        share = None
        if which["attention"]:
            share = attention.shares(h, memory, visible, self.score)
            context = attention.contexts(share, memory)
            h = attention.attentional(context, h, p["combine.weight"], p["combine.bias"])
        h = attention.peeky(h, ends[-1]) if which.get("peeky") else h
        h = self.drop(h, "drop").flatten(0, 1)
        scores = layers.affine(h, p.get("out.weight", p["embed.weight"]), p["out.bias"])
        return scores.view(*tokens.shape, -1), share

    def weights(self, place: str) -> list[Tensor]:
        names = [f"{place}.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        return as_printed(self.gates, *(self.p[name] for name in names)) if names[0] in self.p else []

    def nothing_read(self, weights: list[Tensor]) -> recurrent.State:
        return (weights[1].new_zeros(1, weights[1].shape[-1]),) * (1 + (self.gates == 4))

    def drop(self, x: Tensor, place: str) -> Tensor:
        if place not in self.dropped:
            return x
        drop = self.dropped[place]
        return layers.dropout(x, drop.kept[0].expand_as(x), drop.share)

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        p, kind = {name.removeprefix("attend."): weight for name, weight in self.p.items()}, self.settings["attention"]
        if kind == "additive":
            return attention.additive(
                *(q, k, p["of_query.weight"], p["of_key.weight"], p["of_query.bias"], p["of_both.weight"][0])
            )
        if kind == "general":
            return attention.general(q, k, p["of_key.weight"])
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
def test_the_whole_network_by_hand(settings: dict[str, Any]) -> None:
    """Total nats of the counted targets, their labels smoothed: the value, and the gradient at every parameter."""
    torch.manual_seed(3)
    words = SIZE if settings.get("shared_embeddings") else WORDS
    source = SOURCE.clamp(max=words - 1)
    net = Seq2Seq(words, SIZE, width=4, **settings).double()
    dropped = recorded(net)
    totals = Translation(net, smoothing=0.1)(Pairs(source, VISIBLE, TOKENS, TARGETS, COUNTED))
    scores, shares = ByHand(net, dropped, **settings).scores(source, VISIBLE, TOKENS)
    fast, slow = torch.as_tensor(totals["loss"].total), attention.counted_nats(scores, TARGETS, COUNTED, 0.1)
    torch.testing.assert_close(fast, slow, **EXACT)
    torch.testing.assert_close(totals["nll"].total, attention.counted_nats(scores, TARGETS, COUNTED, 0.0), **EXACT)
    parameters = list(net.parameters())
    for mine, theirs in zip(*(torch.autograd.grad(total, parameters) for total in (fast, slow)), strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)
    assert net.attends == (shares is not None)
    if not dropped:
        torch.testing.assert_close(net(source, VISIBLE, TOKENS), scores, **EXACT)
        if shares is not None:
            torch.testing.assert_close(net.attention_weights(source, VISIBLE, TOKENS), shares, **EXACT)


def recorded(net: nn.Module) -> dict[str, Recorded]:
    """Put in place of all dropout that drops anything."""
    found = {
        name: Recorded(each.dropped / 256, each.variational)
        for name, each in net.named_modules()
        if getattr(each, "dropped", 0)
    }
    for name, dropout in found.items():
        net.set_submodule(name, dropout)
    return found


def test_variational_dropout_draws_one_mask_for_all_time_steps() -> None:
    net = Seq2Seq(WORDS, SIZE, 4, layers=2, bidirectional=True, peeky=True, dropout=0.3, variational=True)
    dropped = recorded(net)
    net(SOURCE, VISIBLE, TOKENS)
    times = {name: [mask.shape[1] for mask in drop.kept] for name, drop in dropped.items() if drop.kept}
    places = {"drop", *(f"{part}.drops.{layer}" for part in ("encoder", "decoder") for layer in range(2))}
    assert times == {place: [1] for place in places}


@functools.cache
def networks(cell: str, score: str | None) -> list[tuple[str, Any]]:
    """All of this cell and this attention, with their settings in words."""
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
def test_writing_token_by_token_is_reading_at_once(cell: str, score: str | None) -> None:
    for settings, net in networks(cell, score):
        state = net.prefill(SOURCE, VISIBLE)
        for t, expected in enumerate(net(SOURCE, VISIBLE, TOKENS).unbind(dim=1)):
            logits, state = net.step(state, TOKENS[:, t])
            same(logits, expected, settings)


@every_network
@torch.no_grad()
def test_the_rows_of_a_state_can_be_reordered_and_repeated(cell: str, score: str | None) -> None:
    """As beam search does: they go on like the sentences that they came from."""
    order = torch.tensor([2, 0, 0, 1])
    for settings, net in networks(cell, score):
        _, state = net.step(net.prefill(SOURCE, VISIBLE), TOKENS[:, 0])
        expected = net(SOURCE[order], VISIBLE[order], TOKENS[order][:, :2])[:, 1]
        logits, _ = net.step(tuple(part.index_select(0, order) for part in state), TOKENS[order, 1])
        same(logits, expected, settings)


@every_network
@torch.no_grad()
def test_a_sentence_alone_is_the_same_as_in_a_padded_batch(cell: str, score: str | None) -> None:
    for settings, net in networks(cell, score):
        together = net(SOURCE, VISIBLE, TOKENS)
        shares = net.attention_weights(SOURCE, VISIBLE, TOKENS) if net.attends else None
        for b, (words, length) in enumerate(zip(SOURCE_LENGTHS, LENGTHS, strict=True)):
            alone = SOURCE[b : b + 1, :words], VISIBLE[b : b + 1, :words], TOKENS[b : b + 1, :length]
            same(together[b, :length], net(*alone)[0], settings)
            if shares is not None:
                same(shares[b, :length, :words], net.attention_weights(*alone)[0], settings)


@every_network
@torch.no_grad()
def test_the_order_of_sentences_in_a_batch_does_not_matter(cell: str, score: str | None) -> None:
    order = torch.tensor([2, 0, 1])
    for settings, net in networks(cell, score):
        together = net(SOURCE, VISIBLE, TOKENS)
        same(net(SOURCE[order], VISIBLE[order], TOKENS[order]), together[order], settings)


@every_network
def test_what_stands_in_the_padding_does_not_matter(cell: str, score: str | None) -> None:
    """Nor does anything flow back into it: the vectors of what stands there have no gradient."""
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
def test_attention_is_shared_among_the_words_of_the_source(cell: str, score: str) -> None:
    for settings, net in networks(cell, score):
        shares = net.attention_weights(SOURCE, VISIBLE, TOKENS)
        same(shares.sum(2), torch.ones(3, T, dtype=torch.float64), settings)
        assert torch.equal(shares > 0, VISIBLE[:, None].expand(-1, T, -1)), settings
