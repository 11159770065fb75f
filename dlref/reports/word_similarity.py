"""What word vectors know: how alike words are, analogies, neighbours, and TensorBoard's projector."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.data.download import RemoteFile, data_root, fetch, github
from dlref.data.text.text_files import lines_of
from dlref.errors import DataError, brief
from dlref.interfaces import HasRoot, HasVocabulary, WordVectors, declares
from dlref.reports import Embedding, Report

logger = logging.getLogger("dlref")

Measure = Literal["cosines", "products"]
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


class Words:
    """Vectors of length 1 by word, which are compared by their cosine, and the lengths that they had [V]."""

    def __init__(self, words: Sequence[str], vectors: Tensor) -> None:
        self.words, self.vectors = list(words), F.normalize(vectors.float(), dim=1)
        self.lengths = torch.linalg.vector_norm(vectors.float(), dim=1)
        self.ids = {word: id for id, word in enumerate(self.words)}

    def nearest(
        self, plus: Sequence[str], minus: Sequence[str] = (), count: int = 10, by: Measure = "cosines"
    ) -> list[tuple[str, float]]:
        """The words nearest to the sum of `plus` without `minus`, none of these, and how near; all must be known.

        By `cosines` of all vectors at length 1, or by `products` of vectors as long as they are with the direction of their
        sum, by which long vectors, of words that were seen often, come first.
        """
        given = [self.ids[word] for word in [*plus, *minus]]
        lengths = self.lengths if by == "products" else torch.ones_like(self.lengths)
        signs = torch.tensor([1.0] * len(plus) + [-1.0] * len(minus)).to(lengths)
        alike = lengths * (self.vectors @ F.normalize((lengths[given] * signs) @ self.vectors[given], dim=0))
        alike[given] = -torch.inf
        top = alike.topk(min(count, len(self.words) - len(set(given))))
        return [(self.words[id], value) for id, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def vectors_of(net: nn.Module, data: Any) -> Words | None:
    """The words of a text and their vectors, if it is words that the network has vectors of."""
    if not declares(net, WordVectors) or not declares(data, HasVocabulary):
        return None
    return Words(data.vocabulary.get_itos(), net.vectors())


def at_hand(file: RemoteFile, data: Any) -> Path | None:
    """Where the file lies, below the root of the data or where data lie by default; None, with a sentence, if nowhere."""
    try:
        return fetch(file, data_root(data.root if declares(data, HasRoot) else None))
    except DataError as error:
        logger.warning("%s is left out: %s", Path(file.name).stem, error)
        return None


class WordSimilarity(Report):
    """Spearman's correlation of cosines with people's judgements: WordSim-353 (Finkelstein et al. 2002) and SimLex-999
    (Hill et al. 2015), over the pairs whose words are both known; and the share of the others."""

    def __call__(self, net: nn.Module, data: Any, split: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if (known := vectors_of(net, data)) is None:
            return found
        for name, file in PAIRS.items():
            if (path := at_hand(file, data)) is not None:
                found |= {f"{name}{what}": value for what, value in agreement(known, path).items()}
        return found


def agreement(known: Words, path: Path) -> dict[str, float]:
    """With a file of `word TAB word TAB judgement` lines; raises DataError for another one."""
    from scipy.stats import spearmanr

    pairs = [
        judgement(line, number, path)
        for number, line in enumerate(lines_of(path), 1)
        if line.strip() and line[0] != "#"
    ]
    there = [(known.ids[a], known.ids[b], judged) for a, b, judged in pairs if a in known.ids and b in known.ids]
    share = {"_not_found": 1 - len(there) / len(pairs)} if pairs else {}
    if len(there) < 2:
        return share
    one, other, judgements = zip(*there, strict=True)
    cosines = (known.vectors[list(one)] * known.vectors[list(other)]).sum(1)
    return {"": float(spearmanr(cosines.tolist(), judgements).statistic)} | share


def judgement(line: str, number: int, path: Path) -> tuple[str, str, float]:
    try:
        one, other, judged = line.lower().split("\t")
        return one, other, float(judged)
    except ValueError:
        raise DataError(f"{path}, line {number}, is no 'word TAB word TAB number': {brief(line, 40)}") from None


class Analogies(Report):
    """The share of Google's analogies (Mikolov et al. 2013) `a is to b as c is to d` whose d is nearest to b - a + c.

    Asked and answered with the first `limit` words of the vocabulary; questions with a word beyond are not asked, and
    `analogies_asked` says how many were.
    """

    def __init__(self, limit: int = 30_000) -> None:
        self.limit = limit

    def __call__(self, net: nn.Module, data: Any, split: str) -> dict[str, Any]:
        known = vectors_of(net, data)
        if known is None or (path := at_hand(QUESTIONS, data)) is None:
            return {}
        right = answered(Words(known.words[: self.limit], known.vectors[: self.limit]), path)
        asked = {"analogies_asked": float(len(right)), "analogies_limit": float(min(self.limit, len(known.words)))}
        return asked | ({"analogies": float(right.float().mean())} if len(right) else {})


def answered(known: Words, path: Path) -> Tensor:  # [Q] bool
    """Which of the questions whose words are known are answered rightly."""
    rows = []
    for number, line in enumerate(lines_of(path), 1):
        words = line.lower().split()
        if words and line[:1] != ":":
            if len(words) != 4:
                raise DataError(
                    f"{path}, line {number}, has {len(words)} words, and an analogy has 4: {brief(line, 40)}"
                )
            if all(word in known.ids for word in words):
                rows.append([known.ids[word] for word in words])
    right = []
    for piece in torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).split(500):
        a, b, c, d = piece.to(known.vectors.device).unbind(1)
        wanted = known.vectors[b] - known.vectors[a] + known.vectors[c]
        alike = wanted @ known.vectors.T
        alike.scatter_(1, torch.stack([a, b, c], 1), -torch.inf)
        right.append(alike.argmax(1) == d)
    return torch.cat(right) if right else torch.zeros(0, dtype=torch.bool)


class Neighbours(Report):
    """The words nearest to some by cosines, and the answers to analogies `a : b = c : ?` `by` either, as a table to read.

    Without `words` those of the vocabulary at the ranks 100, 200, 400 and so on are shown.
    """

    while_training = True

    def __init__(
        self, words: Sequence[str] = (), analogies: Sequence[str] = (), count: int = 5, by: Measure = "cosines"
    ) -> None:
        self.words, self.analogies, self.count, self.by = words, analogies, count, by

    def __call__(self, net: nn.Module, data: Any, split: str) -> dict[str, Any]:
        if (known := vectors_of(net, data)) is None:
            return {}
        ranks = [100 * 2**power for power in range(8)]
        words = self.words or [known.words[rank] for rank in ranks if rank < len(known.words)]
        asked: list[tuple[str, list[str], list[str], Measure]] = [(word, [word], [], "cosines") for word in words]
        for question in self.analogies:
            a, b, c = question.split()
            asked.append((f"{a} : {b} = {c} :", [b, c], [a], self.by))
        lines = []
        for what, plus, minus, by in asked:
            unknown = [word for word in [*plus, *minus] if word not in known.ids]
            near = [] if unknown else known.nearest(plus, minus, self.count, by)
            told = ", ".join(f"{word} {alike:.2f}" for word, alike in near) or f"unknown: {' '.join(unknown)}"
            lines.append(f"{what:<24} {told}")
        return {"neighbours": "\n".join(lines)}


class Projector(Report):
    """The vectors, of length 1, of the `limit` most frequent words, with the words, for TensorBoard's projector."""

    def __init__(self, limit: int = 5000) -> None:
        self.limit = limit

    def __call__(self, net: nn.Module, data: Any, split: str) -> dict[str, Any]:
        if (known := vectors_of(net, data)) is None:
            return {}
        return {"words": Embedding(known.vectors[: self.limit].cpu(), known.words[: self.limit])}
