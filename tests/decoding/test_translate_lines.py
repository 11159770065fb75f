"""Translations of lines, in batches and one by one, by greedy decoding and beam search."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dlref.decoding.beam_search import LENGTH_PENALTY, beam_search
from dlref.decoding.translate import translate_batch, translate_lines
from dlref.models.seq2seq import Seq2Seq
from dlref.models.transformer import Transformer
from tests.decoding.dictionary import LINES, SOURCE, TARGET, Dictionary, Narrow, by_hand, untrained


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 256])
def test_translations_come_in_the_order_of_the_lines(beam: int, batch_size: int) -> None:
    assert translate_lines(Dictionary(), SOURCE, TARGET, LINES, beam, batch_size) == [by_hand(line) for line in LINES]
    assert translate_lines(Dictionary(), SOURCE, TARGET, [], beam, batch_size) == []


KINDS = [Seq2Seq, partial(Transformer, layers=1, heads=3, positions="rotary")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beam", [1, 4])
def test_a_line_does_not_depend_on_the_rest_of_its_batch(beam: int, kind: Any) -> None:
    net = untrained(kind)
    together = translate_lines(net, SOURCE, TARGET, LINES, beam)
    assert together == [translate_lines(net, SOURCE, TARGET, [line], beam)[0] for line in LINES]
    assert max(len(text.split()) for text in together) > 9
    for line, text in zip(LINES, together, strict=True):
        assert len(text.split()) <= (2 * len(line.split()) + 12 if line.strip() else 0)
    short = translate_lines(net, SOURCE, TARGET, LINES, beam, max_len=3)
    assert max(len(text.split()) for text in short) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_decoding_step_by_step_equals_teacher_forcing_on_its_own_tokens(kind: Any) -> None:
    net = untrained(kind)
    ids, visible = SOURCE.encode(["die katze und"])
    tokens = [2]
    for _ in range(9):
        logits = net(ids, visible, torch.tensor([tokens]))[0, -1]
        logits[:3] = -torch.inf
        tokens.append(int(logits.argmax()))
    assert translate_batch(net, SOURCE, TARGET, ["die katze und", "hund"], max_len=9)[0][0] == tokens[1:]
    assert len({*tokens}) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_a_beam_is_the_log_probability_under_teacher_forcing(kind: Any) -> None:
    net = untrained(kind).double()
    net.out.bias[3] += 12  # sometimes <eos>
    ids, visible = SOURCE.encode(LINES)
    begin = torch.full((len(LINES), 1), 2)
    output, scores = beam_search(net, net.prefill(ids, visible), begin[:, 0], 8, 5, eos=3)
    lengths = ((output != 3).sum(1) + 1).clamp(max=8)
    assert len({*lengths.tolist()}) > 1
    log_p = net(ids, visible, torch.cat([begin, output[:, :-1]], 1)).log_softmax(2)
    log_p = log_p.gather(2, output[:, :, None])[:, :, 0] * (torch.arange(output.shape[1]) < lengths[:, None])
    torch.testing.assert_close(scores, log_p.sum(1) / ((5 + lengths) / 6) ** LENGTH_PENALTY)


@pytest.mark.faults
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 256])
def test_fault_19_lines_longer_than_the_context_are_truncated_with_one_warning(
    beam: int, batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    net = Narrow(4)
    texts = translate_lines(net, SOURCE, TARGET, LINES, beam, batch_size)
    assert texts == [by_hand(" ".join(line.split()[:3])) for line in LINES]  # and an end
    message = "2 of 7 lines are longer than the network's context of 4 tokens, up to 8 with their ends; "
    assert [text.startswith(message) for text in caplog.messages] == [True]
    assert translate_lines(net, SOURCE, TARGET, LINES[2:4], beam, batch_size) == ["the cat", "dog"]
    assert len(caplog.messages) == 1
    assert translate_batch(net, SOURCE, TARGET, [LINES[0]], beam)[0][0][-1] == 3
    translate_lines(net, SOURCE, TARGET, [LINES[0]], beam)
    assert caplog.messages[1].startswith("1 of 1 lines are longer than the network's context of 4 tokens, up to 5 ")


@pytest.mark.faults
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_fault_19_a_translation_is_no_longer_than_the_context(beam: int, positions: str) -> None:
    net = untrained(partial(Transformer, layers=1, heads=3), positions=positions, context=5)
    for max_len in (None, 4, 5, 6, 50):
        output, _ = translate_batch(net, SOURCE, TARGET, LINES, beam, max_len=max_len)
        assert [len(ids) for ids in output] == [min(max_len or 5, 5)] * len(LINES)


def test_special_tokens_are_not_decoded_and_unk_only_on_request() -> None:
    net = Dictionary()
    with torch.no_grad():
        net.logits[4, :3] = torch.tensor([99.0, 0.0, 98.0])  # `ein` would become <pad> or <bos>
        net.logits[1, 5] = 8.0  # <unk> becomes <unk>, or else `dog`
    for beam in (1, 3):
        assert translate_lines(net, SOURCE, TARGET, ["ein zebra"], beam) == ["a dog"]
        assert translate_lines(net, SOURCE, TARGET, ["ein zebra"], beam, unknown=True) == ["a <unk>"]


def test_a_very_long_line_is_a_batch_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    net, sizes = Dictionary(), []
    prefill = net.prefill

    def recorded(source: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
        sizes.append(tuple(source.shape))
        return prefill(source, visible)

    monkeypatch.setattr(net, "prefill", recorded)
    monkeypatch.setattr("dlref.decoding.translate.MAX_CHARACTERS", 1000)
    lines = ["hund"] * 9 + ["katze " * 400]
    assert translate_lines(net, SOURCE, TARGET, lines) == [by_hand(line) for line in lines]
    assert sizes == [(1, 401), (9, 2)]
