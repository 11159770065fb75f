"""What word vectors know is what is computed by hand."""

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
from dlref.reports import word_similarity
from dlref.reports.word_similarity import Analogies, Neighbours, Projector, Words, WordSimilarity, agreement, answered

WORDS = ["<unk>", "king", "queen", "man", "woman", "apple"]
# By gender and royalty, and something else.
VECTORS = torch.tensor([[0, 0, 9.0], [1, 1, 0], [-1, 1, 0], [1, -1, 0], [-1, -1, 0], [0.1, 0, 1]])


class Text(SimpleNamespace, HasVocabulary):
    """Data with a vocabulary alone."""


class Kept(Text, HasRoot):
    """The same below a folder."""


def trained() -> tuple[WordEmbeddings, Any]:
    net = WordEmbeddings(len(WORDS), 3)
    with torch.no_grad():
        net.input.weight.copy_(VECTORS)
    return net, Text(vocabulary=Vocabulary(WORDS))


def test_a_king_without_a_man_with_a_woman_is_a_queen() -> None:
    known = Words(WORDS, VECTORS)
    (first, alike), *others = known.nearest(["king", "woman"], ["man"])
    assert first == "queen"
    assert alike == pytest.approx(1)
    assert not {"king", "man", "woman"} & {word for word, _ in others}


def test_by_products_words_are_ranked_as_in_the_book() -> None:
    """Word by word, at their full lengths: the matrix times b - a + c of length 1, without the words that were given."""
    words = [f"{number}" for number in range(30)]
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2, 30)[:, None]
    query = [float(rows[1, i] - rows[2, i] + rows[3, i]) for i in range(4)]
    length = sum(part**2 for part in query) ** 0.5
    products = {w: sum(float(x) * y for x, y in zip(rows[int(w)], query, strict=True)) / length for w in words}
    best = sorted(set(words) - {"1", "2", "3"}, key=lambda word: -products[word])[:6]
    known = Words(words, rows)
    near = known.nearest(["1", "3"], ["2"], 6, by="products")
    assert [word for word, _ in near] == best
    assert [value for _, value in near] == pytest.approx([products[word] for word in best], rel=1e-5)
    assert best != [word for word, _ in known.nearest(["1", "3"], ["2"], 6)]


def test_neighbours_are_nearest_by_cosines_however_analogies_are_ranked() -> None:
    net, data = trained()
    with torch.no_grad():
        net.input.weight[WORDS.index("apple")] *= 100
    ask = ["woman queen man"]
    told = Neighbours(["king"], ask, 1, by="products")(net, data, "test")["neighbours"].splitlines()
    assert told[0].split() == ["king", "apple", "0.07"]
    assert told[1].split()[-2:] == ["apple", "7.07"]  # 10 / √2, and the king has √2
    assert Neighbours(["king"], ask, 1)(net, data, "test")["neighbours"].split()[-2:] == ["king", "1.00"]


def test_neighbours_and_labels_are_words(tmp_path: Path) -> None:
    net, data = trained()
    told = Neighbours(["king", "pear"], ["man king woman"], count=1)(net, data, "test")["neighbours"].splitlines()
    assert told[0].split() == ["king", "apple", "0.07"]
    assert told[1].endswith("unknown: pear")
    assert told[2].split()[-2:] == ["queen", "1.00"]
    labelled = Projector(limit=4)(net, data, "test")["words"]
    assert labelled.labels == WORDS[:4]
    assert labelled.vectors.shape == (4, 3)


def test_a_network_or_data_without_words_has_nothing_to_report() -> None:
    net, _ = trained()
    for report in (WordSimilarity(), Analogies(), Neighbours(), Projector()):
        assert report(net, SimpleNamespace(), "test") == {}
        assert report(torch.nn.Linear(1, 1), trained()[1], "test") == {}


def test_judgements_that_are_not_at_hand_are_left_out_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {
        name: file._replace(addresses=["http://127.0.0.1:9/none"]) for name, file in word_similarity.PAIRS.items()
    }
    monkeypatch.setattr(word_similarity, "PAIRS", nowhere)
    net, data = trained()[0], Kept(vocabulary=Vocabulary(WORDS), root=tmp_path)
    assert WordSimilarity()(net, data, "test") == {}
    assert "wordsim353 is left out" in caplog.text


def test_few_known_words_have_a_share_and_no_agreement(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("# a\tb\tjudged\nking\tqueen\t9\nking\tpear\t1\n")
    assert agreement(Words(WORDS, VECTORS), tmp_path / "pairs") == {"_not_found": 0.5}


JUDGED = b"# a\tb\tjudged\nking\tqueen\t9\nking\tman\t5\nking\tapple\t1\n"
ASKED = b": family\nman king woman queen\n\nqueen woman king man\nman king woman pear\n"


@pytest.mark.parametrize(
    "saved",
    [bytes, codecs.BOM_UTF8.__add__, gzip.compress, lambda content: content.replace(b"\n", b"\r\n")],
    ids=["plain", "a byte order mark", "gzip", "line ends of Windows"],
)
def test_judgements_and_questions_however_they_were_saved_are_the_same(tmp_path: Path, saved: Any) -> None:
    known = Words(WORDS, VECTORS)
    (tmp_path / "pairs").write_bytes(saved(JUDGED))
    (tmp_path / "questions").write_bytes(saved(ASKED))
    assert agreement(known, tmp_path / "pairs") == {"": pytest.approx(-math.sqrt(3) / 2), "_not_found": 0}
    assert answered(known, tmp_path / "questions").tolist() == [True, True]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"king\tqueen\t9\nking queen 9\n", "line 2, is no 'word TAB word TAB number': king queen 9"),
        (b"king\tqueen\tmuch\n", "line 1, is no"),
        (b"king\tqueen\t9\nking\tqu\xff\t9\n", "line 2, holds bytes that are not UTF-8"),
        (b"king\tqueen\t9\n\0", "line 2, holds a NUL byte"),
        (JUDGED.decode().encode("utf-16"), "line 1, holds UTF-16"),
        (gzip.compress(JUDGED, mtime=0)[:-20], "is cut off or damaged"),
    ],
)
def test_what_are_no_judgements_is_named_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "pairs").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'pairs'}")) as refused:
        agreement(Words(WORDS, VECTORS), tmp_path / "pairs")
    assert said in str(refused.value)
    (tmp_path / "questions").write_bytes(b"man king woman queen\nman king woman\n")
    with pytest.raises(DataError, match="line 2, has 3 words, and an analogy has 4"):
        answered(Words(WORDS, VECTORS), tmp_path / "questions")
