"""gensim learns word vectors by the same losses and probabilities, and evaluates them by the same metrics."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dlref.data.text.corpora import TextFiles
from dlref.data.text.tokenizer import UNKNOWN, Vocabulary
from dlref.interfaces import HasRoot, HasVocabulary, TokenBatch
from dlref.models.word_vectors import WordEmbeddings
from dlref.objectives.word2vec import CBOW, SkipGram, Word2Vec
from dlref.reports.word_vector_quality import Analogies, NormalizedVectors, WordSimilarity
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
    objective = SkipGram(WordEmbeddings(len(data.vocabulary), 4), **settings)
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
    _, table = fitted(data, ns_exponent=power).sampling_tables()
    ours = torch.bincount(table, minlength=len(data.vocabulary)) / len(table)
    steps = np.diff(theirs.cum_table.astype(float), prepend=0) / theirs.cum_table[-1]
    ids = data.vocabulary.lookup_indices(theirs.wv.index_to_key)
    agree(ours[ids], steps, atol=1 / len(table))
    agree(1 - ours[ids].sum(), 0, atol=1e-6)  # no unknown words, no ends of sentences


@crosscheck(
    "word2vec: the sampled negatives",
    "gensim, scipy",
    "frequencies of 1,000,000 samples against the steps of `cum_table`, and their χ² test; 2,000 sentences of Penn Treebank",
)
@pytest.mark.parametrize("power", [0.75, 0.0])
def test_sampled_negatives(power: float, datasets: Path, tmp_path: Path, agree: Agree) -> None:
    data = treebank(datasets, tmp_path, 2000, MINIMUM)
    theirs = Gensim(sentences(data), min_count=MINIMUM, ns_exponent=power, epochs=1, vector_size=4)
    sampled = fitted(data, ns_exponent=power, shared_negatives=20).sample_negatives(50_000)
    assert sampled.shape == (50_000, 20)
    ids = data.vocabulary.lookup_indices(theirs.wv.index_to_key)
    seen = torch.bincount(sampled.flatten(), minlength=len(data.vocabulary))[ids]
    steps = np.diff(theirs.cum_table.astype(float), prepend=0) / theirs.cum_table[-1]
    assert int(seen.sum()) == sampled.numel()  # no unknown words, no ends of sentences
    assert stats.chisquare(seen, steps * sampled.numel()).pvalue > 0.01
    agree(seen / sampled.numel(), steps, atol=5 * (steps.max() / sampled.numel()) ** 0.5)  # five standard errors


@crosscheck(
    "word2vec: the probability of keeping each word in subsampling",
    "gensim",
    "`sample_int` over 2³²; 2,000 sentences of Penn Treebank; dlref keeps it in float32",
)
@pytest.mark.parametrize("sample", [1e-2, 1e-3, 1e-4])
def test_subsampling(sample: float, datasets: Path, tmp_path: Path, agree: Agree) -> None:
    data = treebank(datasets, tmp_path, 2000, MINIMUM)
    theirs = Gensim(sentences(data), min_count=MINIMUM, sample=sample, epochs=1, vector_size=4).wv
    ours, _ = fitted(data, subsample=sample).sampling_tables()
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
        net = WordEmbeddings(len(ids) + 2, self.model.vector_size, sparse=False).double()
        with torch.no_grad():
            net.input.weight[ids] = torch.from_numpy(self.inputs)
            net.output.weight[ids] = torch.from_numpy(self.output_vectors(scores))
        count = self.model.negative
        objective = kind(
            net, window=1, dynamic_window=False, subsample=None, negatives=count, shared_negatives=count, block_size=1
        )
        objective.counts += 1
        # The word behind the end of the sentence is waited for, and nobody stands before its first word.
        tokens = torch.tensor([[*(ids[word] for word in self.words), 1, ids[0], 1]])
        given = self.noise if kind is CBOW else self.noise[::-1]  # gensim's skip-gram predicts the other word of a pair
        noise = torch.tensor([[ids[word] for word in row] for row in [given[0], *given]])
        objective.sample_negatives = lambda count: noise
        loss = objective(TokenBatch(tokens, tokens, True))["loss"].total
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


class Grid:
    """Vectors of V words whose scores are all in the middle of an entry of gensim's table, so that a small step changes none.

    Means of up to 6 input vectors have whole products with the output vectors, some n from -360 to 360. gensim's score of
    (n + 2.5) / 83 is entry n + 500 of σ, which is that of 0.012 n. Two coordinates more of the inputs are random, and 0 of the
    outputs, whose gradient there is in full precision after a step from 0; two more the other way round.
    """

    def __init__(self, words: int) -> None:
        random = np.random.RandomState(0)
        whole, some = random.randint(-3, 4, (words, 2)), random.normal(size=(2, words, 2))
        self.steps = 60 * random.randint(-1, 2, (words, 2))
        self.zeros, self.random_outputs = np.zeros((words, 2)), some[1]
        self.inputs = np.hstack([np.ones((words, 1)), whole, some[0], self.zeros])
        self.for_gensim = self.outputs(1 / 83, 2.5 / 83)

    def outputs(self, scale: float, offset: float) -> np.ndarray:  # [V, 7]
        first = np.full((len(self.steps), 1), offset)
        return np.hstack([first, scale * self.steps, self.zeros, self.random_outputs])


INPUTS, OUTPUTS = slice(5, 7), slice(3, 5)  # the coordinates of either's gradient
SUMS = 4e-5  # gensim adds up to 20,000 numbers in float32
NOISE = 0  # gensim's number of the one word that is sampled


def gensims_step(model: Any, grid: Grid, texts: list[list[int]], train: Any) -> tuple[float, np.ndarray, np.ndarray]:
    """Its loss, and minus its updates over the rate, of the input and the output vectors [V, 2]."""
    rate = 1e-8
    model.wv.vectors[:], model.syn1neg[:] = grid.inputs, grid.for_gensim
    model.wv.vectors_lockf = np.ones(len(grid.inputs), dtype=np.float32)
    model.cum_table[:] = model.cum_table[-1]  # the first word takes all
    model.running_training_loss = 0.0
    work = [np.zeros(model.vector_size, dtype=np.float32) for _ in range(2 if train is train_batch_cbow else 1)]
    train(model, [[model.wv.index_to_key[word] for word in text] for text in texts], rate, *work, True)
    loss = float(model.running_training_loss)
    return loss, -model.wv.vectors[:, INPUTS] / rate, -model.syn1neg[:, OUTPUTS] / rate


def dlrefs_step(
    objective: Word2Vec, grid: Grid, texts: list[list[int]], noise_offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same; number 1 is the end of a sentence, and gensim's number of a word is two less."""
    net: Any = objective.net
    outputs = grid.outputs(0.012, 0.0)
    outputs[NOISE, 0] = noise_offset
    with torch.no_grad():
        net.input.weight[2:] = torch.from_numpy(grid.inputs)
        net.output.weight[2:] = torch.from_numpy(outputs)
    objective.sample_negatives = lambda count: torch.full((count, objective.shared_negatives), NOISE + 2)
    # The last words wait for the next batch: as many more sentences of one word.
    stream = [word + 2 for text in [*texts, *([[NOISE]] * objective.window)] for word in [*text, -1]]
    tokens = torch.tensor([stream])
    net.zero_grad()
    loss = objective(TokenBatch(tokens, tokens, True))["loss"].total
    loss.backward()
    return loss, net.input.weight.grad[2:, INPUTS], net.output.weight.grad[2:, OUTPUTS]


def in_full_windows(texts: list[list[int]], window: int) -> list[int]:
    """Words of which every window that they are in has 2w words of context, by which dlref's CBOW divides the gradient."""
    inside = {word for text in texts for word in text[2 * window : len(text) - 2 * window]}
    near_ends = {word for text in texts for word in text[: 2 * window] + text[-2 * window :]}
    assert inside - near_ends
    return sorted(inside - near_ends)


@crosscheck(
    "word2vec: loss and gradient over windows of 1 to 5 words, negatives shared in blocks",
    "gensim",
    "30 sentences of Penn Treebank in one step; all negatives are one word, so sharing them changes nothing; CBOW's input "
    "vectors only of words with full windows; divided by the largest entry",
)
@pytest.mark.parametrize(("block", "shared"), [(1, 5), (1, 2), (4, 7), (64, 32)])
@pytest.mark.parametrize(
    ("kind", "window"), [(SkipGram, 1), (SkipGram, 2), (SkipGram, 5), (CBOW, 1), (CBOW, 2), (CBOW, 3)]
)
def test_windows(
    kind: type[Word2Vec], window: int, block: int, shared: int, datasets: Path, tmp_path: Path, agree: Agree
) -> None:
    data = treebank(datasets, tmp_path, 500, MINIMUM)
    settings: Any = {"window": window, "shrink_windows": False, "sample": 0, "min_count": MINIMUM, "negative": 5}
    model = Gensim(vector_size=7, sg=int(kind is SkipGram), **settings)
    model.build_vocab(sentences(data))
    numbers = ([model.wv.key_to_index.get(word, NOISE) for word in line] for line in sentences(data))
    texts = [[word for word in line if word != NOISE] for line in numbers]
    texts = [text for text in texts if len(text) > 1][:30]
    grid = Grid(len(model.wv))
    loss, inputs, outputs = gensims_step(model, grid, texts, train_batch_sg if kind is SkipGram else train_batch_cbow)
    net = WordEmbeddings(len(model.wv) + 2, 7, sparse=False).double()
    settings = {"window": window, "dynamic_window": False, "subsample": None, "negatives": 5}
    settings |= {"block_size": block, "shared_negatives": shared}
    objective = kind(net, **settings)
    objective.counts += 1
    _, our_inputs, our_outputs = dlrefs_step(objective, grid, texts, noise_offset=0.0)
    pairs = [(our_inputs, inputs), (our_outputs, outputs)]
    if kind is CBOW:
        rows = in_full_windows(texts, window)
        pairs[0] = 2 * window * our_inputs[rows], inputs[rows]
    # For the loss gensim looks up -x of a negative: 5 entries less than minus the entry of x.
    pairs.append((dlrefs_step(objective, grid, texts, noise_offset=0.06)[0], loss))
    for ours, theirs in pairs:
        largest = float(np.abs(theirs).max())
        agree(ours / largest, theirs / largest, atol=SUMS)


class Text(HasVocabulary, HasRoot):
    """What a report asks of data."""

    def __init__(self, words: list[str], root: Path) -> None:
        self.vocabulary, self.root = Vocabulary(words), root


@functools.cache
def learned(datasets: Path) -> KeyedVectors:
    """Vectors that gensim has learned from Penn Treebank in a few seconds."""
    lines = (datasets / "ptb" / "ptb.train.txt").read_text(encoding="utf-8").splitlines()[:25_000]
    settings = {"vector_size": 30, "min_count": 1, "alpha": 0.1, "epochs": 2, "seed": 1, "workers": 1}
    return Gensim([line.split() for line in lines], **settings).wv


def network(theirs: KeyedVectors) -> WordEmbeddings:
    net = WordEmbeddings(len(theirs), theirs.vector_size)
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
    found = NormalizedVectors(theirs.index_to_key, torch.from_numpy(theirs.vectors)).most_similar(plus, minus, 20)
    assert [word for word, _ in found] == [word for word, _ in expected]
    agree([cosine for _, cosine in found], [cosine for _, cosine in expected], atol=1e-6)
