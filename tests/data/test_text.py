"""A vocabulary gives back what it took, and columns of text miss nothing."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlref.data import Shard
from dlref.data.python_docs import PythonDocs
from dlref.data.text import LanguageModelText, Piece, Vocabulary, tokenize
from dlref.errors import ConfigError, DataError

NET = nn.Linear(1, 1)
WORDS = st.lists(st.sampled_from(["<unk>", "a", "b", "the", "<eos>", "", " "]), max_size=30)


class Numbers(LanguageModelText):
    def __init__(self, tokens: int, batch_size: int, length: int, eval_columns: int = 1) -> None:
        super().__init__(batch_size, length, eval_columns, seed=0)
        self.vocabulary = Vocabulary(["<unk>"])
        self.splits = {"train": torch.arange(tokens), "eval": torch.arange(tokens)}


@pytest.mark.faults
@given(WORDS, WORDS, st.integers(1, 3))
def test_fault_18_a_vocabulary_takes_any_text_and_keeps_its_size(
    text: list[str], later: list[str], minimum: int
) -> None:
    vocabulary = Vocabulary.build(text, minimum)
    size = len(vocabulary)
    ids = vocabulary.lookup_indices(later)
    assert len(vocabulary) == size  # asking for unknown words adds none
    known = {word for word in text if text.count(word) >= minimum} | {"<unk>"}
    assert vocabulary.lookup_tokens(ids) == [word if word in known else "<unk>" for word in later]
    assert all((word in vocabulary) == (word in known) for word in later)


def test_words_are_ordered_by_frequency_then_alphabet_after_the_specials() -> None:
    vocabulary = Vocabulary.build(["b", "b", "a", "a", "c", "d", "d", "d"], minimum=2, specials=["<pad>", "<unk>"])
    assert vocabulary.get_itos() == ["<pad>", "<unk>", "d", "a", "b"]


def test_a_vocabulary_of_doubles_or_without_unknown_is_refused() -> None:
    for words in (["<unk>", "a", "a"], ["a"]):
        with pytest.raises(DataError):
            Vocabulary(words)


def test_words_are_lower_cased_and_marks_stand_alone() -> None:
    assert tokenize("It's a List, isn't it?") == ["it", "'", "s", "a", "list", ",", "isn", "'", "t", "it", "?"]


@given(st.integers(2, 200), st.integers(1, 7), st.integers(1, 9), st.integers(1, 5))
def test_training_columns_go_on_where_they_ended(tokens: int, size: int, length: int, columns: int) -> None:
    data = Numbers(tokens, size, length, columns)
    if (tokens - 1) // size < 1:
        with pytest.raises(DataError, match="too short"):
            next(data.train_batches(NET, Shard(), 0))
        return
    pieces: list[Piece] = list(islice(data.train_batches(NET, Shard(), 0), int(data.batches_per_pass)))
    assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    rows = torch.cat([piece.tokens for piece in pieces], dim=1)
    assert torch.equal(rows, torch.arange((tokens - 1) // size * size).view(size, -1))
    assert all(torch.equal(piece.targets, piece.tokens + 1) for piece in pieces)
    assert next(data.train_batches(NET, Shard(), len(pieces))).begins


@given(st.integers(2, 700), st.integers(1, 7), st.integers(1, 4))
def test_evaluation_predicts_each_token_but_the_first_once(tokens: int, columns: int, ranks: int) -> None:
    data = Numbers(tokens, 1, 5, columns)
    targets = [p.targets.flatten() for rank in range(ranks) for p in data.batches("eval", NET, Shard(rank, ranks))]
    assert torch.equal(torch.cat(targets).sort().values, torch.arange(1, tokens))


def test_the_help_texts_share_no_paragraph_between_splits() -> None:
    data = PythonDocs()
    end = data.vocabulary["<eos>"]
    paragraphs = {}
    for split, ids in data.splits.items():
        words = " ".join(data.vocabulary.lookup_tokens(ids.tolist()))
        assert (ids == end).sum() > 50
        paragraphs[split] = set(words.split(" <eos> "))
    long = {split: {p for p in parts if p.count(" ") > 12 and "<unk>" not in p} for split, parts in paragraphs.items()}
    assert not long["train"] & long["eval"]
    assert not long["train"] & long["test"]


def test_impossible_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="length 0"):
        Numbers(10, 1, 0)
