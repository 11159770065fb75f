"""Text becomes tokens, a vocabulary gives back what it took."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlref.data.text import Tokenizer, Vocabulary, learn_bpe
from dlref.errors import ConfigError, DataError

WORDS = st.lists(st.sampled_from(["<unk>", "a", "b", "the", "<eos>", "", " "]), max_size=30)


@pytest.mark.faults
@given(WORDS, WORDS, st.integers(1, 3), st.none() | st.integers(2, 4))
def test_fault_18_a_vocabulary_takes_any_text_and_keeps_its_size(
    text: list[str], later: list[str], minimum: int, maximum: int | None
) -> None:
    vocabulary = Vocabulary.build(text, minimum, maximum=maximum)
    size = len(vocabulary)
    ids = vocabulary.lookup_indices(later)
    assert len(vocabulary) == size  # asking for unknown words adds none
    assert size <= (maximum or size)
    known = {word for word in text if text.count(word) >= minimum} | {"<unk>"}
    if maximum is None or len(known) <= maximum:
        assert set(vocabulary.get_itos()) == known
    kept = vocabulary.get_stoi()
    assert set(kept) <= known
    assert vocabulary.lookup_tokens(ids) == [word if word in kept else "<unk>" for word in later]
    assert all((word in vocabulary) == (word in kept) for word in later)
    assert [vocabulary.lookup_token(id) for id in kept.values()] == list(kept)


def test_words_are_ordered_by_frequency_then_alphabet_after_the_specials() -> None:
    vocabulary = Vocabulary.build(["b", "b", "a", "a", "c", "d", "d", "d"], minimum=2, specials=["<pad>", "<unk>"])
    assert vocabulary.get_itos() == ["<pad>", "<unk>", "d", "a", "b"]
    assert Vocabulary.build({"b": 2, "a": 2, "d": 3}, maximum=3).get_itos() == ["<unk>", "d", "a"]


def test_a_vocabulary_of_doubles_or_without_unknown_is_refused() -> None:
    for words in (["<unk>", "a", "a"], ["a"]):
        with pytest.raises(DataError):
            Vocabulary(words)


def test_english_words_are_lower_cased_and_marks_stand_alone() -> None:
    tokens = Tokenizer("english")("It's a List, isn't it?")
    assert tokens == ["it", "'", "s", "a", "list", ",", "isn", "'", "t", "it", "?"]


@given(st.text(st.sampled_from("aB .'\",()!?;:<br />é\t"), max_size=40))
def test_english_of_many_lines_at_once_is_that_of_each(line: str) -> None:
    tokenizer = Tokenizer("english")
    assert tokenizer(f"{line}\n{line}\n") == [*tokenizer(line), "<eos>", *tokenizer(line), "<eos>"]


@pytest.mark.parametrize("level", ["words", "characters", "bpe"])
def test_what_was_cut_is_put_together_again(level: str) -> None:
    text = "the cat sat on the mat\nthe dog , naïve , did not\n"
    model = learn_bpe(iter(text.split("\n")), 40) if level == "bpe" else None
    tokenizer = Tokenizer(level, model)  # type: ignore[arg-type]
    again = Tokenizer.described(tokenizer.describe())
    assert again.join(again(text)) == text
    assert again(text) == tokenizer(text)


def test_more_pieces_than_a_text_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.pieces=5000"):
        learn_bpe(iter(["a few words"]), 5000)
