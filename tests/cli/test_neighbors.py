"""dlref neighbors: words that are alike, from a run or a file."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dlref.cli.main import main
from dlref.data.text.word2vec_format import read_vectors, write_vectors
from tests.conftest import SMALL


@pytest.fixture
def file(tmp_path: Path) -> Path:
    words = ["king", "queen", "man", "woman", "apple"]
    vectors = torch.tensor([[1.0, 1, 0], [-1, 1, 0], [1, -1, 0], [-1, -1, 0], [0.1, 0, 1]])
    write_vectors(tmp_path / "words.txt", words, vectors)
    return tmp_path / "words.txt"


def test_words_and_sums_of_words(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["neighbors", str(file), "king", "-", "man", "+", "woman", "--count", "1"]) == 0
    assert capsys.readouterr().out.split() == ["king", "+", "woman", "-", "man", "queen", "1.000"]
    assert main(["neighbors", str(file), "king", "apple", "--count=1"]) == 0
    assert capsys.readouterr().out.split() == ["king", "apple", "0.070", "apple", "king", "0.070"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kng"], "did you mean 'king'"),
        (["king", "-"], "ends with a sign"),
        (["king", "man", "-", "queen"], "no sum of words"),
        (["+", "king"], "no sum of words"),
        ([], "takes a run or a file"),
        (["king", "--count", "0"], "--count is '0'"),
        (["king", "--cout", "1"], "--count"),
    ],
)
def test_fault_29_what_is_no_word_is_said_so(
    file: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["neighbors", str(file), *words]) == 2
    assert said in capsys.readouterr().err


def test_vectors_of_a_run_are_written_and_read(
    train: Callable[..., tuple[int, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(*SMALL["word2vec"], "trainer.max_steps=3", f"run_dir={run}")[0] == 0
    assert main(["neighbors", str(run), "the", "--export", str(tmp_path / "all.bin")]) == 0
    words, _ = read_vectors(tmp_path / "all.bin")
    assert f"{len(words)} vectors" in capsys.readouterr().out.replace(",", "")
    assert main(["neighbors", str(tmp_path / "all.bin"), "the"]) == 0
    assert train(*SMALL["mlp"], "trainer.max_steps=3", f"run_dir={tmp_path / 'mlp'}")[0] == 0
    assert main(["neighbors", str(tmp_path / "mlp"), "the"]) == 4
    assert "no vectors of words" in capsys.readouterr().err
