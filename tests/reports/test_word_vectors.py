"""What word vectors know is what is computed by hand, and what gensim says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gensim
import pytest
import torch

from dlref.data.text import Vocabulary
from dlref.models.word_vectors import WordVectors
from dlref.reports import word_vectors
from dlref.reports.word_vectors import Analogies, Neighbours, Projector, Words, WordSimilarity, agreement, answered

WORDS = ["<unk>", "king", "queen", "man", "woman", "apple"]
# By gender and royalty, and something else.
VECTORS = torch.tensor([[0, 0, 9.0], [1, 1, 0], [-1, 1, 0], [1, -1, 0], [-1, -1, 0], [0.1, 0, 1]])


def trained() -> tuple[WordVectors, Any]:
    net = WordVectors(len(WORDS), 3)
    with torch.no_grad():
        net.input.weight.copy_(VECTORS)
    return net, SimpleNamespace(vocabulary=Vocabulary(WORDS))


def test_a_king_without_a_man_with_a_woman_is_a_queen() -> None:
    known = Words(WORDS, VECTORS)
    (first, alike), *others = known.nearest(["king", "woman"], ["man"])
    assert first == "queen"
    assert alike == pytest.approx(1)
    assert not {"king", "man", "woman"} & {word for word, _ in others}


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


@pytest.mark.data
def test_gensim_finds_the_same_agreement_and_the_same_analogies(datasets: Path) -> None:
    folder = datasets / "word_similarity"
    pairs, questions = folder / "wordsim353.tsv", folder / "questions-words.txt"
    words = sorted({w.lower() for line in questions.read_text().splitlines() for w in line.split()})[:600]
    words += sorted({w.lower() for line in pairs.read_text().splitlines()[2:] for w in line.split("\t")[:2]} - {*words})
    vectors = torch.randn(len(words), 5, generator=torch.Generator().manual_seed(0))  # so few that some are right
    theirs = gensim.models.KeyedVectors(5)
    theirs.add_vectors(words, vectors.numpy())
    known = Words(words, vectors)
    _, spearman, not_found = theirs.evaluate_word_pairs(str(pairs))
    assert agreement(known, pairs)[""] == pytest.approx(spearman[0])
    assert agreement(known, pairs)["_not_found"] == pytest.approx(not_found / 100)
    right = answered(known, questions)
    score, sections = theirs.evaluate_word_analogies(str(questions))
    assert len(right) == len(sections[-1]["correct"]) + len(sections[-1]["incorrect"]) > 100
    assert float(right.float().mean()) == pytest.approx(score) != 0


def test_judgements_that_are_not_at_hand_are_left_out_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {name: file._replace(addresses=["http://127.0.0.1:9/none"]) for name, file in word_vectors.PAIRS.items()}
    monkeypatch.setattr(word_vectors, "PAIRS", nowhere)
    net, data = trained()
    data.root = tmp_path
    assert WordSimilarity()(net, data, "test") == {}
    assert "wordsim353 is left out" in caplog.text


def test_few_known_words_have_a_share_and_no_agreement(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("# a\tb\tjudged\nking\tqueen\t9\nking\tpear\t1\n")
    assert agreement(Words(WORDS, VECTORS), tmp_path / "pairs") == {"_not_found": 0.5}
