"""Similarities, analogies and neighbors of word vectors are those computed by hand."""

import codecs
import gzip
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dlref.data.text.tokenizer import Vocabulary
from dlref.errors import DataError
from dlref.interfaces import HasRoot, HasVocabulary
from dlref.models.word_vectors import WordEmbeddings
from dlref.reports import word_vector_quality
from dlref.reports.word_vector_quality import (
    Analogies,
    Neighbors,
    NormalizedVectors,
    Projector,
    WordSimilarity,
    answer_analogies,
    rank_correlation,
)

WORDS = ["<unk>", "king", "queen", "man", "woman", "apple"]
# By gender and royalty, and something else.
VECTORS = torch.tensor([[0, 0, 9.0], [1, 1, 0], [-1, 1, 0], [1, -1, 0], [-1, -1, 0], [0.1, 0, 1]])


class Text(SimpleNamespace, HasVocabulary):
    """Data with a vocabulary alone."""


class StoredText(Text, HasRoot):
    """The same below a folder."""


def trained() -> tuple[WordEmbeddings, Any]:
    net = WordEmbeddings(len(WORDS), 3)
    with torch.no_grad():
        net.input.weight.copy_(VECTORS)
    return net, Text(vocabulary=Vocabulary(WORDS))


def test_king_minus_man_plus_woman_is_queen() -> None:
    vectors = NormalizedVectors(WORDS, VECTORS)
    (first, cosine), *others = vectors.most_similar(["king", "woman"], ["man"])
    assert first == "queen"
    assert cosine == pytest.approx(1)
    assert not {"king", "man", "woman"} & {word for word, _ in others}


def test_by_dot_products_words_are_ranked_as_in_the_book() -> None:
    """Word by word, at their full lengths: the matrix times b - a + c of length 1, without the words that were given."""
    words = [f"{number}" for number in range(30)]
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2, 30)[:, None]
    query = [float(rows[1, i] - rows[2, i] + rows[3, i]) for i in range(4)]
    length = sum(part**2 for part in query) ** 0.5
    products = {w: sum(float(x) * y for x, y in zip(rows[int(w)], query, strict=True)) / length for w in words}
    best = sorted(set(words) - {"1", "2", "3"}, key=lambda word: -products[word])[:6]
    vectors = NormalizedVectors(words, rows)
    similar = vectors.most_similar(["1", "3"], ["2"], 6, similarity="dot_product")
    assert [word for word, _ in similar] == best
    assert [value for _, value in similar] == pytest.approx([products[word] for word in best], rel=1e-5)
    assert best != [word for word, _ in vectors.most_similar(["1", "3"], ["2"], 6)]


def test_neighbors_are_ranked_by_cosine_whatever_ranks_the_analogies() -> None:
    net, data = trained()
    with torch.no_grad():
        net.input.weight[WORDS.index("apple")] *= 100
    analogies = ["woman queen man"]
    lines = Neighbors(["king"], analogies, 1, similarity="dot_product")(net, data, "test")["neighbors"].splitlines()
    assert lines[0].split() == ["king", "apple", "0.07"]
    assert lines[1].split()[-2:] == ["apple", "7.07"]  # 10 / √2, and the king has √2
    assert Neighbors(["king"], analogies, 1)(net, data, "test")["neighbors"].split()[-2:] == ["king", "1.00"]


def test_neighbors_and_labels_are_words(tmp_path: Path) -> None:
    net, data = trained()
    lines = Neighbors(["king", "pear"], ["man king woman"], count=1)(net, data, "test")["neighbors"].splitlines()
    assert lines[0].split() == ["king", "apple", "0.07"]
    assert lines[1].endswith("unknown: pear")
    assert lines[2].split()[-2:] == ["queen", "1.00"]
    labeled = Projector(limit=4)(net, data, "test")["words"]
    assert labeled.labels == WORDS[:4]
    assert labeled.vectors.shape == (4, 3)


def test_a_network_without_word_vectors_or_data_without_words_have_nothing_to_report() -> None:
    net, _ = trained()
    for report in (WordSimilarity(), Analogies(), Neighbors(), Projector()):
        assert report(net, SimpleNamespace(), "test") == {}
        assert report(torch.nn.Linear(1, 1), trained()[1], "test") == {}


def test_a_benchmark_that_cannot_be_downloaded_is_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {
        name: file._replace(urls=["http://127.0.0.1:9/none"]) for name, file in word_vector_quality.PAIRS.items()
    }
    monkeypatch.setattr(word_vector_quality, "PAIRS", nowhere)
    net, data = trained()[0], StoredText(vocabulary=Vocabulary(WORDS), root=tmp_path)
    assert WordSimilarity()(net, data, "test") == {}
    assert "wordsim353 is left out" in caplog.text


def test_of_fewer_than_two_known_pairs_there_is_no_correlation(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("# a\tb\trating\nking\tqueen\t9\nking\tpear\t1\n")
    assert rank_correlation(NormalizedVectors(WORDS, VECTORS), tmp_path / "pairs") == {"_not_found": 0.5}


RATED = b"# a\tb\trating\nking\tqueen\t9\nking\tman\t5\nking\tapple\t1\n"
QUESTIONS = b": family\nman king woman queen\n\nqueen woman king man\nman king woman pear\n"


@pytest.mark.parametrize(
    "saved",
    [bytes, codecs.BOM_UTF8.__add__, gzip.compress, lambda content: content.replace(b"\n", b"\r\n")],
    ids=["plain", "a byte order mark", "gzip", "line ends of Windows"],
)
def test_encoding_compression_and_line_ends_of_a_benchmark_do_not_matter(tmp_path: Path, saved: Any) -> None:
    vectors = NormalizedVectors(WORDS, VECTORS)
    (tmp_path / "pairs").write_bytes(saved(RATED))
    (tmp_path / "questions").write_bytes(saved(QUESTIONS))
    assert rank_correlation(vectors, tmp_path / "pairs") == {"": pytest.approx(-math.sqrt(3) / 2), "_not_found": 0}
    assert answer_analogies(vectors, tmp_path / "questions").tolist() == [True, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"king\tqueen\t9\nking queen 9\n", "line 2, is no 'word TAB word TAB number': king queen 9"),
        (b"king\tqueen\tmuch\n", "line 1, is no"),
        (b"king\tqueen\t9\nking\tqu\xff\t9\n", "line 2, holds bytes that are not UTF-8"),
        (b"king\tqueen\t9\n\0", "line 2, holds a NUL byte"),
        (RATED.decode().encode("utf-16"), "line 1, holds UTF-16"),
        (gzip.compress(RATED, mtime=0)[:-20], "is cut off or damaged"),
    ],
)
def test_a_line_that_is_no_pair_or_question_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "pairs").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'pairs'}")) as error:
        rank_correlation(NormalizedVectors(WORDS, VECTORS), tmp_path / "pairs")
    assert message in str(error.value)
    (tmp_path / "questions").write_bytes(b"man king woman queen\nman king woman\n")
    with pytest.raises(DataError, match="line 2, has 3 words, and an analogy has 4"):
        answer_analogies(NormalizedVectors(WORDS, VECTORS), tmp_path / "questions")
