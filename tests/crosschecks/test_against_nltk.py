"""NLTK counts the same co-occurrences and n-grams, and smooths them to the same probabilities."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from dlref.data.text.corpora import TextFiles
from dlref.data.text.tokenizer import UNKNOWN
from dlref.models.ngram import NGram
from dlref.objectives.kneser_ney import KneserNey
from dlref.objectives.ppmi_svd import co_occurrence
from tests.crosschecks.conftest import Agree
from tests.crosschecks.rows import crosscheck
from tests.crosschecks.texts import parts, treebank

pytest.importorskip("nltk")
from nltk.collocations import BigramCollocationFinder
from nltk.lm import KneserNeyInterpolated, Vocabulary
from nltk.lm.smoothing import KneserNey as Smoothing
from nltk.util import everygrams


@crosscheck(
    "word vectors from counts: co-occurrences within a window",
    "nltk",
    "`BigramCollocationFinder`, both orders added; 300 sentences of Penn Treebank",
)
@pytest.mark.parametrize("window", [1, 5])
def test_co_occurrence(window: int, datasets: Path, tmp_path: Path, agree: Agree) -> None:
    data = treebank(datasets, tmp_path, 300)
    ours = co_occurrence(parts(data), window, len(data.vocabulary))
    found = BigramCollocationFinder.from_words(data.split("train").tolist(), window_size=window + 1).ngram_fd
    theirs = torch.zeros(ours.shape)
    for (earlier, later), times in found.items():
        theirs[earlier, later] += times
        theirs[later, earlier] += times
    agree(ours.toarray(), theirs, atol=0)


class OneForEachLength(Smoothing):
    """NLTK's smoothing with a discount for each length of context, where it has one for all, and for words alone too."""

    discounts: list[float]
    words: int  # in the vocabulary

    def alpha_gamma(self, word: str, context: tuple[str, ...]) -> tuple[float, float]:
        self.discount = self.discounts[len(context)]
        return super().alpha_gamma(word, context)

    def unigram_score(self, word: str) -> float:
        """What is discounted goes to all words alike, as Chen & Goodman 1999 have it."""
        types = sum(len(following) for following in self.counts[2].values())
        counted = round(super().unigram_score(word) * types)
        given_up = self.discounts[0] * self.counts.unigrams.B()
        return (max(counted - self.discounts[0], 0) + given_up / self.words) / types


def fitted(words: list[str], vocabulary: list[str], order: int) -> Any:
    model = KneserNeyInterpolated(order, vocabulary=Vocabulary(vocabulary, unk_label=UNKNOWN))
    model.fit([list(everygrams(words, max_len=order))])
    model.estimator = OneForEachLength(model.vocab, model.counts, order)
    model.estimator.words = len(vocabulary)
    model.estimator.discounts = [discount(counts) for counts in counts_by_length(model, order)]
    return model


def counts_by_length(model: Any, order: int) -> list[list[int]]:
    """How often each longest n-gram occurs, and after how many different words each shorter one, by growing length."""
    found = [[times for following in model.counts[order].values() for times in following.values()]]
    for length in range(order, 1, -1):
        types = ((*before, word) for before, following in model.counts[length].items() for word in following)
        found.insert(0, list(Counter(gram[1:] for gram in types).values()))
    return found


def discount(counts: list[int]) -> float:
    """D = n1 / (n1 + 2 n2)."""
    return counts.count(1) / (counts.count(1) + 2 * counts.count(2))


TEXTS = {"words": "ptb/ptb.train.txt", "characters": "tiny_shakespeare/input.txt"}


@crosscheck(
    "n-grams of orders 2 to 5: interpolated Kneser-Ney probabilities",
    "nltk",
    "`KneserNeyInterpolated` with a discount for each length; 2,000 words of Penn Treebank, characters of Shakespeare",
)
@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("level", ["words", "characters"])
def test_kneser_ney(level: Any, order: int, datasets: Path, tmp_path: Path, agree: Agree) -> None:
    text = (datasets / TEXTS[level]).read_text(encoding="utf-8")
    words, join = (text.split(), " ".join) if level == "words" else (list(text), "".join)
    # At last come the first words again, so that no n-gram has nothing before it.
    learned, unseen = words[:2000] + words[: order - 1], words[2000:2100]
    (tmp_path / "text").write_text(join(learned), encoding="utf-8")
    data = TextFiles(tmp_path / "text", level=level, eval_share=0.0, test_share=0.0)
    net = NGram(len(data.vocabulary), order).double()
    KneserNey(net, discounts="one").fit(parts(data))
    theirs = fitted(learned, data.vocabulary.words, order)
    ours = net(torch.tensor([data.vocabulary.lookup_indices(unseen)]))[0][0].exp()
    expected = [theirs.score(word, unseen[max(t - order + 1, 0) : t]) for t, word in enumerate(unseen) if t]
    agree([ours[t - 1, data.vocabulary[word]] for t, word in enumerate(unseen) if t], expected, atol=1e-12)
    agree(ours[-1], [theirs.score(word, unseen[-order + 1 :]) for word in data.vocabulary.words], atol=1e-12)
