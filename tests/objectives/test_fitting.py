"""Models that are fitted see the training text once, whole and in order, however evaluation reads it."""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch

from dlref.data.text.markov_chain import MarkovChain
from dlref.errors import ConfigError
from dlref.models.count_vectors import CountVectors
from dlref.models.ngram import NGram
from dlref.models.word_vectors import WordEmbeddings
from dlref.objectives.kneser_ney import KneserNey
from dlref.objectives.ppmi_svd import PPMISVD, co_occurrence
from dlref.objectives.word2vec import SkipGram
from dlref.training.closed_form import training_data

WORDS = [2, 4, 2, 3, 4, 4, 2, 3, 3, 5]  # word 5 is only the last one
CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3, 6])
def data(request: Any, monkeypatch: pytest.MonkeyPatch) -> MarkovChain:
    monkeypatch.setattr("dlref.training.closed_form.CHUNK", 4)
    data = MarkovChain(words=4, tokens=300, eval_batch_size=request.param)
    data.splits["train"] = torch.tensor(WORDS, dtype=torch.int32)
    return data


def test_every_pair_of_words_is_counted_once(data: MarkovChain) -> None:
    net = CountVectors(6, 3)
    found = co_occurrence(training_data(data, net, CPU), 9, 6)
    pairs = Counter(pair for i, j in itertools.combinations(WORDS, 2) for pair in ((i, j), (j, i)))
    assert {(i, j): int(found[i, j]) for i, j in pairs} == pairs
    assert found.sum() == 2 * 45
    PPMISVD(net, window=2).fit(training_data(data, net, CPU))
    assert net.vectors()[5].norm() > 0.1


def test_every_word_is_counted_once(data: MarkovChain) -> None:
    net = WordEmbeddings(6, 3)
    objective = SkipGram(net, window=1)
    objective.fit(training_data(data, net, CPU))
    assert objective.counts.tolist() == [0, 0, 3, 3, 3, 1]


def test_n_grams_reach_over_all_of_the_text(data: MarkovChain) -> None:
    """Unigram counts are 3, 3, 3 and 1 of 10; 1½ or ½ of each (no count is 2) is discounted and spread over all 6 words."""
    net = NGram(6, order=1)
    KneserNey(net).fit(training_data(data, net, CPU))
    discounted = (3 * 1.5 + 0.5) / 10 / 6
    expected = torch.tensor([0, 0, 1.5 / 10, 1.5 / 10, 1.5 / 10, 0.5 / 10]) + discounted
    torch.testing.assert_close(net.unigrams, expected)
    longest = NGram(6, order=10)
    KneserNey(longest).fit(training_data(data, longest, CPU))  # refused if the text were cut anywhere


def test_data_without_a_text_are_refused() -> None:
    for objective in (PPMISVD(CountVectors(6, 3)), SkipGram(WordEmbeddings(6, 3)), KneserNey(NGram(6))):
        with pytest.raises(ConfigError, match="class inherit"):
            objective.fit([object()])
