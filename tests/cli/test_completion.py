"""What a shell completes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dlref.cli.arguments import COMMANDS, command_parser
from dlref.cli.completion import complete
from dlref.cli.compose import configs_folder
from dlref.cli.main import main
from tests.conftest import needs_posix

MODELS = sorted(path.stem for path in (configs_folder() / "model").glob("*.yaml"))


def test_commands_options_and_settings_are_completed() -> None:
    assert complete("dlref tr") == ["train", "translate"]
    assert complete("dlref train model=") == [f"model={name}" for name in MODELS]
    assert complete("dlref train mod") == ["model="]
    assert "network.widths=" in complete("dlref train model=mlp network.")
    assert "network.width=" in complete("dlref search model=lstm_lm network.")
    assert "data.env=" in complete("dlref train model=dqn data.")
    assert complete("dlref train model=mlp trainer.max_st") == ["trainer.max_steps="]
    assert complete("dlref evaluate runs/x data.") == ["data.root="]
    assert complete("dlref study gat") == ["gates"]
    assert complete("dlref study gates ste") == ["steps="]
    assert complete("dlref nothing ") == []


@pytest.mark.parametrize("name", COMMANDS)
def test_all_flags_of_every_command_are_completed(name: str) -> None:
    assert complete(f"dlref {name} --") == [flag for flag in command_parser(name).flags() if flag.startswith("--")]


def test_values_of_a_flag_with_choices_are_completed() -> None:
    assert complete("dlref evaluate RUN --sp") == ["--split"]
    assert complete("dlref evaluate RUN --split ") == ["train", "eval", "test"]
    assert complete("dlref evaluate RUN --split=te") == ["--split=test"]
    assert complete("dlref search --sampler t") == ["tpe"]
    assert complete("dlref generate RUN --prompt ") == [], "so that the shell offers files"
    assert complete("dlref evaluate ") == [], "so that the shell offers folders"
    assert complete("dlref evaluate --split test RUN dev") == ["device="]
    assert complete("dlref completion f") == ["fish"]


def test_completion_needs_neither_torch_nor_hydra() -> None:
    code = "import sys; from dlref.cli.main import main; main(['completion', '--words', sys.argv[1]]); "
    code += "sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    for line in ("dlref train model=mlp o", "dlref evaluate RUN --s", "dlref study gates s", "dlref doctor -"):
        assert subprocess.run([sys.executable, "-c", code, line], capture_output=True, timeout=300).returncode == 0, (
            line
        )


def test_the_script_is_that_of_the_users_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = {}
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        scripts[shell] = capsys.readouterr().out
    assert len({*scripts.values()}) == 3
    for path, shell in (("/usr/bin/zsh", "zsh"), ("/opt/fish", "fish"), ("/bin/bash", "bash"), ("/bin/tcsh", "bash")):
        monkeypatch.setenv("SHELL", path)
        assert main(["completion"]) == 0
        assert capsys.readouterr().out == scripts[shell]


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command `dlref` of this Python."""
    file = tmp_path / "dlref"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -m dlref "$@"\n')
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))


@needs_posix
def test_bash_completes_with_the_script(on_path: None) -> None:
    script = """eval "$(dlref completion bash)"
for COMP_LINE in 'dlref train model=dq' 'dlref evaluate x --sp' 'dlref evaluate x --split t'; do
    COMP_POINT=${#COMP_LINE}; _dlref; echo "${COMPREPLY[@]}"
done"""
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines() == ["model=dqn", "--split", "train test"], result.stderr


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_completes_with_the_script(on_path: None) -> None:
    """Its completion widgets need a terminal, so the function is called with what they would set and prints what it adds."""
    script = """function compdef() {}
function compadd() { [[ $1 == -S ]] && shift 2; shift; print -rl -- $@ }
eval "$(dlref completion zsh)"
words=(dlref train model=dq); CURRENT=3; PREFIX=model=dq; _dlref
words=(dlref evaluate x --sp); CURRENT=4; PREFIX=--sp; _dlref"""
    result = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, timeout=300)
    assert result.stdout.split() == ["model=dqn", "--split"], result.stderr


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes_with_the_script(on_path: None) -> None:
    script = "dlref completion fish | source; complete -C 'dlref train model=dq'; complete -C 'dlref evaluate x --sp'"
    result = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines() == ["model=dqn", "--split"], result.stderr
