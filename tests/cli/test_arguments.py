"""One grammar of commands: `key=value` sets what a config holds, everything else is a positional or a flag."""

import subprocess
import sys
from pathlib import Path

import pytest

from dlref.cli.arguments import COMMANDS, command_parser
from dlref.cli.main import main
from tests.conftest import assert_one_sentence

NO_TORCH = """
import sys
from dlref.cli.main import main
for line in sys.argv[1:]:
    assert main(line.split()) == 0
sys.exit(str({'torch', 'hydra', 'omegaconf'} & set(sys.modules)) if {'torch', 'hydra', 'omegaconf'} & set(sys.modules) else 0)
"""


def test_help_of_every_command_needs_neither_torch_nor_hydra() -> None:
    lines = ["--help", *(f"{name} --help" for name in COMMANDS)]
    result = subprocess.run([sys.executable, "-c", NO_TORCH, *lines], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert all(f"usage: dlref {name} " in result.stdout for name in COMMANDS)
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_every_flag_and_positional(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "x", "--help"]) == 0
    out = capsys.readouterr().out
    parser = command_parser(name)
    for action in [*parser.positionals(), *parser.flags().values()]:
        assert action.help
        assert all(flag in out for flag in action.option_strings or [str(action.metavar)])
    assert max(map(len, out.splitlines())) <= 110
    assert "examples:\n" in out or name == "doctor"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evaluate RUN split=test", "dlref evaluate: split=test is a flag here: --split test"),
        ("compare RUN metrics=a,b", "dlref compare: metrics=a,b is a flag here: --metrics a,b"),
        ("compare RUN plot=a.png", "plot=a.png is a flag here: --plot a.png"),
        ("search model=mlp trials=3", "trials=3 is a flag here: --trials 3"),
        ("search model=mlp search_dir=x", "search_dir=x is a flag here: --search-dir x"),
        ("predict RUN a.csv decimal=comma", "decimal=comma is a flag here: --decimal comma"),
        ("predict RUN a.csv invert=true", "invert=true is a flag here: --invert"),
        ("predict RUN a.csv decimals=comma", "there is no file decimals=comma; did you mean --decimal comma?"),
        ("predict RUN a.csv device=cpu", "device=cpu is a flag here: --device cpu"),
        ("predict RUN a.csv plugins=my.py", "plugins=my.py is a flag here: --plugins my.py"),
        ("generate RUN top_k=3", "top_k=3 is a flag here: --top-k 3"),
        ("translate RUN beam=4", "beam=4 is a flag here: --beam 4"),
        ("play RUN episodes=3", "episodes=3 is a flag here: --episodes 3"),
        ("neighbors RUN count=3", "count=3 is a flag here: --count 3"),
        ("train --seed 3", "dlref train: --seed is a setting: seed=3"),
        ("train --optimizer.lr=3", "--optimizer.lr is a setting: optimizer.lr=3"),
        ("train --model mlp", "--model is a setting: model=mlp"),
        ("train --resume", "--resume is a setting: resume=VALUE"),
        ("search --lr 3", "--lr is a setting: optimizer.lr=3"),
        ("evaluate RUN --run-dir", "there is no flag --run-dir"),
        ("evaluate RUN --data.root x", "--data.root is a setting: data.root=x"),
        ("evaluate RUN --device cpu", "--device is a setting: device=cpu"),
        ("study gates --steps 3", "--steps is a setting: steps=3"),
        ("study gates --run-dir x", "--run-dir is a setting: run_dir=x"),
    ],
)
def test_the_other_form_is_refused_with_the_right_one(
    line: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(line.split(), 2, said, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "RUN", "--splt", "test"], "there is no flag --splt; did you mean '--split'?"),
        (["evaluate", "RUN", "--spl", "test"], "there is no flag --spl; did you mean '--split'?"),
        (["evaluate", "RUN", "--split", "tets"], "--split is 'tets'; did you mean 'test'?"),
        (["evaluate", "RUN", "--split"], "--split needs a value"),
        (["evaluate"], "RUN is missing; write dlref evaluate RUN key=value …"),
        (
            ["generate", "RUN", "more\nwords"],
            "'more words' is more than dlref generate takes; write dlref generate RUN",
        ),
        (["generate", "RUN", "--unknown=1"], "--unknown takes no value"),
        (["generate", "RUN", "--seed", "-1"], "--seed is '-1'; it takes a whole number from 0"),
        (["generate", "RUN", "--seed="], "--seed is ''; it takes a whole number from 0"),
        (["generate", "RUN", "--seed", "3\n"], "--seed is '3'; it takes"),
        (["generate", "RUN", "--seed", "9" * 5000], "it takes a whole number from 0"),
        (["generate", "RUN", "--" + "x" * 5000], "there is no flag --xxx"),
        (["list", "mdoel"], "did you mean 'model'?"),
        (["study", "gats"], "there is no study 'gats'; did you mean 'gates'?"),
        (["completion", "tcsh"], "there is no shell 'tcsh'"),
    ],
)
def test_a_wrong_word_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, errors = capsys.readouterr()
    assert said in errors
    assert len(errors.splitlines()) == 1
    assert len(errors) < 600
    assert not out


def test_flags_stand_anywhere_and_take_any_value() -> None:
    def parsed(name: str, *words: str) -> dict[str, object]:
        arguments = command_parser(name).parse(words)
        assert arguments is not None
        return vars(arguments)

    found = parsed("generate", "--prompt", "--seed", "--temperature=-1e-3", "RUN", "--seed=7", "--seed", "8")
    assert (found["prompt"], found["temperature"], found["run"], found["seed"]) == ("--seed", -1e-3, "RUN", 8)
    found = parsed("neighbors", "RUN", "king", "-", "man", "--count", "2", "+", "woman", "-1", "--", "count=3", "--x")
    assert found["words"] == ["king", "-", "man", "+", "woman", "-1", "count=3", "--x"]
    assert found["count"] == 2
    found = parsed("train", "model=mlp", "-m", "seed=0,1", "--config-dir", "a", "~reports", "--config-dir=b=c")
    assert found["settings"] == ["model=mlp", "seed=0,1", "~reports"]
    assert (found["multirun"], found["config_dir"], found["cfg"]) == (True, ["a", "b=c"], None)
    assert parsed("evaluate", "a=b", "--split", "eval", "data.root=x")["settings"] == ["data.root=x"]
    assert parsed("train", "--config-dir", "a")["config_dir"] == ["a"], "defaults are not shared"


def test_a_file_may_be_called_as_a_flag_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beam=4").write_text("")
    found = command_parser("translate").parse(["RUN", "beam=4"])
    assert found is not None
    assert found.files == ["beam=4"]
