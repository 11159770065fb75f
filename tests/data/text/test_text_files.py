"""Text files are encoded once and cached."""

import codecs
import contextlib
import gzip
import math
import os
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dlref.data.text import text_files
from dlref.data.text.corpora import PennTreebank, Text8, TextFiles, TinyShakespeare
from dlref.data.text.text_files import encode, lines_of, text_chunks
from dlref.data.text.tokenizer import Level
from dlref.errors import ConfigError, DataError
from dlref.interfaces import Shard
from dlref.metrics import Mean, text_metrics
from dlref.models.recurrent_lm import RecurrentLM
from dlref.objectives.language_modelling import LanguageModelling
from dlref.training.evaluation import evaluate
from tests.conftest import small_text8


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def tokens(data: TextFiles, split: str) -> list[str]:
    return data.vocabulary.lookup_tokens(data.split(split).tolist())


def test_a_text_is_words_and_line_ends_by_split(tmp_path: Path) -> None:
    train = written(tmp_path, "a.txt", "the cat the dog\nthe cow\n")
    data = TextFiles(train, eval=written(tmp_path, "b.txt", "a cat\n"), min_freq=2)
    assert data.vocabulary.words == ["<unk>", "<eos>", "the"]
    assert tokens(data, "train") == ["the", "<unk>", "the", "<unk>", "<eos>", "the", "<unk>", "<eos>"]
    assert tokens(data, "eval") == ["<unk>", "<unk>", "<eos>"]
    assert not data.has("test")


@pytest.mark.parametrize("block", [1, 3, 7, 2**22])
def test_chunks_of_any_size_are_the_same_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Also where a chunk ends within a character of two bytes, or between the two bytes of a line end."""
    monkeypatch.setattr(text_files, "CHUNK", block)
    content = "\ufeffein Mädchen\r\n\r\nläuft  schön\nweiter"
    path = written(tmp_path, "a.txt", content)
    assert "".join(text_chunks(path)) == "ein Mädchen\n\nläuft  schön\nweiter"
    data = TextFiles(path, eval=path)
    line = "ein Mädchen <eos> <eos> läuft schön <eos> weiter"
    assert tokens(data, "train") == line.split()


def test_parts_for_evaluation_are_cut_off_the_end_and_not_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", " ".join(f"w{i // 2}" for i in range(20)))
    data = TextFiles(path, eval_share=0.2, test_share=0.1)
    assert tokens(data, "test") == ["<unk>"] * 2
    assert tokens(data, "eval") == ["<unk>"] * 4
    assert tokens(data, "train") == [f"w{i // 2}" for i in range(14)]


def test_compressed_files_hold_the_same_text(tmp_path: Path) -> None:
    content = "one two\nthree\n" * 50
    plain = written(tmp_path, "a.txt", content)
    packed = written(tmp_path, "a.txt.gz", gzip.compress(content.encode()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../a", content)  # a name that no path is made of
    unnamed = written(tmp_path, "b.txt", gzip.compress(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode()))
    for path in (packed, tmp_path / "a.zip", unnamed):
        assert list(text_chunks(path)) == list(text_chunks(plain))
        assert list(lines_of(path)) == content.splitlines()


def test_the_second_time_nothing_is_read_but_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_cache: Path
) -> None:
    path = written(tmp_path, "a.txt", "one two three\n" * 9)
    first, build = TextFiles(path), text_files.build
    monkeypatch.setattr(text_files, "build", None)
    second = TextFiles(path)
    assert [tokens(first, s) for s in first.splits] == [tokens(second, s) for s in second.splits]
    wanted = tokens(first, "train")
    monkeypatch.setattr(text_files, "build", build)
    for path_of_ids in text_cache.rglob("train.int32"):  # cut off, as by a full disk
        os.truncate(path_of_ids, 4)
    assert tokens(TextFiles(path), "train") == wanted
    written(tmp_path, "a.txt", "another text\n" * 9)
    assert "another" in TextFiles(path).vocabulary
    assert not list(text_cache.glob("*.part"))


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "ü", "<unk>", "<eos>"]), max_size=5), min_size=1, max_size=9))
def test_any_lines_come_back(lines: list[list[str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "a.txt", "".join(" ".join(line) + "\n" for line in lines))
        encoded = encode({"train": path}, "words")
        wanted = [token for line in lines for token in [*line, "<eos>"]]
        assert encoded.vocabulary.lookup_tokens(encoded.splits["train"].tolist()) == wanted


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "", "holds no text"),
        ("a.txt", b"\xef\xbb\xbf", "holds no text"),
        ("a.txt", b"good\nbad \xff\n", "line 2, holds bytes that are not UTF-8"),
        ("a.txt", b"good\n\nzero \0\n", "line 3, holds a NUL byte"),
        ("a.txt", "good\nwörds".encode("utf-16"), "line 1, holds UTF-16; bring it as UTF-8"),
        ("a.txt", codecs.BOM_UTF16_BE + "中文".encode("utf-16-be"), "line 1, holds UTF-16"),
        ("a.txt.gz", gzip.compress("good".encode("utf-16"), mtime=0), "line 1, holds UTF-16"),
        ("a.txt.gz", gzip.compress(b"one two three\n" * 1000, mtime=0)[:-20], "cut off or damaged"),
        ("a.txt.gz", b"plain text\n", "cut off or damaged"),
        ("a.zip", b"plain text\n", "cut off or damaged"),
    ],
)
def test_fault_17_a_file_that_is_no_text_is_named(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=words) as refused:
        TextFiles(path, eval=path)
    assert str(path) in str(refused.value)


@pytest.mark.faults
def test_fault_17_one_token_and_a_long_line(tmp_path: Path) -> None:
    one = written(tmp_path, "one.txt", "word")
    data = TextFiles(one, eval=one)
    with pytest.raises(DataError, match="no 'eval' split"):
        data.split("eval")
    long = written(tmp_path, "long.txt", "word " * 250_000)
    assert len(TextFiles(long, eval=one).split("train")) == 250_000
    with pytest.raises(DataError, match="cannot be read"):
        TextFiles(tmp_path / "none.txt")


@pytest.mark.faults
def test_fault_14_an_archive_of_several_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "a")
        archive.writestr("/etc/b", "b")
    with pytest.raises(DataError, match="2 files"):
        list(text_chunks(tmp_path / "a.zip"))


@pytest.mark.faults
def test_fault_11_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "a.txt", "one two\n" * 9)
    monkeypatch.setenv("DLREF_CACHE", str(path))
    with pytest.raises(DataError, match="set DLREF_CACHE"):
        TextFiles(path)


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "one two\n" * 9)
    for settings in ({"min_freq": 0}, {"max_vocab_size": 1}, {"eval_share": 0.6, "test_share": 0.5}):
        with pytest.raises(ConfigError):
            TextFiles(path, **settings)  # type: ignore[arg-type]


@pytest.mark.data
def test_published_texts_have_their_published_sizes(datasets: Path) -> None:
    ptb = PennTreebank(datasets)
    assert [len(ptb.split(s)) for s in ("train", "eval", "test")] == [929_589, 73_760, 82_430]
    assert len(ptb.vocabulary) == 10_000
    plays = TinyShakespeare(datasets)
    assert len(plays.vocabulary) == 67  # 65 characters, and <unk> and <eos>, which never occur
    assert sum(len(plays.split(s)) for s in ("train", "eval", "test")) == 1_115_394
    assert len(plays.split("train")) + len(plays.split("eval")) == int(0.9 * 1_115_394)
    assert plays.tokenizer.join(plays.vocabulary.lookup_tokens(plays.split("train")[:14].tolist())) == "First Citizen:"
    whole = TinyShakespeare(datasets, held_out=False)
    assert torch.equal(whole.split("train"), torch.cat([plays.split("train"), plays.split("eval")]))
    assert torch.equal(whole.split("test"), plays.split("test"))


def test_text8_is_read_from_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_text8(tmp_path, monkeypatch)
    data = Text8(tmp_path)
    assert [len(data.split(s)) for s in ("train", "eval", "test")] == [5400, 300, 300]


def test_subwords_are_learned_from_the_training_part_also_of_long_lines(tmp_path: Path) -> None:
    line = " ".join(f"word{i % 7}" for i in range(3000))  # longer than sentencepiece reads
    path = written(tmp_path, "a.txt", f"{line}\n{line}\n" + "zzzz " * 600)
    data = TextFiles(path, level="bpe", bpe_vocab_size=18, eval_share=0.05, test_share=0.05)
    assert not any("z" in subword for subword in data.vocabulary.words)
    assert data.tokenizer.join(tokens(data, "train")[:2000]).startswith("word0 word1 word2 word3")


@pytest.mark.parametrize("block", [7, 2**22])
def test_subwords_lose_nothing_in_any_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_cache: Path, block: int
) -> None:
    """Also of a long line, which is read in chunks, and of characters that occur only at the end."""
    monkeypatch.setattr(text_files, "CHUNK", block)
    monkeypatch.setenv("DLREF_CACHE", str(tmp_path / "cache"))
    text = "the  cat sat on the mat\n" * 30 + "and the dog did not " * 30 + "\n\nQuiz & ☃ ▁ ³\n"
    data = TextFiles(
        written(tmp_path, "a.txt", text), level="bpe", bpe_vocab_size=40, min_freq=9, max_vocab_size=30, eval_share=0.1
    )
    found = [token for split in ("train", "eval", "test") for token in tokens(data, split)]
    assert data.tokenizer.join(found) == text
    assert "<unk>" not in found
    assert len(data.vocabulary) == 40 + 256 + 1
    assert data.sizes["vocab_size"] == data.tokenizer.processor.get_piece_size()


@pytest.mark.parametrize("level", ["words", "english", "characters", "bpe"])
def test_nll_per_word_and_per_character_is_that_of_the_whole_text(tmp_path: Path, level: Level) -> None:
    text = "a cat  sat on a mat\n\nnaïve dogs did not\n" * 9
    path = written(tmp_path, "a.txt", text)
    data = TextFiles(path, eval=path, level=level, bpe_vocab_size=40)
    torch.manual_seed(0)
    net = RecurrentLM(len(data.vocabulary), width=5, layers=1).double().eval()
    objective, cpu = LanguageModelling(net), torch.device("cpu")
    figures = evaluate(objective, data, "eval", Shard(), contextlib.nullcontext, cpu)
    ids = data.split("eval").long()
    nats = float(F.cross_entropy(net(ids[None, :-1])[0][0].detach(), ids[1:], reduction="sum"))
    assert figures["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)))
    rest = text[len(data.tokenizer.join(tokens(data, "eval")[:1])) :]  # the first token is not predicted
    words, ends, characters = len(rest.split()), rest.count("\n"), len(rest)
    wanted = {"word_perplexity": math.exp(nats / (words + ends)), "bits_per_character": nats / math.log(2) / characters}
    told = {"words": ["word_perplexity"], "english": [], "characters": [*wanted], "bpe": [*wanted]}[level]
    for name, value in wanted.items():
        assert (name in figures) == (name in told)
        assert name not in told or figures[name] == pytest.approx(value)
    if level == "words":
        assert figures["word_perplexity"] == figures["perplexity"]
    if level == "characters":
        assert figures["bits_per_character"] == pytest.approx(figures["loss"] / math.log(2))
    masked = text_metrics(
        Mean(nats, len(ids) - 2), **data.text_size("eval")
    )  # of an objective that counts other tokens
    assert masked == {}


def test_a_test_file_alone_leaves_eval_to_be_cut(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "one two\n" * 100)
    data = TextFiles(path, test=written(tmp_path, "b.txt", "two\n"))
    assert [len(data.split(split)) for split in ("train", "eval", "test")] == [285, 15, 2]
    with pytest.raises(DataError, match=r"empty\.txt holds no text; bring another one for data\.test"):
        TextFiles(path, test=written(tmp_path, "empty.txt", ""))


@pytest.mark.faults
def test_fault_17_an_endless_word_and_a_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "CHUNK", 10)
    monkeypatch.setattr(text_files, "MAX_WORD", 100)
    with pytest.raises(DataError, match="100 bytes without white space"):
        list(text_chunks(written(tmp_path, "a.txt", "two\nlines\n" + "x" * 1000)))
    with pytest.raises(DataError, match="cannot be read"):
        TextFiles(tmp_path)


def test_a_damaged_cache_is_replaced(tmp_path: Path, text_cache: Path) -> None:
    path = written(tmp_path, "a.txt", "some words of its own\n" * 20)
    wanted = tokens(TextFiles(path), "train")
    for about in text_cache.rglob("about.json"):
        about.write_text('{"lengths": 3}')
    assert tokens(TextFiles(path), "train") == wanted
