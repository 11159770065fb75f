"""Tokenizers and vocabularies restore the text that they encode."""

import functools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlref.data.text.tokenizer import Tokenizer, Vocabulary, learn_bpe
from dlref.errors import ConfigError, DataError
from tests.conftest import first

WORDS = st.lists(st.sampled_from(["<unk>", "a", "b", "the", "<eos>", "", " "]), max_size=30)


@pytest.mark.faults
@given(WORDS, WORDS, st.integers(1, 3), st.none() | st.integers(2, 4))
def test_fault_18_a_vocabulary_takes_any_text_and_keeps_its_size(
    text: list[str], later: list[str], min_freq: int, max_size: int | None
) -> None:
    vocabulary = Vocabulary.build(text, min_freq, max_size=max_size)
    size = len(vocabulary)
    ids = vocabulary.lookup_indices(later)
    assert len(vocabulary) == size  # asking for unknown words adds none
    assert size <= (max_size or size)
    known = {word for word in text if text.count(word) >= min_freq} | {"<unk>"}
    if max_size is None or len(known) <= max_size:
        assert set(vocabulary.get_itos()) == known
    kept = vocabulary.get_stoi()
    assert set(kept) <= known
    assert vocabulary.lookup_tokens(ids) == [word if word in kept else "<unk>" for word in later]
    assert all((word in vocabulary) == (word in kept) for word in later)
    assert [vocabulary.lookup_token(id) for id in kept.values()] == list(kept)


def test_words_are_ordered_by_frequency_then_alphabet_after_the_specials() -> None:
    vocabulary = Vocabulary.build(["b", "b", "a", "a", "c", "d", "d", "d"], min_freq=2, specials=["<pad>", "<unk>"])
    assert vocabulary.get_itos() == ["<pad>", "<unk>", "d", "a", "b"]
    assert Vocabulary.build({"b": 2, "a": 2, "d": 3}, max_size=3).get_itos() == ["<unk>", "d", "a"]


def test_a_vocabulary_of_doubles_or_without_unknown_is_refused() -> None:
    for words in (["<unk>", "a", "a"], ["a"]):
        with pytest.raises(DataError):
            Vocabulary(words)


def test_english_words_are_lower_cased_and_punctuation_stands_alone() -> None:
    tokens = Tokenizer("english")("It's a List, isn't it?")
    assert tokens == ["it", "'", "s", "a", "list", ",", "isn", "'", "t", "it", "?"]


@given(st.text(st.sampled_from("aB .'\",()!?;:<br />é\t"), max_size=40))
def test_english_of_many_lines_at_once_is_that_of_each(line: str) -> None:
    tokenizer = Tokenizer("english")
    assert tokenizer(f"{line}\n{line}\n") == [*tokenizer(line), "<eos>", *tokenizer(line), "<eos>"]


@pytest.mark.parametrize("level", ["words", "characters", "bpe"])
def test_tokens_are_joined_to_the_original_text(level: str) -> None:
    text = "the cat sat on the mat\nthe dog , naïve , did not\n"
    model = learn_bpe(iter(text.split("\n")), 40) if level == "bpe" else None
    tokenizer = Tokenizer(level, model)  # type: ignore[arg-type]
    again = Tokenizer.described(tokenizer.describe())
    assert again.join(again(text)) == text
    assert again(text) == tokenizer(text)


PLAIN = [
    "a few words of a language",
    "and  more\tof them",
    "x <unk> <eos> <pad> <0x41>",
    "y <unk> <eos> <pad> <0x41>",
] * 9
MODELS = {
    "text": functools.cache(lambda: learn_bpe(PLAIN, 60)),
    "pairs": functools.cache(lambda: learn_bpe(PLAIN, 60, ["<pad>", "<unk>", "<bos>", "<eos>"])),
    "hardly any": functools.cache(lambda: learn_bpe(["a"], 3)),
}
ODD = [
    "",
    " ",
    "  a ",
    "\n",
    "\n\n a\n",
    "Qq\N{LOWER ONE EIGHTH BLOCK}x",
    "<unk><eos>\n<0x41>",
    "\0\r\t\x85\u2028",
    "…ﬁÄ",
    "😀 한",
    "\ufeff",
]


@pytest.mark.parametrize("model", first("text", of=MODELS))
@given(st.text() | st.sampled_from(ODD), st.text())
@example("", "")
def test_subwords_of_any_text_are_in_the_vocabulary_and_restore_it(model: str, text: str, more: str) -> None:
    tokenizer = Tokenizer("bpe", MODELS[model]())
    vocabulary = Vocabulary.of_text(tokenizer, {}, 1, ())
    for whole in (text, *ODD):
        ids = vocabulary.lookup_indices(tokens := tokenizer(whole))
        assert vocabulary.unknown not in ids
        assert tokenizer.join(vocabulary.lookup_tokens(ids)) == whole
        assert tokens.count("<eos>") == whole.count("\n")
        lines = whole.split("\n")
        assert [tokenizer.join(line) for line in tokenizer.lines(lines)] == lines
    assert (
        tokenizer.join([*tokenizer(text), *tokenizer(more, starts_line=text.endswith("\n") or not text)]) == text + more
    )


def test_bytes_are_in_the_vocabulary_and_no_subword_is_a_special_token() -> None:
    for model, specials in zip(MODELS, (2, 4, 2), strict=True):
        words = Vocabulary.of_text(Tokenizer("bpe", MODELS[model]()), {}, 1, ()).words
        assert len(words) == len(set(words))
        assert words[:specials] == [["<unk>", "<eos>"], ["<pad>", "<unk>", "<bos>", "<eos>"]][specials // 4]
        assert words[specials : specials + 256] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert len(Vocabulary.of_text(Tokenizer("bpe", MODELS["text"]()), {}, 1, ())) == 60 + 256 + 1


@pytest.mark.parametrize(("size", "advice"), [(5000, "choose {} or fewer"), (3, "choose {} or more")])
def test_the_recommended_vocabulary_size_can_be_learned(size: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.bpe_vocab_size={size} ") as refused:
        learn_bpe(PLAIN, size)
    number = int(re.findall(r"choose (\d+)", str(refused.value))[0])
    assert str(refused.value).endswith(advice.format(number))
    learn_bpe(PLAIN, number)
    with pytest.raises(ConfigError):
        learn_bpe(PLAIN, number + (1 if size == 5000 else -1))


def test_more_subwords_than_a_text_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.bpe_vocab_size=5000"):
        learn_bpe(iter(["a few words"]), 5000)
