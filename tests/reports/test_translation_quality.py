"""Translations are what the network writes, one by one or together, and their scores are those of the papers."""

import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.cli.run_reports import run_reports
from dlref.data.text.line_encoder import Side
from dlref.data.text.tokenizer import Tokenizer, Vocabulary
from dlref.decoding.sampling import PENALTY, beam_search
from dlref.errors import ConfigError
from dlref.interfaces import FixedContext, HasCrossAttention, ParallelData, Seq2SeqDecoder
from dlref.models.seq2seq import Seq2Seq
from dlref.models.transformer import Transformer
from dlref.reports.translation_quality import Translation, scores_of, translated, written

SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]
WORDS = {"ein": "a", "hund": "dog", "und": "and", "die": "the", "katze": "cat", "schläft": "sleeps", ".": "."}
LINES = ["ein hund schläft .", "", "die katze", "hund", "und die katze und die katze schläft", "  ", "katze katze ."]


class Dictionary(nn.Module, Seq2SeqDecoder, HasCrossAttention):
    """Writes word for word, hardly in doubt; attends to the word that it translates."""

    attends = True

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(9 * torch.eye(len(SPECIALS) + len(WORDS)))

    def prefill(self, source: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
        assert torch.equal(source == 0, ~visible)
        return source, torch.zeros_like(source[:, 0])

    def step(self, state: tuple[Tensor, ...], token: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        source, place = state
        assert not torch.is_grad_enabled()
        assert ((token == 2) == (place == 0)).all()
        now = source.gather(1, place.clamp(max=source.shape[1] - 1)[:, None])[:, 0]
        return self.scores[now], (source, place + 1)

    def attention_weights(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        return torch.eye(tokens.shape[1], source.shape[1])[None]


def side(words: Iterable[str]) -> Side:
    return Side(Tokenizer("words"), Vocabulary([*SPECIALS, *words]))


class Narrow(Dictionary, FixedContext):
    """Reads so many tokens at most."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.context = context


class Pairs(SimpleNamespace, ParallelData):
    """Data of pairs alone."""


SOURCE, TARGET = side(WORDS), side(WORDS.values())


def by_hand(line: str) -> str:
    return " ".join(WORDS[word] for word in line.split())


def data_of(pairs: list[tuple[str, str]]) -> Any:
    return Pairs(source=SOURCE, target=TARGET, texts=lambda split: pairs)


def untrained(kind: Any = Seq2Seq, **settings: Any) -> Any:
    """Writes different tokens, and does not stop by itself."""
    draw, size = torch.Generator().manual_seed(3), len(SOURCE.vocabulary)
    net = kind(source_vocab_size=size, target_vocab_size=size, width=6, **settings).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    net.out.bias[3] -= 9
    return net


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 3, 256])
def test_each_line_has_its_translation_in_its_place(beam: int, batch: int) -> None:
    assert translated(Dictionary(), SOURCE, TARGET, LINES, beam, batch) == [by_hand(line) for line in LINES]
    assert translated(Dictionary(), SOURCE, TARGET, [], beam, batch) == []


KINDS = [Seq2Seq, partial(Transformer, layers=1, heads=3, positions="rotary")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beam", [1, 4])
def test_lines_together_become_what_they_become_alone(beam: int, kind: Any) -> None:
    net = untrained(kind)
    together = translated(net, SOURCE, TARGET, LINES, beam)
    assert together == [translated(net, SOURCE, TARGET, [line], beam)[0] for line in LINES]
    assert max(len(text.split()) for text in together) > 9
    for line, text in zip(LINES, together, strict=True):
        assert len(text.split()) <= (2 * len(line.split()) + 12 if line.strip() else 0)
    short = translated(net, SOURCE, TARGET, LINES, beam, limit=3)
    assert max(len(text.split()) for text in short) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_likeliest_tokens_are_those_of_reading_all_of_them_again(kind: Any) -> None:
    net = untrained(kind)
    ids, visible = SOURCE.encode(["die katze und"])
    tokens = [2]
    for _ in range(9):
        scores = net(ids, visible, torch.tensor([tokens]))[0, -1]
        scores[:3] = -torch.inf
        tokens.append(int(scores.argmax()))
    assert written(net, SOURCE, TARGET, ["die katze und", "hund"], limit=9)[0] == tokens[1:]
    assert len({*tokens}) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_beam_finds_has_the_chance_that_the_network_gives_it_at_once(kind: Any) -> None:
    net = untrained(kind).double()
    net.out.bias[3] += 12  # now and then it stops
    ids, visible = SOURCE.encode(LINES)
    begin = torch.full((len(LINES), 1), 2)
    found, scores = beam_search(net, net.prefill(ids, visible), begin[:, 0], 8, 5, stop=3)
    lengths = ((found != 3).sum(1) + 1).clamp(max=8)
    assert len({*lengths.tolist()}) > 1
    logs = net(ids, visible, torch.cat([begin, found[:, :-1]], 1)).log_softmax(2)
    chosen = logs.gather(2, found[:, :, None])[:, :, 0] * (torch.arange(found.shape[1]) < lengths[:, None])
    torch.testing.assert_close(scores, chosen.sum(1) / ((5 + lengths) / 6) ** PENALTY)


@pytest.mark.faults
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("batch", [1, 256])
def test_fault_19_lines_longer_than_the_context_are_cut_to_it_and_one_warning_says_so(
    beam: int, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    net = Narrow(4)
    texts = translated(net, SOURCE, TARGET, LINES, beam, batch)
    assert texts == [by_hand(" ".join(line.split()[:3])) for line in LINES]  # and an end
    said = "2 of 7 lines are longer than the network's context of 4 tokens, up to 8 with their ends; "
    assert [text.startswith(said) for text in caplog.messages] == [True]
    assert translated(net, SOURCE, TARGET, LINES[2:4], beam, batch) == ["the cat", "dog"]
    assert len(caplog.messages) == 1
    assert written(net, SOURCE, TARGET, [LINES[0]], beam=beam)[0][-1] == 3
    assert caplog.messages[1].startswith("1 of 1 lines are longer than the network's context of 4 tokens, up to 5 ")


@pytest.mark.faults
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_fault_19_no_more_is_written_than_the_context_takes(beam: int, positions: str) -> None:
    net = untrained(partial(Transformer, layers=1, heads=3), positions=positions, context=5)
    for limit in (None, 4, 5, 6, 50):
        lengths = [len(ids) for ids in written(net, SOURCE, TARGET, LINES, beam=beam, limit=limit)]
        assert lengths == [min(limit or 5, 5)] * len(LINES)


def test_special_tokens_are_not_written_and_unknown_ones_only_on_request() -> None:
    net = Dictionary()
    with torch.no_grad():
        net.scores[4, :3] = torch.tensor([99.0, 0.0, 98.0])  # `ein` would become padding or a beginning
        net.scores[1, 5] = 8.0  # an unknown word becomes one, or a dog
    for beam in (1, 3):
        assert translated(net, SOURCE, TARGET, ["ein zebra"], beam) == ["a dog"]
        assert translated(net, SOURCE, TARGET, ["ein zebra"], beam, unknown=True) == ["a <unk>"]


def test_long_lines_are_read_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    net, sizes = Dictionary(), []
    prefill = net.prefill

    def noted(source: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
        sizes.append(tuple(source.shape))
        return prefill(source, visible)

    monkeypatch.setattr(net, "prefill", noted)
    monkeypatch.setattr("dlref.reports.translation_quality.LETTERS", 1000)
    lines = ["hund"] * 9 + ["katze " * 400]
    assert translated(net, SOURCE, TARGET, lines) == [by_hand(line) for line in lines]
    assert sizes == [(1, 401), (9, 2)]


def test_the_report_counts_lines_that_are_right_to_the_letter() -> None:
    pairs = [(line, by_hand(line)) for line in LINES]
    pairs[0], pairs[2] = (LINES[0], "A dog sleeps ."), (LINES[2], "the cat ")
    net, data = Dictionary(), data_of(pairs)
    for beam in (1, 2):
        assert Translation(beam=beam)(net, data, "eval")["exact_match"] == 5 / 7
    assert Translation(limit=2)(net, data, "eval")["exact_match"] == 1 / 2
    assert Translation(limit=2)(net, data, "test")["exact_match"] == 5 / 7  # which is never cut
    assert Translation(limit=None)(net, data, "eval")["exact_match"] == 5 / 7
    assert Translation.while_training
    assert Translation(samples=0)(net, data, "eval").keys() == {"exact_match"}
    text = Translation(samples=1)(net, data, "eval")["translations"]
    expected = "    source     ein hund schläft .\n    reference  A dog sleeps .\n    written    a dog sleeps ."
    assert text == expected
    assert Translation(samples=9)(net, data, "eval")["translations"].count("    written") == 7


def test_dlref_evaluate_reads_the_whole_split_and_training_says_that_it_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = [(line, by_hand(line)) for line in LINES]
    pairs[-1] = (LINES[-1], "wrong")
    net, data, reports = Dictionary(), data_of(pairs), {"translation": Translation(limit=2, samples=0)}
    with caplog.at_level(logging.INFO):
        for whole, right in ((False, 1.0), (True, 6 / 7), (False, 1.0)):
            found = run_reports(reports, net, data, "eval", torch.device("cpu"), whole)
            assert found.figures == {"exact_match": right}
    said = "while training, the first 2 of 7 lines of eval are translated; dlref evaluate takes all of them"
    assert [*filter(said.__eq__, caplog.messages)] == [said]  # once


def bleu_by_hand(texts: list[str], references: list[str]) -> float:
    """Papineni et al. 2002, equation 3, of words, none of whose precisions is 0."""
    logarithms = 0.0
    for order in range(1, 5):
        right = total = 0
        for text, reference in zip(texts, references, strict=True):
            one, other = (
                Counter(zip(*(line.split()[start:] for start in range(order)), strict=False))
                for line in (text, reference)
            )
            right += sum((one & other).values())
            total += sum(one.values())
        logarithms += math.log(right / total) / 4
    ours, theirs = (sum(len(line.split()) for line in lines) for lines in (texts, references))
    return 100 * math.exp(logarithms + min(0, 1 - theirs / ours))


def test_bleu_is_that_of_the_paper() -> None:
    texts = ["the cat sat on the mat today", "the dog did not sleep at all", "the the the"]
    references = ["the cat sat on a mat today", "The dog did not sleep at all tonight", "the end of it"]
    found = scores_of(texts, references)
    assert found["bleu"] == pytest.approx(bleu_by_hand(texts, references))
    assert found["bleu_lower"] == pytest.approx(bleu_by_hand(texts, [line.lower() for line in references]))
    assert found["bleu_lower"] > found["bleu"]
    assert "bleu       nrefs:1|case:mixed|eff:no|tok:13a" in found["signatures"]
    assert "bleu_lower nrefs:1|case:lc|eff:no|tok:13a" in found["signatures"]


def test_marks_and_letters_cost_what_each_score_says() -> None:
    texts, references = ["don ' t sleep on it , he said ."], ['Don\'t sleep on it, he "said".']
    found = scores_of(texts, references)
    assert found["bleu_lower"] == pytest.approx(100)
    assert found["bleu"] < 70
    glued = scores_of(["He said: sleep, on it."], ["He said : sleep , on it ."])
    assert (glued["bleu"], glued["chrf"]) == pytest.approx((100, 100))  # neither looks at spaces about marks
    assert scores_of(["abc"], ["abd"])["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)  # 1, 2 and 3 letters


def test_scores_come_where_they_are_asked_for_and_without_sacrebleu_a_remedy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [(line, by_hand(line)) for line in LINES if line.strip()]
    found = Translation(scores=True)(Dictionary(), data_of(pairs), "test")
    assert found["exact_match"] == 1
    assert (found["bleu"], found["bleu_lower"], found["chrf"]) == pytest.approx((100, 100, 100))
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with caplog.at_level(logging.WARNING):
        assert Translation(scores=True)(Dictionary(), data_of(pairs), "test").keys() == {"exact_match", "translations"}
    assert "pip install 'dlref[mt]'" in caplog.text


def test_what_does_not_translate_has_nothing_to_report() -> None:
    data = data_of([("hund", "dog")])
    assert Translation()(nn.Linear(1, 1), data, "eval") == {}
    assert Translation()(Dictionary(), SimpleNamespace(), "eval") == {}
    assert Translation()(Dictionary(), data_of([]), "eval") == {}


@pytest.mark.parametrize("settings", [{"beam": 0}, {"penalty": -1.0}, {"samples": -1}, {"limit": 0}])
def test_values_that_say_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(settings.values())))):
        Translation(**settings)
