"""Word vectors in word2vec's formats: what was written is read, here and by gensim."""

import codecs
import gzip
from pathlib import Path

import gensim
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlref.data.text.word2vec_format import read_vectors, write_vectors
from dlref.errors import DataError

WORDS = ["the", "naïve", "don't", "中", "-"]
VECTORS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-20, 1.0, 1e20])


@pytest.mark.parametrize("name", ["a.txt", "a.vec", "a.bin", "a.txt.gz", "a.bin.gz"])
def test_what_was_written_is_read_to_the_last_bit(tmp_path: Path, name: str) -> None:
    write_vectors(tmp_path / name, WORDS, VECTORS)
    words, vectors = read_vectors(tmp_path / name)
    assert words == WORDS
    assert torch.equal(vectors, VECTORS)


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_what_was_written_and_writes_what_is_read(tmp_path: Path, binary: bool) -> None:
    path = tmp_path / ("a.bin" if binary else "a.txt")
    write_vectors(path, WORDS, VECTORS)
    theirs = gensim.models.KeyedVectors.load_word2vec_format(str(path), binary=binary)
    assert theirs.index_to_key == WORDS
    assert np.array_equal(theirs.vectors, VECTORS.numpy())
    theirs.save_word2vec_format(str(tmp_path / f"b{path.suffix}"), binary=binary)
    words, vectors = read_vectors(tmp_path / f"b{path.suffix}")
    assert words == WORDS
    torch.testing.assert_close(vectors, VECTORS, rtol=1e-6, atol=0)


TEXT = "2 3\nthe 1 2 3\nnaïve 0.5 -1 1e-3\n".encode()


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + TEXT,
        TEXT.replace(b"\n", b"\r\n"),
        gzip.compress(TEXT, mtime=0),
        gzip.compress(codecs.BOM_UTF8 + TEXT, mtime=0),
    ],
    ids=["a byte order mark", "line ends of Windows", "gzip without its name", "both"],
)
def test_vectors_however_they_were_saved_are_the_same(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    words, vectors = read_vectors(tmp_path / "a.txt")
    assert words == ["the", "naïve"]
    assert torch.equal(vectors, torch.tensor([[1, 2, 3], [0.5, -1, 1e-3]]))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin"),
        (b"two 3\n", "does not begin"),
        (b"2 0\n", "does not begin"),
        (b"1 99999999999999999999\n", "does not begin"),
        (b"word 0.5 0.25\n", "GloVe"),
        (b"2 2\na 1 2\n", "line 3"),
        (b"2 2\na 1 2\nb 1\n", "line 3"),
        (b"1 2\na 1 x\n", "line 2"),
        (b"1 2\na 1 nan\n", "line 2"),
        (b"1 2\n\xff 1 2\n", "line 2"),
        (b"1 2\na\0b 1 2\n", "line 2"),
        (TEXT.decode().encode("utf-16"), "is UTF-16; bring it as UTF-8"),
        (b"999999999999 2\na 1 2\n", "line 3"),
    ],
)
def test_fault_17_a_file_of_another_format_is_named_with_its_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"2 2\na 1 2\nb 1 2\n" * 99)[:-30])
    with pytest.raises(DataError, match=r"a\.txt\.gz"):
        read_vectors(tmp_path / "a.txt.gz")
    with pytest.raises(DataError, match=words) as refused:
        read_vectors(path)
    assert str(path) in str(refused.value)


@pytest.mark.faults
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["a.txt", "a.bin"]), st.data())
def test_fault_17_changed_bytes_are_read_or_refused(tmp_path: Path, name: str, data: st.DataObject) -> None:
    write_vectors(tmp_path / name, WORDS, VECTORS)
    content = bytearray((tmp_path / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : data.draw(st.integers(place, len(content)))] = data.draw(st.binary(max_size=3))
    (tmp_path / name).write_bytes(content)
    try:
        words, vectors = read_vectors(tmp_path / name)
    except DataError as error:
        assert name in str(error)  # noqa: PT017
    else:
        assert vectors.shape[0] == len(words)
        assert vectors.isfinite().all()


@pytest.mark.parametrize("word", ["", "two words", "line\n"])
def test_a_word_that_no_format_holds_is_named(tmp_path: Path, word: str) -> None:
    with pytest.raises(DataError, match="white space"):
        write_vectors(tmp_path / "a.txt", ["good", word], torch.zeros(2, 3))


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_vectors(tmp_path / "none" / "a.txt", WORDS, VECTORS)
    with pytest.raises(DataError, match="cannot be read"):
        read_vectors(tmp_path / "none.txt")
