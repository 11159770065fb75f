"""Texts that are small for their settings are trained on, or refused in a sentence that says what to set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import refusal

Train = Callable[..., tuple[int, str]]
LSTM = ["model=lstm_lm", "data=text", "network.width=4", "network.layers=1"]
WINDOWS = [
    "model=transformer_lm",
    "data=text",
    "network.width=8",
    "network.layers=1",
    "network.heads=2",
    "data.eval_stride=1",
]
NGRAM = ["model=ngram", "data=text"]
COUNTS = ["model=ppmi_svd", "data=text", "network.width=2", "data.batch_size=1"]
WORD2VEC = ["model=word2vec", "data=text", "network.width=4", "objective.block_size=8", "objective.shared_negatives=4"]
HELP = ["data=python_docs", "network.width=4"]
WORDS = "one two three two one four\n"
TOO_FEW = ", too few to keep some of them for test and eval; bring a longer text, or name data.eval and data.test"
NO_TEXT = "holds no text"
ONE_WORD = "word vectors take 2 different words or more, and the training text has {}, without unknown words"
SMALL: dict[str, tuple[list[str], str | None, int, str]] = {
    "no text": (LSTM, "", 3, NO_TEXT),
    "blank lines": (LSTM, "\n  \n\n" * 20, 3, NO_TEXT),
    "blank lines of characters": ([*LSTM, "data.level=characters"], "\n  \n\n" * 20, 3, NO_TEXT),
    "blank lines of English": ([*LSTM, "data.level=english"], "\n  \n\n" * 20, 3, NO_TEXT),
    "blank lines of subwords": ([*LSTM, "data.level=bpe"], "\n  \n\n" * 20, 3, NO_TEXT),
    "one word": (LSTM, "word", 3, f"has 1 token{TOO_FEW}"),
    "one line": (LSTM, "word\n", 3, f"has 2 tokens{TOO_FEW}"),
    "one letter": ([*LSTM, "data.level=characters"], "w", 3, f"has 1 token{TOO_FEW}"),
    "a few words": (LSTM, WORDS, 3, f"has 7 tokens{TOO_FEW}"),
    "streams": ([*LSTM, "data.batch_size=70"], WORDS * 9, 3, "do not fill 70 streams; lower data.batch_size or bring"),
    "windows": ([*WINDOWS, "data.order=shuffled"], WORDS * 9, 3, "lower data.batch_size or seq_len, or bring more text"),
    "rare words": ([*LSTM, "data.min_freq=37"], WORDS * 20, 2, "data.min_freq is 37, and the most frequent token"),
    "rare words of the help": (["model=lstm_lm", *HELP, "data.min_freq=99999"], None, 2, "has a count of {}; lower it"),
    "rare words, windows": ([*WINDOWS, "data.min_freq=99"], WORDS * 20, 2, "data.min_freq is 99, and the most"),
    "rare words, counted": ([*NGRAM, "data.min_freq=99"], WORDS * 20, 2, "data.min_freq is 99, and the most"),
    "rare words, vectors": ([*WORD2VEC, "data.min_freq=99"], WORDS * 20, 2, "data.min_freq is 99, and the most"),
    "subwords": ([*LSTM, "data.level=bpe"], WORDS * 20, 2, "data.bpe_vocab_size=8000 cannot be learned from this text; choose"),
    "order": ([*NGRAM, "network.order=99", "data.batch_size=1"], WORDS * 9, 2, "network.order is 99, and the text"),
    "width": ([*COUNTS, "network.width=99"], WORDS * 20, 2, "network.width is 99, and the text has 6 different words"),
    "one repeated word, counted": (COUNTS, "word " * 200, 3, "no two words of the training text occur together more"),
    "one repeated word": (WORD2VEC, "word " * 900, 3, ONE_WORD.format(1)),
    "one repeated word, by its window": ([*WORD2VEC, "objective=cbow"], "word\n" * 900, 3, ONE_WORD.format(1)),
    "a wide window": ([*WORD2VEC, "objective.window=5000"], WORDS * 30, 2, "objective.window is 5000, and the training"),
    "a training part of blank lines": (LSTM, "\n" * 99 + WORDS, 3, NO_TEXT),
    "a training part of blank lines, subwords": ([*LSTM, "data.level=bpe"], "\n" * 999 + WORDS, 3, NO_TEXT),
    "unknown words": ([*WORD2VEC, "data.max_vocab_size=3"], WORDS * 90, 3, ONE_WORD.format(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_a_text_that_is_too_small_is_refused_with_what_to_set(name: str, train: Train, tmp_path: Path) -> None:
    settings, text, code, said = SMALL[name]
    if text is not None:
        (tmp_path / "a.txt").write_text(text)
        settings = [*settings, f"data.train={tmp_path / 'a.txt'}"]
    ended, words = train(*settings, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=1")
    assert ended == code, words
    for part in said.split("{}"):
        assert part in refusal(words)


FITS: dict[str, tuple[list[str], Any]] = {
    "a text shorter than a segment": ([*LSTM, "data.batch_size=1", "data.seq_len=999"], WORDS * 9),
    "a text shorter than the window": (
        [*WINDOWS, "data.batch_size=1", "data.seq_len=999", "data.order=fixed"],
        WORDS * 9,
    ),
    "one word again and again": ([*LSTM, "data.batch_size=2"], "word " * 99),
    "one word, counted": ([*NGRAM, "data.batch_size=2"], "word " * 99),
    "two words and a wide window": ([*WORD2VEC, "objective.window=70", "data.batch_size=1"], "one two\n" * 99),
    "two words and a wide window, counted": ([*COUNTS, "objective.window=999"], "one two two\n" * 99),
}


@pytest.mark.parametrize("name", FITS)
def test_a_small_text_that_suffices_is_trained_on(name: str, train: Train, tmp_path: Path) -> None:
    settings, text = FITS[name]
    (tmp_path / "a.txt").write_text(text)
    run = [f"data.train={tmp_path / 'a.txt'}", f"run_dir={tmp_path / 'run'}", "trainer.max_steps=2", "reports=null"]
    code, said = train(*settings, *run)
    assert code == 0, said
