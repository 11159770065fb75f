"""Quality of word vectors: word similarity, analogies, nearest neighbors, and vectors for TensorBoard's projector."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.data.download import RemoteFile, data_root, fetch, github
from dlref.data.text.text_files import lines_of
from dlref.errors import DataError, brief
from dlref.interfaces import Data, HasRoot, HasVocabulary, WordVectors, declares
from dlref.reports import LabeledVectors, Report

logger = logging.getLogger("dlref")

Similarity = Literal["cosine", "dot_product"]
PAIRS = {
    "wordsim353": RemoteFile(
        "word_similarity/wordsim353.tsv",
        "f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d",
        github("piskvorky/gensim", "develop", "gensim/test/test_data/wordsim353.tsv"),
    ),
    "simlex999": RemoteFile(
        "word_similarity/simlex999.txt",
        "d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d",
        github("piskvorky/gensim", "develop", "gensim/test/test_data/simlex999.txt"),
    ),
}
QUESTIONS = RemoteFile(
    "word_similarity/questions-words.txt",
    "8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36",
    github("piskvorky/gensim", "develop", "gensim/test/test_data/questions-words.txt"),
)


class NormalizedVectors:
    """Word vectors by word: unit vectors [V, D], whose products are cosine similarities, and their original norms [V]."""

    def __init__(self, words: Sequence[str], vectors: Tensor) -> None:
        self.words, self.vectors = list(words), F.normalize(vectors.float(), dim=1)
        self.norms = torch.linalg.vector_norm(vectors.float(), dim=1)
        self.ids = {word: id for id, word in enumerate(self.words)}

    def most_similar(
        self,
        positive: Sequence[str],
        negative: Sequence[str] = (),
        count: int = 10,
        similarity: Similarity = "cosine",
    ) -> list[tuple[str, float]]:
        """The words most similar to the sum of `positive` minus `negative`, without these words, and their similarities.

        `cosine` adds unit vectors and compares by cosine similarity. `dot_product` adds vectors of their original norm and
        ranks by their dot product with the normalized sum, which favors long vectors, those of frequent words. All words
        must be in the vocabulary.
        """
        given = [self.ids[word] for word in [*positive, *negative]]
        norms = self.norms if similarity == "dot_product" else torch.ones_like(self.norms)
        signs = torch.tensor([1.0] * len(positive) + [-1.0] * len(negative)).to(norms)
        query = F.normalize((norms[given] * signs) @ self.vectors[given], dim=0)
        similarities = norms * (self.vectors @ query)
        similarities[given] = -torch.inf
        top = similarities.topk(min(count, len(self.words) - len(set(given))))
        return [(self.words[id], value) for id, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def normalized_vectors(net: nn.Module, data: Data) -> NormalizedVectors | None:
    """The network's word vectors by word, None where it has none or the data have no vocabulary."""
    if not declares(net, WordVectors) or not declares(data, HasVocabulary):
        return None
    return NormalizedVectors(data.vocabulary.get_itos(), net.vectors())


def fetch_benchmark(file: RemoteFile, data: Data) -> Path | None:
    """Path of a benchmark below the data's root, downloaded if need be; None, with a warning, where it cannot be had."""
    try:
        return fetch(file, data_root(data.root if declares(data, HasRoot) else None))
    except DataError as error:
        logger.warning("%s is left out: %s", Path(file.name).stem, error)
        return None


class WordSimilarity(Report):
    """Spearman correlation between cosine similarities and human ratings: WordSim-353 (Finkelstein et al. 2002) and
    SimLex-999 (Hill et al. 2015), over the pairs of words in the vocabulary; `…_not_found` is the fraction of the others."""

    def __call__(self, net: nn.Module, data: Data, split: str) -> dict[str, float]:
        results: dict[str, float] = {}
        if (vectors := normalized_vectors(net, data)) is None:
            return results
        for name, file in PAIRS.items():
            if (path := fetch_benchmark(file, data)) is not None:
                results |= {f"{name}{suffix}": value for suffix, value in rank_correlation(vectors, path).items()}
        return results


def rank_correlation(vectors: NormalizedVectors, path: Path) -> dict[str, float]:
    """Spearman correlation with the ratings of a file with lines `word TAB word TAB rating`, named "", and the fraction of
    its pairs that are not in the vocabulary, named "_not_found". Raises DataError for another file."""
    from scipy.stats import spearmanr

    pairs = [
        parse_pair(line, number, path)
        for number, line in enumerate(lines_of(path), 1)
        if line.strip() and line[0] != "#"
    ]
    ids = vectors.ids
    found = [(ids[one], ids[other], rating) for one, other, rating in pairs if one in ids and other in ids]
    results = {"_not_found": 1 - len(found) / len(pairs)} if pairs else {}
    if len(found) < 2:
        return results
    ones, others, ratings = zip(*found, strict=True)
    cosines = (vectors.vectors[list(ones)] * vectors.vectors[list(others)]).sum(1)
    return {"": float(spearmanr(cosines.tolist(), ratings).statistic)} | results


def parse_pair(line: str, number: int, path: Path) -> tuple[str, str, float]:
    try:
        one, other, rating = line.lower().split("\t")
        return one, other, float(rating)
    except ValueError:
        raise DataError(f"{path}, line {number}, is no 'word TAB word TAB number': {brief(line, 40)}") from None


class Analogies(Report):
    """Accuracy on Google's analogy questions (Mikolov et al. 2013): `a is to b as c is to d` is answered correctly if the
    vector of d has the largest cosine similarity to b - a + c (3CosAdd; Levy & Goldberg 2014).

    Questions and answers are limited to the first `limit` words of the vocabulary. `analogies_asked` is the number of
    questions whose four words are among them.
    """

    def __init__(self, limit: int = 30_000) -> None:
        self.limit = limit

    def __call__(self, net: nn.Module, data: Data, split: str) -> dict[str, float]:
        vectors = normalized_vectors(net, data)
        if vectors is None or (path := fetch_benchmark(QUESTIONS, data)) is None:
            return {}
        limited = NormalizedVectors(vectors.words[: self.limit], vectors.vectors[: self.limit])
        correct = answer_analogies(limited, path)
        counts = {"analogies_asked": float(len(correct)), "analogies_limit": float(len(limited.words))}
        return counts | ({"analogies": float(correct.float().mean())} if len(correct) else {})


def answer_analogies(vectors: NormalizedVectors, path: Path) -> Tensor:  # [Q] bool
    """Which questions of a file are answered correctly, of those whose words are all in the vocabulary."""
    questions = []
    for number, line in enumerate(lines_of(path), 1):
        words = line.lower().split()
        if words and line[:1] != ":":
            if len(words) != 4:
                raise DataError(
                    f"{path}, line {number}, has {len(words)} words, and an analogy has 4: {brief(line, 40)}"
                )
            if all(word in vectors.ids for word in words):
                questions.append([vectors.ids[word] for word in words])
    correct = []
    for batch in torch.tensor(questions, dtype=torch.int64).reshape(-1, 4).split(500):
        a, b, c, d = batch.to(vectors.vectors.device).unbind(1)
        query = vectors.vectors[b] - vectors.vectors[a] + vectors.vectors[c]
        similarities = query @ vectors.vectors.T
        similarities.scatter_(1, torch.stack([a, b, c], 1), -torch.inf)
        correct.append(similarities.argmax(1) == d)
    return torch.cat(correct) if correct else torch.zeros(0, dtype=torch.bool)


class Neighbors(Report):
    """Nearest neighbors of `words` by cosine similarity, and answers to the `analogies` "a b c", a : b = c : ?, by either
    `similarity`, as a table in text.

    Without `words` the table has those of the frequency ranks 100, 200, 400 and so on.
    """

    while_training = True

    def __init__(
        self,
        words: Sequence[str] = (),
        analogies: Sequence[str] = (),
        count: int = 5,
        similarity: Similarity = "cosine",
    ) -> None:
        self.words, self.analogies, self.count, self.similarity = words, analogies, count, similarity

    def __call__(self, net: nn.Module, data: Data, split: str) -> dict[str, str]:
        if (vectors := normalized_vectors(net, data)) is None:
            return {}
        ranks = [100 * 2**power for power in range(8)]
        words = self.words or [vectors.words[rank] for rank in ranks if rank < len(vectors.words)]
        queries: list[tuple[str, list[str], list[str], Similarity]] = [(word, [word], [], "cosine") for word in words]
        for question in self.analogies:
            a, b, c = question.split()
            queries.append((f"{a} : {b} = {c} :", [b, c], [a], self.similarity))
        lines = []
        for title, positive, negative, similarity in queries:
            unknown = [word for word in [*positive, *negative] if word not in vectors.ids]
            near = [] if unknown else vectors.most_similar(positive, negative, self.count, similarity)
            answers = ", ".join(f"{word} {value:.2f}" for word, value in near) or f"unknown: {' '.join(unknown)}"
            lines.append(f"{title:<24} {answers}")
        return {"neighbors": "\n".join(lines)}


class Projector(Report):
    """Unit vectors of the `limit` most frequent words, labeled with the words, for TensorBoard's projector."""

    def __init__(self, limit: int = 5000) -> None:
        self.limit = limit

    def __call__(self, net: nn.Module, data: Data, split: str) -> dict[str, LabeledVectors]:
        if (vectors := normalized_vectors(net, data)) is None:
            return {}
        return {"words": LabeledVectors(vectors.vectors[: self.limit].cpu(), vectors.words[: self.limit])}
