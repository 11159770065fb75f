"""dlref generate: a trained model goes on with a text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dlref
from dlref.cli.main import main
from dlref.data.text.tokenizer import Tokenizer
from dlref.models.mlp import MLP
from tests.conftest import SMALL, assert_one_sentence

Train = Callable[..., tuple[int, str]]

NETWORK = '''"""Scores of the next token by the one before it."""

import torch
from torch import Tensor, nn

from dlref.interfaces import TextDecoder


class Bigrams(nn.Module, TextDecoder):
    def __init__(self, vocab_size: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens: Tensor, state: object = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.table(tokens), ()

    def prefill(self, context: Tensor) -> tuple[Tensor, ...]:
        return ()

    def step(self, state: object, token: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.table(token), ()
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sentences learned by heart, between which each line may choose; and the network's own file."""
    folder = tmp_path_factory.mktemp("by_heart")
    (folder / "bigrams.py").write_text(NETWORK)
    (folder / "text").write_text("the cat sat on a mat\nthe dog did not\n" * 60)
    plugin = f"plugins={folder / 'bigrams.py'}"
    line = ["model=lstm_lm", "data=text", "network._target_=bigrams.Bigrams", plugin, f"run_dir={folder / 'run'}"]
    line += [f"data.train={folder / 'text'}", "data.batch_size=4", "optimizer.lr=0.3", "trainer.max_steps=100"]
    line += ["reports.samples._target_=dlref.reports.samples.Samples", "reports.samples.prompts=[a]"]
    assert main(["train", "device=cpu", "threads=1", *line]) == 0
    return [str(folder / "run"), "--plugins", str(folder / "bigrams.py")]


def test_what_was_learned_by_heart_is_written(run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def text(*arguments: str) -> str:
        assert main(["generate", *run, *arguments]) == 0
        return capsys.readouterr().out

    assert text("--prompt", "cat", "--length", "6", "--temperature", "0") == "cat sat on a mat\nthe\n"
    lines = text("--length", "200", "--temperature", "0.4").splitlines()
    assert len(lines) > 20
    assert {*lines[:-1]} == {"the cat sat on a mat", "the dog did not"}
    assert text("--seed", "3") == text("--seed=3")
    assert text("--seed", "3") != text("--seed", "4")
    one, both = text("--length", "40").splitlines(), text("--length", "40", "--count", "2").splitlines()
    assert both[: len(one) + 1] == [*one, ""]
    assert len(both) > len(one) + 2
    assert text("--top-k", "1") == text("--temperature", "0") == text("--top-p", "1e-6")


@pytest.mark.parametrize("model", ["lstm_lm", "transformer_lm"])
def test_what_is_written_is_what_the_network_says_of_all_before_it(
    model: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    settings = [*SMALL[model], "data.seq_len=12", "trainer.max_steps=20", "optimizer.lr=0.1"]
    assert train(*settings, f"run_dir={run}")[0] == 0
    net: Any = dlref.load(run)
    words = net.description["vocabulary"]
    tokens = torch.tensor([[words.index(word) for word in ("this", "is", "the")]])
    for _ in range(9):
        scores = net(tokens)[0][0, -1].detach()
        scores[words.index("<unk>")] = -torch.inf
        tokens = torch.cat([tokens, scores.argmax().view(1, 1)], dim=1)
    assert main(["generate", run, "--prompt", "This is\tthe", "--length", "9", "--temperature", "0"]) == 0
    expected = Tokenizer("english").join(words[id] for id in tokens[0].tolist())
    assert capsys.readouterr().out == expected + "\n"


def test_evaluate_shows_samples(run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", run[0], f"plugins={run[2]}", f"data.train={Path(run[0]).parent / 'text'}"]) == 0
    assert "    a mat\n    the " in capsys.readouterr().out


@pytest.mark.faults
def test_fault_19_a_prompt_longer_than_any_piece_of_training_is_read(
    train: Callable[..., tuple[int, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recurrent network has no longest context."""
    run, prompt = tmp_path / "run", " ".join(["the function returns a"] * 1000)
    train(*SMALL["lstm_lm"], "trainer.max_steps=2", f"run_dir={run}")
    assert main(["generate", str(run), "--prompt", prompt, "--length", "3"]) == 0
    written, said = capsys.readouterr()
    assert written.startswith(prompt)
    assert written != f"{prompt}\n"
    assert not said


@pytest.mark.faults
def test_fault_19_a_prompt_longer_than_the_context_is_said_to_be_and_goes_on_for_long(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a prompt as long as the context nothing is said, nor of an empty one or one that no word is known of."""
    run, length = tmp_path / "run", 25  # and a context of 10
    train(*SMALL["transformer_lm"], "trainer.max_steps=2", f"run_dir={run}")
    for words in (0, 1, 10, 11, 4000):
        prompt = " ".join(["return"] * words)
        assert main(["generate", str(run), "--prompt", prompt, "--length", str(length), "--count", "2"]) == 0
        written, said = capsys.readouterr()
        assert written.startswith(prompt)
        assert len(Tokenizer("english")(written.partition("\n\n")[0])) >= words + length
        sees = f"the prompt has {words:,} tokens, and the network's context is 10; the first tokens are ignored\n"
        assert said == sees * (words > 10)
    assert main(["generate", str(run), "--prompt", "zebra gnu " * 6, "--length", "9"]) == 0
    written, said = capsys.readouterr()
    assert written.startswith("<unk> " * 12)
    net: Any = dlref.load(run)
    assert [line.split(", ")[0] for line in said.splitlines()] == [
        "the prompt has 12 tokens",
        f"the vocabulary of {len(net.description['vocabulary'])} lacks 'zebra'",
    ]
    assert main(["generate", str(run), "--prompt", "x" * 3000, "--length", "1"]) == 0
    said = capsys.readouterr().err
    assert len(said) < 120, "however long a word is"
    assert "x' read" in said.replace(",", "")


@pytest.mark.faults
def test_fault_29_an_empty_prompt_begins_a_line_and_unknown_words_are_named(
    run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for nothing in ([], ["--prompt", ""], ["--prompt", "  "]):
        assert main(["generate", *run, *nothing, "--length", "1"]) == 0
        assert capsys.readouterr() == ("the\n", "")
    assert main(["generate", *run, "--prompt", "zebra on zebra gnu on", "--length", "1"]) == 0
    assert capsys.readouterr() == (
        "<unk> on <unk> <unk> on a\n",
        "the vocabulary of 11 lacks 'zebra', 'gnu', read as <unk>\n",
    )
    assert main(["generate", *run, "--prompt", " ".join(map(str, range(30))), "--length", "1"]) == 0
    assert "'8', '9' and 20 more, read" in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "RUN is missing"),
        (["nowhere", "words"], 2, "'words' is more than dlref generate takes"),
        (["nowhere"], 4, "nowhere does not exist"),
        (["nowhere", "--prompt"], 2, "--prompt needs a value"),
        (["nowhere", "--promt", "a"], 2, "did you mean '--prompt'"),
        (["nowhere", "--prompt", "a\udcff"], 2, "not UTF-8"),
        (["nowhere", "--length", "0"], 2, "--length is '0'"),
        (["nowhere", "--count", "0"], 2, "--count is '0'"),
        (["nowhere", "--seed", "-1"], 2, "--seed is '-1'"),
        (["nowhere", "--temperature", "-1"], 2, "temperature is -1"),
        (["nowhere", "--temperature", "nan"], 2, "temperature is nan"),
        (["nowhere", "--temperature", "warm"], 2, "--temperature is 'warm'"),
        (["nowhere", "--top-k", "0"], 2, "--top-k is '0'"),
        (["nowhere", "--top-p", "0"], 2, "top_p is 0"),
        (["nowhere", "--top-p", "1.1"], 2, "top_p is 1.1"),
    ],
)
def test_fault_29_a_wrong_command_is_one_sentence(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_one_sentence(["generate", *arguments], code, said, capsys)


@pytest.mark.faults
def test_fault_29_a_model_of_something_else_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("prefill", "step"):  # as of a network that writes something else
        monkeypatch.setattr(MLP, method, None, raising=False)
    for model in ("mlp", "word2vec", "transformer"):
        train(*SMALL[model], "trainer.max_steps=2", f"run_dir={tmp_path / model}")
        assert main(["generate", str(tmp_path / model)]) == 4
        assert "is no language model; dlref train model=lstm_lm or transformer_lm makes one" in capsys.readouterr().err
