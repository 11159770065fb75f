"""Samples are what the network writes, and the text that comes in pieces is the text."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlref.data.text.tokenizer import Tokenizer, Vocabulary, learn_bpe
from dlref.decoding.sampling import generate
from dlref.errors import ConfigError
from dlref.interfaces import TextDecoder, TokenizedText
from dlref.reports.samples import WIDTH, Samples, joined, written

TEXT = "the cat sat on the mat\nthe dog , naïve , did not\n\n the cat  did\n"
LEVELS = ["words", "english", "characters", "bpe"]
PIECES = learn_bpe(iter(TEXT.split("\n")), 40)


def tokenizer_of(level: Any) -> Tokenizer:
    return Tokenizer(level, PIECES if level == "bpe" else None)


class Text(SimpleNamespace, TokenizedText):
    """Data of a text alone."""


class Bigrams(nn.Module, TextDecoder):
    """Scores of the next token by the one before it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))

    def prefill(self, context: Tensor) -> tuple[Tensor, ...]:
        return ()

    def step(self, state: tuple[Tensor, ...], token: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.table[token], ()


def trained(level: str) -> tuple[Any, Any]:
    """A network and data as those of training; the vocabulary has `<eos>` at every level, as encoded texts do."""
    tokenizer = tokenizer_of(level)
    vocabulary = Vocabulary.build(tokenizer(TEXT), specials=["<unk>", "<eos>"])
    return Bigrams(len(vocabulary)), Text(tokenizer=tokenizer, vocabulary=vocabulary)


def text_of(level: str, prompt: str, **settings: Any) -> str:
    net, data = trained(level)
    draw = torch.Generator().manual_seed(0)
    return "".join(
        written(net, data.tokenizer, data.vocabulary, prompt, **{"length": 60, "generator": draw} | settings)
    )


@pytest.mark.parametrize("level", LEVELS)
@given(choices=st.lists(st.integers(0, 10**6), max_size=40))
def test_pieces_together_are_the_text_at_once(level: str, choices: list[int]) -> None:
    tokenizer = tokenizer_of(level)
    known = ["<unk>", "<eos>", *dict.fromkeys(tokenizer(TEXT))]
    known += ["▁"] * 3 + ["<0xE2>", "<0x98>", "<0x83>", "<0xC3>", "<0xA4>"] * 2 if level == "bpe" else []
    tokens = [known[choice % len(known)] for choice in choices]
    pieces = [*joined(tokenizer, tokens)]
    assert all(pieces)
    whole = tokenizer.join(tokens)
    assert "".join(pieces) == whole
    for end in range(len(tokens)):  # nothing is held back that is certain
        assert "".join(joined(tokenizer, tokens[:end])) == tokenizer.join(tokens[:end])


def test_a_character_of_several_bytes_comes_whole() -> None:
    tokenizer = tokenizer_of("bpe")
    assert [*joined(tokenizer, tokenizer("the ☃ä"))][-2:] == ["☃", "ä"]
    assert [*joined(tokenizer, ["▁the", "<0xE2>", "<0x98>"])] == ["the", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_prompt_goes_on_with_what_the_network_writes_after_it(level: str) -> None:
    net, data = trained(level)
    prompt = "the cat sat on"
    ids = data.vocabulary.lookup_indices(data.tokenizer(prompt))
    specials = [0, 1] if level == "characters" else [0]  # whose lines end with a line feed
    draw = torch.Generator().manual_seed(0)
    state, token = net.prefill(torch.tensor([ids[:-1]])), torch.tensor(ids[-1:])
    ids += [int(i) for i in generate(net, state, token, 60, forbidden=specials, generator=draw)]
    text = text_of(level, prompt)
    assert text == data.tokenizer.join(data.vocabulary.lookup_tokens(ids))
    assert text.startswith(prompt)
    assert "<" not in text
    assert "\n" in text


def test_an_empty_prompt_begins_a_line() -> None:
    for level, end in (("words", "<eos>"), ("characters", "\n")):
        net, data = trained(level)
        with torch.no_grad():
            net.table[data.vocabulary[end], data.vocabulary["d" if level == "characters" else "dog"]] = 99
        text = "".join(written(net, data.tokenizer, data.vocabulary, "", length=1))
        assert text in ("d", "dog")


def test_an_empty_prompt_needs_no_ends_of_lines_in_the_vocabulary() -> None:
    tokenizer, vocabulary = Tokenizer("characters"), Vocabulary(["<unk>", "a", "b"])
    assert len("".join(written(Bigrams(3), tokenizer, vocabulary, "", length=9))) == 9


def test_what_the_vocabulary_lacks_is_read_as_unknown_and_not_written() -> None:
    assert text_of("words", "the zebra").startswith("the <unk> ")
    assert text_of("words", "the zebra").count("<unk>") == 1
    assert text_of("words", "the zebra", unknown=True).count("<unk>") > 1
    assert "<eos>" not in text_of("characters", "the", unknown=True)


def test_the_report_is_the_same_each_time_and_touches_no_other_chance() -> None:
    net, data = trained("words")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = Samples(prompts=["the cat", "the dog"])(net, data, "eval")
    assert torch.equal(torch.rand(3), expected)
    assert Samples(prompts=["the cat", "the dog"])(net, data, "test") == first
    assert Samples(prompts=["the cat", "the dog"], seed=1)(net, data, "eval") != first
    assert first["sample"].startswith("    the cat ")
    assert "\n\n    the dog " in first["sample"]
    assert Samples.while_training


def test_a_long_line_is_folded_between_words() -> None:
    net, data = trained("words")
    with torch.no_grad():
        net.table[:, 1] = -99  # no end of a line
    sample = Samples(length=200)(net, data, "eval")["sample"]
    lines = sample.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= WIDTH + 4
    assert all(line.startswith("    ") for line in lines)
    assert len(sample.split()) == 200


def test_settings_reach_the_draws() -> None:
    net, data = trained("words")
    likeliest = Samples(temperature=0)(net, data, "eval")
    assert Samples(top_k=1, seed=5)(net, data, "eval") == likeliest
    assert Samples(top_p=1e-9, seed=5)(net, data, "eval") == likeliest
    assert Samples()(net, data, "eval") != likeliest
    with pytest.raises(ConfigError, match="top_k is 0"):
        Samples(top_k=0)


def test_a_network_that_does_not_write_or_data_without_words_has_nothing_to_report() -> None:
    net, data = trained("words")
    assert Samples()(nn.Linear(1, 1), data, "eval") == {}
    assert Samples()(net, SimpleNamespace(vocabulary=data.vocabulary), "eval") == {}
    assert Samples()(net, SimpleNamespace(), "eval") == {}
