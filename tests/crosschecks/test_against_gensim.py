"""gensim learns word vectors by the same losses and probabilities, and evaluates them by the same metrics."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dlref.data.corpora import TextFiles
from dlref.data.language import Piece
from dlref.data.text import UNKNOWN, Vocabulary
from dlref.interfaces import DataRoot, HasVocabulary
from dlref.models.word_vectors import WordVectors
from dlref.objectives.word2vec import CBOW, SkipGram, Word2Vec
from dlref.reports.word_vectors import Analogies, Words, WordSimilarity
from tests.crosschecks.conftest import Agree
from tests.crosschecks.rows import crosscheck
from tests.crosschecks.texts import parts, treebank

pytest.importorskip("gensim")
from gensim.models import KeyedVectors
from gensim.models import Word2Vec as Gensim
from gensim.models.word2vec_inner import train_batch_cbow, train_batch_sg

MINIMUM = 5


def sentences(data: TextFiles) -> list[list[str]]:
    """The words of each line but the unknown ones, which gensim has no word for."""
    text = data.tokenizer.join(data.vocabulary.lookup_tokens(data.split("train").tolist()))
    return [[word for word in line.split() if word != UNKNOWN] for line in text.split("\n")]


def fitted(data: TextFiles, **settings: Any) -> Word2Vec:
    objective = SkipGram(WordVectors(len(data.vocabulary), 4), **settings)
    objective.fit(parts(data))
    return objective


@crosscheck(
    "word2vec: the probability of each word as a negative",
    "gensim",
    "steps of `cum_table`; 2,000 sentences of Penn Treebank; dlref rounds to a table of 2²¹ entries",
)
@pytest.mark.parametrize("power", [0.75, 0.5, 0.0])
def test_negatives(power: float, datasets: Path, tmp_path: Path, agree: Agree) -> None:
    data = treebank(datasets, tmp_path, 2000, MINIMUM)
    theirs = Gensim(sentences(data), min_count=MINIMUM, ns_exponent=power, epochs=1, vector_size=4)
    _, table = fitted(data, power=power).chances()
    ours = torch.bincount(table, minlength=len(data.vocabulary)) / len(table)
    steps = np.diff(theirs.cum_table.astype(float), prepend=0) / theirs.cum_table[-1]
    ids = data.vocabulary.lookup_indices(theirs.wv.index_to_key)
    agree(ours[ids], steps, atol=1 / len(table))
    agree(1 - ours[ids].sum(), 0, atol=1e-6)  # no unknown words, no ends of sentences


@crosscheck(
    "word2vec: the probability of keeping each word in subsampling",
    "gensim",
    "`sample_int` over 2³²; 2,000 sentences of Penn Treebank; dlref keeps it in float32",
)
@pytest.mark.parametrize("sample", [1e-2, 1e-3, 1e-4])
def test_subsampling(sample: float, datasets: Path, tmp_path: Path, agree: Agree) -> None:
    data = treebank(datasets, tmp_path, 2000, MINIMUM)
    theirs = Gensim(sentences(data), min_count=MINIMUM, sample=sample, epochs=1, vector_size=4).wv
    ours, _ = fitted(data, subsample=sample).chances()
    ids = data.vocabulary.lookup_indices(theirs.index_to_key)
    agree(ours[ids], theirs.expandos["sample_int"] / 2**32, atol=1e-7)


def negatives(model: Any, seed: int, count: int) -> list[int]:
    """The words that gensim samples when its generator was seeded with this: a linear congruential generator of 48 bits."""
    random = np.random.RandomState(seed)
    state = 2**24 * int(random.randint(0, 2**24)) + int(random.randint(0, 2**24))
    found = []
    for _ in range(count):
        found.append(int(np.searchsorted(model.cum_table, (state >> 16) % int(model.cum_table[-1]))))
        state = (state * 25214903917 + 11) % 2**48
    return found


class Sentence:
    """Real words, the negatives that gensim samples for each, and vectors whose scores its table of the sigmoid has.

    gensim's σ(x) is that of 0.012 i - 6 with i = ⌊83 (x + 6)⌋, and dlref gets the latter as scores. The two differ in the
    last coordinate of the output vectors; that of every input vector is 1.
    """

    def __init__(self, model: Any, words: list[int], seed: int) -> None:
        sampled = negatives(model, seed, len(words) * model.negative)
        self.model, self.words, self.seed = model, words, seed
        self.noise = np.reshape(sampled, (len(words), -1)).tolist()
        self.outputs = [[word, *noise] for word, noise in zip(words, self.noise, strict=True)]
        self.contexts = [[*words[max(i - 1, 0) : i], *words[i + 1 : i + 2]] for i in range(len(words))]
        random = np.random.RandomState(seed)
        self.inputs = random.normal(size=model.wv.vectors.shape)
        self.inputs[:, -1] = 1
        self.random_outputs = random.normal(size=self.inputs.shape)
        self.entries = random.randint(250, 750, size=(len(words), 1 + model.negative))

    @property
    def updates_are_apart(self) -> bool:
        """Whether no word is an output twice, so that gensim's updates, one after the other, are one gradient."""
        every = [word for words in self.outputs for word in words]
        return len(set(every)) == len(every)

    def output_vectors(self, scores: np.ndarray) -> np.ndarray:
        """Those which give each word's mean of its context these scores [words, 1 + negatives]."""
        vectors = self.random_outputs.copy()
        for context, rows, wanted in zip(self.contexts, self.outputs, scores, strict=True):
            mean = self.inputs[context].mean(0)
            vectors[rows, -1] = wanted - vectors[rows, :-1] @ mean[:-1]
        return vectors

    def gensims(self, train: Any) -> tuple[float, np.ndarray, np.ndarray]:
        """Its loss, and minus its updates of rate 1 of the input and output vectors; the middle word's input stays."""
        model, locked = self.model, self.words[1:2] if len(self.words) > 2 else []
        outputs = self.output_vectors((self.entries + 0.5) / 83 - 6)
        model.wv.vectors[:], model.syn1neg[:] = self.inputs, outputs
        model.wv.vectors_lockf = np.ones(len(outputs), dtype=np.float32)
        model.wv.vectors_lockf[locked] = 0
        model.random, model.running_training_loss = np.random.RandomState(self.seed), 0.0
        before = model.wv.vectors.copy(), model.syn1neg.copy()
        work = [np.zeros(model.vector_size, dtype=np.float32) for _ in range(2 if train is train_batch_cbow else 1)]
        train(model, [[model.wv.index_to_key[word] for word in self.words]], 1.0, *work, True)
        return float(model.running_training_loss), before[0] - model.wv.vectors, before[1] - model.syn1neg

    def dlrefs(self, kind: type[Word2Vec], ids: list[int], scores: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Its loss and gradients, by gensim's number of a word, of which `ids` are dlref's."""
        net = WordVectors(len(ids) + 2, self.model.vector_size, sparse=False).double()
        with torch.no_grad():
            net.input.weight[ids] = torch.from_numpy(self.inputs)
            net.output.weight[ids] = torch.from_numpy(self.output_vectors(scores))
        count = self.model.negative
        objective = kind(net, window=1, dynamic=False, subsample=None, negatives=count, shared=count, block=1)
        objective.counts += 1
        # The word behind the end of the sentence is waited for, and nobody stands before its first word.
        tokens = torch.tensor([[*(ids[word] for word in self.words), 1, ids[0], 1]])
        given = self.noise if kind is CBOW else self.noise[::-1]  # gensim's skip-gram predicts the other word of a pair
        noise = torch.tensor([[ids[word] for word in row] for row in [given[0], *given]])
        objective.noise = lambda count: noise
        loss = objective(Piece(tokens, tokens, True))["loss"].total
        loss.backward()
        return loss, net.input.weight.grad[ids], net.output.weight.grad[ids]


@crosscheck(
    "word2vec: loss and gradient of skip-gram and CBOW with given negatives",
    "gensim",
    "`vectors` and `syn1neg`, scores as gensim's table of the sigmoid rounds them; its CBOW does not divide the gradient",
)
@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_loss_and_gradient(kind: type[Word2Vec], datasets: Path, tmp_path: Path, agree: Agree) -> None:
    data = treebank(datasets, tmp_path, 500, MINIMUM)
    model = Gensim(
        vector_size=9, sg=int(kind is SkipGram), negative=5, window=1, shrink_windows=False, sample=0, min_count=MINIMUM
    )
    model.build_vocab(sentences(data))
    ids, length = list(range(2, 2 + len(model.wv))), 2 if kind is SkipGram else 3
    compared = 0
    for seed, line in enumerate(sentences(data)):
        words = [model.wv.key_to_index[word] for word in line if word in model.wv.key_to_index][:length]
        if len(words) < length or not (sentence := Sentence(model, words, seed)).updates_are_apart:
            continue
        loss, inputs, outputs = sentence.gensims(train_batch_sg if kind is SkipGram else train_batch_cbow)
        _, our_inputs, our_outputs = sentence.dlrefs(kind, ids, 0.012 * sentence.entries - 6)
        seen = [words[0], words[-1]]
        several = 1 if kind is SkipGram else 2  # words of the middle word's context
        agree(several * our_inputs[seen, :-1], inputs[seen, :-1], atol=3e-6)
        agree(our_outputs, outputs, atol=3e-6)
        of_loss = 0.012 * sentence.entries - 6
        of_loss[:, 1:] += 0.06  # gensim looks up -x for a negative
        agree(sentence.dlrefs(kind, ids, of_loss)[0], loss, rtol=1e-6)
        if (compared := compared + 1) == 60:
            break
    assert compared == 60


class Text(HasVocabulary, DataRoot):
    """What a report asks of data."""

    def __init__(self, words: list[str], root: Path) -> None:
        self.vocabulary, self.root = Vocabulary(words), root


@functools.cache
def learned(datasets: Path) -> KeyedVectors:
    """Vectors that gensim has learned from Penn Treebank in a few seconds."""
    lines = (datasets / "ptb" / "ptb.train.txt").read_text(encoding="utf-8").splitlines()[:25_000]
    settings = {"vector_size": 30, "min_count": 1, "alpha": 0.1, "epochs": 2, "seed": 1, "workers": 1}
    return Gensim([line.split() for line in lines], **settings).wv


def network(theirs: KeyedVectors) -> WordVectors:
    net = WordVectors(len(theirs), theirs.vector_size)
    net.input.weight.data.copy_(torch.from_numpy(theirs.vectors))
    return net


@crosscheck(
    "word similarity: Spearman's correlation on WordSim-353 and SimLex-999",
    "gensim",
    "`evaluate_word_pairs` of vectors that gensim has learned from 25,000 sentences of Penn Treebank",
)
def test_word_similarity(datasets: Path, agree: Agree) -> None:
    theirs = learned(datasets)
    found = WordSimilarity()(network(theirs), Text(theirs.index_to_key, datasets), "test")
    for name, file in (("wordsim353", "wordsim353.tsv"), ("simlex999", "simlex999.txt")):
        _, spearman, unknown = theirs.evaluate_word_pairs(str(datasets / "word_similarity" / file))
        agree(found[name], spearman.statistic, atol=1e-6)  # the order of cosines in float32
        agree(found[f"{name}_not_found"], unknown / 100, atol=1e-12)


@crosscheck(
    "analogies: the fraction of Google's that is answered correctly",
    "gensim",
    "`evaluate_word_analogies` of the same vectors, all words or the first 3,000",
)
@pytest.mark.parametrize("limit", [3_000, 30_000])
def test_analogies(limit: int, datasets: Path, agree: Agree) -> None:
    theirs = learned(datasets)
    found = Analogies(limit)(network(theirs), Text(theirs.index_to_key, datasets), "test")
    path = datasets / "word_similarity" / "questions-words.txt"
    score, sections = theirs.evaluate_word_analogies(str(path), restrict_vocab=limit)
    asked = len(sections[-1]["correct"]) + len(sections[-1]["incorrect"])
    assert sections[-1]["correct"]
    agree(found["analogies_asked"], asked, atol=0)
    agree(found["analogies"], score, atol=1e-6)


@crosscheck(
    "nearest words of a word, and of a word less another plus a third",
    "gensim",
    "`most_similar` of the same vectors, its order and its cosines in float32",
)
@pytest.mark.parametrize(("plus", "minus"), [(["market"], []), (["japan", "dollar"], ["u.s."])])
def test_nearest(plus: list[str], minus: list[str], datasets: Path, agree: Agree) -> None:
    theirs = learned(datasets)
    expected = theirs.most_similar(positive=plus, negative=minus, topn=20)
    found = Words(theirs.index_to_key, torch.from_numpy(theirs.vectors)).nearest(plus, minus, 20)
    assert [word for word, _ in found] == [word for word, _ in expected]
    agree([cosine for _, cosine in found], [cosine for _, cosine in expected], atol=1e-6)
