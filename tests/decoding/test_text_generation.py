"""Generated text is what the network samples, and its stream adds up to the text decoded at once."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlref.data.text.tokenizer import Tokenizer, Vocabulary
from dlref.decoding.sampling import generate
from dlref.decoding.text import detokenize, generate_text
from tests.decoding.bigrams import LEVELS, TEXT, Bigrams, model_and_data, tokenizer_of


def text_of(level: str, prompt: str, **settings: Any) -> str:
    net, data = model_and_data(level)
    settings = {"length": 60, "generator": torch.Generator().manual_seed(0)} | settings
    return "".join(generate_text(net, data.tokenizer, data.vocabulary, prompt, **settings))


@pytest.mark.parametrize("level", LEVELS)
@given(choices=st.lists(st.integers(0, 10**6), max_size=40))
def test_a_stream_adds_up_to_the_text_decoded_at_once(level: str, choices: list[int]) -> None:
    tokenizer = tokenizer_of(level)
    known = ["<unk>", "<eos>", *dict.fromkeys(tokenizer(TEXT))]
    known += ["▁"] * 3 + ["<0xE2>", "<0x98>", "<0x83>", "<0xC3>", "<0xA4>"] * 2 if level == "bpe" else []
    tokens = [known[choice % len(known)] for choice in choices]
    stream = [*detokenize(tokenizer, tokens)]
    assert all(stream)
    assert "".join(stream) == tokenizer.join(tokens)
    for end in range(len(tokens)):
        assert "".join(detokenize(tokenizer, tokens[:end])) == tokenizer.join(tokens[:end])


def test_a_character_of_several_tokens_is_yielded_when_it_is_complete() -> None:
    tokenizer = tokenizer_of("bpe")
    assert [*detokenize(tokenizer, tokenizer("the ☃ä"))][-2:] == ["☃", "ä"]
    assert [*detokenize(tokenizer, ["▁the", "<0xE2>", "<0x98>"])] == ["the", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_prompt_is_continued_with_the_tokens_that_the_network_samples(level: str) -> None:
    net, data = model_and_data(level)
    prompt = "the cat sat on"
    ids = data.vocabulary.lookup_indices(data.tokenizer(prompt))
    specials = [0, 1] if level == "characters" else [0]  # lines of characters end with a line feed, not with <eos>
    generator = torch.Generator().manual_seed(0)
    state, token = net.prefill(torch.tensor([ids[:-1]])), torch.tensor(ids[-1:])
    ids += [int(i) for i in generate(net, state, token, 60, forbidden=specials, generator=generator)]
    text = text_of(level, prompt)
    assert text == data.tokenizer.join(data.vocabulary.lookup_tokens(ids))
    assert text.startswith(prompt)
    assert "<" not in text
    assert "\n" in text


def test_an_empty_prompt_begins_a_line() -> None:
    for level, end in (("words", "<eos>"), ("characters", "\n")):
        net, data = model_and_data(level)
        with torch.no_grad():
            net.table[data.vocabulary[end], data.vocabulary["d" if level == "characters" else "dog"]] = 99
        text = "".join(generate_text(net, data.tokenizer, data.vocabulary, "", length=1))
        assert text in ("d", "dog")


def test_an_empty_prompt_needs_no_line_ends_in_the_vocabulary() -> None:
    tokenizer, vocabulary = Tokenizer("characters"), Vocabulary(["<unk>", "a", "b"])
    assert len("".join(generate_text(Bigrams(3), tokenizer, vocabulary, "", length=9))) == 9


def test_unknown_words_are_read_as_unk_and_generated_only_on_request() -> None:
    assert text_of("words", "the zebra").startswith("the <unk> ")
    assert text_of("words", "the zebra").count("<unk>") == 1
    assert text_of("words", "the zebra", unknown=True).count("<unk>") > 1
    assert "<eos>" not in text_of("characters", "the", unknown=True)
