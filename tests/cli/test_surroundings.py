"""Where a command may be started: without standard streams, in an ASCII locale, by a user whom the system does not know."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dlref.cli.main import main
from dlref.data.download import user_cache
from dlref.errors import ConfigError
from dlref.training.checkpoint import find
from tests.conftest import ROOT, SMALL, first, needs_linux, needs_posix
from tests.faults.processes import Child, Dlref

StartChild = Callable[..., Child]
SMALL_RUN = ["train", *SMALL["mlp"], "device=cpu", "threads=1", "trainer.max_steps=3", "trainer.log_every=1"]


class Closed:
    """`dlref …` as a shell starts it with `<&- >&- 2>&-`, or some of these; then something writes where each would be."""

    def __init__(self, closed: list[int], *arguments: str) -> None:
        self.closed, self.run = closed, Dlref(*arguments)

    def __call__(self) -> int:
        for number in self.closed:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)
        code = self.run()
        for number in self.closed:
            os.write(number, b"a library's message")
        return code


@needs_posix
@pytest.mark.parametrize("closed", first([0, 1, 2], of=[[2], [1], [1, 2], [0, 1, 2]]))
def test_what_is_said_to_a_closed_stream_gets_into_no_file(
    closed: list[int], child: StartChild, tmp_path: Path
) -> None:
    code, _ = child(action=Closed(closed, *SMALL_RUN, "run_dir=run")).ended()
    assert code == 0
    find(tmp_path / "run")  # every byte is as the manifest says
    assert len([json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]) == 4
    assert child(action=Closed(closed, "evaluate", "run")).ended()[0] == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["split"] == "test"
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"a library's message" not in path.read_bytes()


@needs_posix
@pytest.mark.parametrize("line", ["list", "list nothing", "--help", "compare nowhere", "completion"])
def test_commands_of_a_shell_end_as_ever_with_closed_streams(line: str) -> None:
    command = f'"{sys.executable}" -m dlref {line}'
    for closed in ("2>&-", ">&-", ">&- 2>&- <&-"):
        ended = subprocess.run(f"{command} {closed}", shell=True, capture_output=True, timeout=60, cwd=ROOT)
        assert ended.returncode == {"list nothing": 2, "compare nowhere": 4}.get(line, 0), ended.stderr
        assert b"Traceback" not in ended.stderr


def unknown_user() -> None:
    """As a container that starts with a number for a user: no entry in passwd, and no variable that names one."""
    import getpass
    import pwd

    def no_entry(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    pwd.getpwuid = no_entry  # type: ignore[assignment]
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "DLREF_DATA", "DLREF_CACHE", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    tempfile.tempdir = os.getcwd()


ON_TEXT = ["train", *SMALL["lstm_lm"], "data=text", "data.train=text", "device=cpu", "trainer.max_steps=1", "~reports"]


@needs_linux
@pytest.mark.parametrize(
    "line",
    [
        pytest.param([*SMALL_RUN, "run_dir=run"], id="train"),
        pytest.param(["doctor"], id="doctor", marks=pytest.mark.slow),
        pytest.param(ON_TEXT, id="train on text", marks=pytest.mark.slow),
    ],
)
def test_a_user_whom_the_system_does_not_know(line: list[str], child: StartChild, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("one two three\n" * 500)
    code, said = child(*line, hurt=unknown_user).ended()
    assert code == 0, said
    assert "Traceback" not in said
    assert "failed: " not in said
    assert (tmp_path / f"dlref-{os.getuid()}" / "ids").exists() == ("data=text" in line)


@needs_posix
def test_a_folder_of_somebody_else_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: str) -> None:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("pooch.os_cache", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert user_cache() == tmp_path / f"dlref-{os.getuid()}"
    user_cache().mkdir()
    assert user_cache().exists()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "dlref-12345").mkdir()
    with pytest.raises(ConfigError, match="set HOME"):
        user_cache()


def test_a_process_ends_its_pools_before_it_ends() -> None:
    """As joblib registers them; its processes would wait five minutes for more work, and the command for them."""
    code = (
        "import sys, threading; from dlref.cli.main import leave; threading._register_atexit(print, 'ended'); leave(3)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (3, "ended\n")


LATIN = os.fsdecode(b"f\xf6r")


@pytest.mark.parametrize(
    "line",
    [
        ["train", "model=mlp", f"goal={LATIN}"],
        ["train", "model=mlp", "--config-dir", LATIN],
        ["train", f"resume={LATIN}"],
        ["train", "-m", "model=mlp", f"goal={LATIN}"],
        ["evaluate", LATIN],
        ["evaluate", "nowhere", f"data.file={LATIN}"],
        ["generate", "nowhere", "--prompt", LATIN],
        ["predict", LATIN, LATIN],
        ["neighbors", "nowhere", LATIN],
        ["compare", LATIN],
        ["study", "gates", f"words={LATIN}"],
        ["list", LATIN],
        [LATIN],
        ["train", f"--{LATIN}"],
    ],
    ids=ascii,
)
def test_bytes_of_another_encoding_are_a_sentence(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line) in (2, 3, 4)
    out, said = capsys.readouterr()
    assert len(said.splitlines()) == 1
    assert not out
    assert not os.listdir(tmp_path)


def test_text_is_what_was_typed_where_the_locale_is_ascii(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """There Python hands over the bytes of UTF-8 one by one."""
    from dlref.cli.arguments import text

    assert text("für ö".encode().decode("ascii", "surrogateescape")) == "für ö"
    assert text("für") == "für"
    (tmp_path / "words.txt").write_text("2 1\nfür 1\nö 2\n", encoding="utf-8")
    words = ["für".encode().decode("ascii", "surrogateescape")]
    assert main(["neighbors", str(tmp_path / "words.txt"), *words]) == 0
    assert "ö" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["generate X", "translate X a.de", "predict X a.csv", "neighbors X king", "play X"])
def test_a_device_that_is_not_there_is_answered_by_every_command(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line.split(), "--device=gpu"]) == 2
    assert "device=gpu is unknown; write auto, cpu" in capsys.readouterr().err
