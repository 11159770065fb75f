"""Data of one's own: the commands that follow a training find them again, and a checkpoint names nothing else."""

import inspect
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import dlref
from dlref.cli.compose import configured
from dlref.cli.main import main
from dlref.cli.recorded import found_again
from dlref.cli.run_training import hyperparameters
from dlref.data.supervised.spiral import Spiral
from dlref.models.mlp import MLP
from dlref.objectives.supervised import Classification
from dlref.optimizers import schedules
from dlref.training.checkpoint import find, manifest_digest
from dlref.training.trainer import Trainer
from tests.conftest import assert_one_sentence, needs_posix

Train = Callable[..., tuple[int, str]]
TABLE = [
    "model=mlp",
    "network.widths=[4]",
    "data=table",
    "data.targets=[y]",
    "data.task=classification",
    "reports=null",
]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table in the current folder, with a name that a shell reads otherwise."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my rows (1) & 'more' $x.csv"
    file.write_text("x,y\n" + "\n".join(f"{i % 7},{i % 2}" for i in range(50)))
    return file


def printed_command(said: str) -> list[str]:
    """The last `dlref …` in what was said, as a shell reads it."""
    [*_, line] = re.findall(r"dlref ((?:train|evaluate) .*?)(?:  ·  .*)?$", said, re.MULTILINE)
    return shlex.split(line)


def test_the_command_that_training_prints_works(
    rows: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file was named from the folder where training began, and is found from another one."""
    code, said = train(*TABLE, f"data.file={rows.name}", "trainer.max_steps=2", f"run_dir={tmp_path / 'my run'}")
    assert code == 0, said
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for command in (printed_command(said), ["train", f"resume={tmp_path / 'my run'}", "trainer.max_steps=3"]):
        assert main(command) == 0
        assert f"data.file={rows}, as the run has recorded it (add --no-recorded-paths" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "my run")]) == 0  # after it was resumed, too


@pytest.mark.slow
def test_a_code_for_missing_values_is_the_same_however_it_is_given(
    rows: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a file of configs a number, on the command line text; and as an older checkpoint has it, a number."""
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "mine.yaml").write_text("defaults: [table]\nna_values: [-999.0, NA]\n")
    run, line = (
        tmp_path / "run",
        [*TABLE[:2], "data=mine", *TABLE[3:], f"data.file={rows.name}", f"run_dir={tmp_path}/run"],
    )
    code, said = train(*line, "--config-dir", "conf", "trainer.max_steps=1")
    assert code == 0, said
    for codes in ("[-999,NA]", "[-999.0,NA]", "['-999',NA]"):
        assert main(["evaluate", str(run), f"data.na_values={codes}"]) == 0, capsys.readouterr().err
        resumed = ["train", f"resume={run}", f"data.na_values={codes}", "--config-dir", "conf", "trainer.max_steps=1"]
        assert main(resumed) == 0, capsys.readouterr().err
        for file in {path.resolve() for path in run.glob("checkpoints/*/manifest.json")}:
            manifest = json.loads(file.read_text())
            manifest["config"]["data"]["na_values"] = [-999, "NA"]
            del manifest["sha256"]
            file.write_text(json.dumps(manifest | {"sha256": manifest_digest(manifest)}))
    assert main(["evaluate", str(run), "data.na_values=[-99,NA]"]) == 2
    assert "was ['-999', 'NA'] in training and is ['-99', 'NA']" in capsys.readouterr().err


def test_the_command_that_is_printed_after_a_signal_names_folders_of_configs(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my configs"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\nnetwork: {widths: [4]}\n")
    step = Trainer.step

    def stopped(self: Trainer, *arguments: Any) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments)

    settings = ["model=mlp", "experiment=mine", "reports=null", "--config-dir", folder.name, "run_dir=run"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopped)
        code, said = train(*settings, "trainer.max_steps=5")
    assert code == 143
    assert printed_command(said) == ["train", "--config-dir", folder.name, "resume=run"]
    assert main(printed_command(said)) == 0


@pytest.mark.parametrize("command", [["evaluate", "run"], ["train", "resume=run", "trainer.max_steps=3"]])
def test_a_recorded_path_that_is_not_read_is_typed_by_the_command_that_is_printed(
    command: list[str], rows: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*TABLE, f"data.file={rows.name}", "trainer.max_steps=2", "run_dir=run")[0] == 0
    assert main([*command, "--no-recorded-paths"]) == 2
    said = capsys.readouterr().err
    assert "which a checkpoint may not set; type it again: dlref" in said
    assert sorted(printed_command(said)) == sorted([*command, "--no-recorded-paths", f"data.file={rows.name}"])
    assert main(printed_command(said)) == 0
    capsys.readouterr()
    moved = rows.rename(tmp_path / "moved.csv")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "is no file or folder here; type where it is" in said
    assert main([part.replace("PATH", str(moved)) for part in printed_command(said)]) == 0


def test_all_paths_that_are_to_be_typed_are_in_one_command(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b", "c,d"):
        (tmp_path / name).write_text("x,y\n" + "\n".join(f"{i % 7},{i % 2}" for i in range(50)))
    files = ["data.file=a b", "data.test_file=c,d"]
    assert train(*TABLE, *files, "trainer.max_steps=2", "run_dir=run")[0] == 0
    for command in (["evaluate", "run"], ["train", "resume=run", "trainer.max_steps=3"]):
        assert main([*command, "--no-recorded-paths"]) == 2
        again = printed_command(capsys.readouterr().err)
        assert set(files) <= set(again)
        assert main(again) == 0
        capsys.readouterr()


NETWORK = """
from pathlib import Path
from dlref.models.mlp import MLP

class Named(MLP):
    def __init__(self, inputs: int, outputs: int, widths: list[int], names: Path) -> None:
        super().__init__(inputs, outputs, widths)
        Path(names).read_text()
"""


def test_a_path_of_a_network_is_typed_by_the_command_that_is_printed(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named.py").write_text(NETWORK)
    (tmp_path / "names.txt").write_text("a name")
    settings = [
        "model=mlp",
        "data.points=20",
        "plugins=named.py",
        "network._target_=named.Named",
        "+network.names=names.txt",
    ]
    code, said = train(*settings, "trainer.max_steps=2", "run_dir=run")
    assert code == 0, said
    assert main(["evaluate", "run", "plugins=named.py"]) == 2
    again = printed_command(capsys.readouterr().err)
    assert "network.names=names.txt" in again
    assert main(again) == 0


def test_of_a_machine_only_files_and_folders_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    base = str(tmp_path)
    assert found_again("a", base) == str(tmp_path / "a")
    assert found_again(["a", "."], base) == [str(tmp_path / "a"), str(tmp_path)]
    for recorded in (
        "b",
        ["a", "b"],
        {"one": "a", "others": [{"two": "b"}]},
        "a\0b",
        "a" * 5000,
        "//server/a",
        "\\\\server\\a",
        "~nobody_of_this_name/a",
    ):
        assert found_again(recorded, base) is None, recorded
    nest = {"one": "a", "others": [{"two": "."}], "none": None, "rows": 3}
    assert found_again(nest, base) == {"one": f"{base}{os.sep}a", "others": [{"two": base}], "none": None, "rows": 3}
    assert found_again("a", r"\\server") is None
    assert found_again(str(tmp_path / "a"), 3) == str(tmp_path / "a")


@needs_posix
def test_what_a_reader_would_wait_for_is_not_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for recorded in ("pipe", "link", "/dev/zero", "/dev/stdin", "/dev", "/proc/self/environ", "/proc/../dev/tty"):
        assert found_again(recorded, str(tmp_path)) is None, recorded


NESTED = """
from collections.abc import Mapping
from pathlib import Path
from dlref.data.supervised.spiral import Spiral

class Nested(Spiral):
    def __init__(self, files: Mapping[str, Path | list[dict[str, Path]]], batch_size: int = 5, seed: int = 0) -> None:
        super().__init__(20, batch_size=batch_size, seed=seed)
        for file in (files["train"], files["others"][0]["test"]):
            Path(file).read_text()
"""


@pytest.mark.parametrize("form", ["whole", "parts"])
@pytest.mark.parametrize("command", [["evaluate", "run"], ["train", "resume=run", "trainer.max_steps=3"]])
def test_recorded_paths_in_mappings_and_lists_are_paths_too(
    command: list[str],
    form: str,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_nested.py").write_text(NESTED)
    monkeypatch.setitem(sys.modules, "my_nested", None)  # so that what is loaded now is unloaded at the end
    del sys.modules["my_nested"]
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).touch()
    settings = ["model=mlp", "network.widths=[4]", "data._target_=my_nested.Nested", "reports=null", "run_dir=run"]
    parts = ["data.files.train=a.csv", "data.files.others=[{test:b.csv}]"]
    files = ["data.files={train:a.csv,others:[{test:b.csv}]}"] if form == "whole" else parts
    code, said = train(*settings, *files, "plugins=my_nested.py", "trainer.max_steps=2")
    assert code == 0, said
    command = [*command, "plugins=my_nested.py"]

    assert main([*command, "--no-recorded-paths"]) == 2
    said = capsys.readouterr().err
    assert "which a checkpoint may not set" in said
    assert main(printed_command(said)) == 0
    capsys.readouterr()

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = [
        part.replace("=", "=../") if part.startswith("plugins") else part.replace("run", "../run") for part in command
    ]
    assert main(there) == 0
    assert str(tmp_path / "b.csv") in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)

    (tmp_path / "a.csv").unlink()
    assert main(command) == 2
    again = [part.replace("PATH", "c.csv") for part in printed_command(capsys.readouterr().err)]
    assert main(again) == 0
    assert main([*command, "data.files.train=c.csv"]) == 0


def test_code_is_never_found_again_but_the_command_names_it(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin = tmp_path / "my_recorded_net.py"
    plugin.write_text(
        "from torch import Tensor, nn\nprint('it ran')\n\nclass Net(nn.Linear):\n"
        "    def __init__(self, inputs: int, outputs: int) -> None:\n        super().__init__(inputs, outputs)\n"
    )
    settings = ["model=mlp", "~network.widths", "network._target_=my_recorded_net.Net", "reports=null"]
    code, said = train(*settings, f"plugins={plugin.name}", "trainer.max_steps=2", "run_dir=run")
    assert code == 0
    assert "next: dlref evaluate run plugins=my_recorded_net.py  ·" in said
    monkeypatch.delitem(sys.modules, "my_recorded_net")
    for command, code in ((["evaluate", "run"], 4), (["train", "resume=run", "trainer.max_steps=3"], 2)):
        capsys.readouterr()
        assert main(command) == code
        out, said = capsys.readouterr()
        assert "it ran" not in out
        assert "code that a checkpoint may not bring: if you trust it" in said
        assert printed_command(said) == [*command, "plugins=my_recorded_net.py"]
        assert main(printed_command(said)) == 0
        monkeypatch.delitem(sys.modules, "my_recorded_net")


def test_a_root_that_was_recorded_is_used_again(train: Train, tmp_path: Path, datasets: Path) -> None:
    run = tmp_path / "run"
    settings = ["model=mlp", "data=mnist", "network.widths=[4]", "trainer.max_steps=2", "reports=null"]
    assert train(*settings, f"data.root={datasets}", f"run_dir={run}")[0] == 0
    code, said = train(f"resume={run}", "trainer.max_steps=3")
    assert code == 0
    assert f"data.root={datasets}, as the run has recorded it" in said
    code, said = train(f"resume={run}", "trainer.max_steps=4", "--no-recorded-paths")
    assert code == 2
    assert printed_command(said)[-1] == f"data.root={datasets}"


@pytest.mark.parametrize(
    "path", [r"\\evil\share\x", "//evil/share/x", r"/\evil\share\x", r"\/evil/share/x", r"\??\UNC\evil\x"]
)
def test_a_server_is_never_asked_for_a_recorded_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("the server is asked")

    monkeypatch.setattr(Path, "resolve", asked)
    assert found_again(path, None) is None


def test_what_was_set_by_a_reference_is_resumed_with_the_value_that_it_had(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLREF_TEST_POINTS", "40")
    run = f"run_dir={tmp_path / 'run'}"
    typed = ["model=mlp", "data.points=${oc.decode:${oc.env:DLREF_TEST_POINTS}}", "goal=costs ${ 5", "~reports", run]
    code, said = train(*typed, "trainer.max_steps=2", "trainer.monitor=null")
    assert code == 0, said
    monkeypatch.delenv("DLREF_TEST_POINTS")
    code, said = train(f"resume={tmp_path / 'run'}", "trainer.max_steps=3")
    assert code == 0, said
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["data"]["points"], config["goal"]) == (40, "costs ${ 5")


def change_default(monkeypatch: pytest.MonkeyPatch, cls: type, **values: Any) -> None:
    """As if a later version of dlref had these defaults."""
    init: Any = cls.__init__
    changed = [
        values.get(name, p.default)
        for name, p in inspect.signature(init).parameters.items()
        if p.default is not p.empty
    ]
    monkeypatch.setattr(init, "__defaults__", tuple(changed))


SPIRAL = ["model=mlp", "schedule=constant", "network.widths=[8]", "data.points=30", "~reports", "trainer.monitor=null"]


def weights_of(run: Path) -> Any:
    return torch.load(run / "checkpoints" / "last" / "weights.pt", weights_only=True)


def test_what_was_recorded_holds_where_a_default_has_changed_since(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, uninterrupted = tmp_path / "run", tmp_path / "uninterrupted"
    assert train(*SPIRAL, "trainer.max_steps=4", f"run_dir={uninterrupted}")[0] == 0
    assert train(*SPIRAL, "trainer.max_steps=2", f"run_dir={run}")[0] == 0
    inputs = torch.randn(5, 2)
    assert main(["evaluate", str(run)]) == 0
    before, outputs = capsys.readouterr().out, dlref.load(run)(inputs)
    change_default(monkeypatch, MLP, activation="tanh")
    change_default(monkeypatch, Spiral, noise=0.9)
    assert configured(SPIRAL)["network"]["activation"] == "tanh"
    assert main(["evaluate", str(run)]) == 0
    assert capsys.readouterr().out == before
    torch.testing.assert_close(dlref.load(run)(inputs), outputs, rtol=0, atol=0)
    code, said = train(f"resume={run}", "trainer.max_steps=4")
    assert code == 0, said
    for name, weight in weights_of(uninterrupted).items():
        torch.testing.assert_close(weights_of(run)[name], weight, rtol=0, atol=0)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["network"]["activation"], config["data"]["noise"]) == ("relu", 0.2)


def test_the_whole_command_line_again_resumes_what_was_recorded(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*SPIRAL, f"run_dir={tmp_path / 'run'}", "resume=auto"]
    assert train(*line, "trainer.max_steps=2")[0] == 0
    change_default(monkeypatch, MLP, activation="tanh")
    code, said = train(*line, "trainer.max_steps=3")
    assert code == 0, said
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["network"]["activation"] == "relu"


def test_typed_settings_replace_recorded_ones_and_a_group_is_switched_with_its_defaults(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert train(*SPIRAL, "trainer.max_steps=2", "objective.label_smoothing=0.1", f"run_dir={run}")[0] == 0
    then = yaml.safe_load((run / "config.yaml").read_text())
    change_default(monkeypatch, schedules.Linear, final=0.25)
    change_default(monkeypatch, Classification, max_norm=9.0, adversarial=0.5)
    code, said = train(
        f"resume={run}", "trainer.max_steps=3", "schedule=linear", "objective.max_norm=2.0", "optimizer.lr=0.5"
    )
    assert code == 0, said
    now = yaml.safe_load((run / "config.yaml").read_text())
    assert now["schedule"] == {"_target_": "dlref.optimizers.schedules.Linear", "warmup": 0.0, "final": 0.25}
    assert now["objective"] == then["objective"] | {"max_norm": 2.0}
    assert now["optimizer"] == then["optimizer"] | {"lr": 0.5}
    assert now["trainer"] == then["trainer"] | {"max_steps": 3}
    assert {key: now[key] for key in ("data", "network", "seed")} == {
        key: then[key] for key in ("data", "network", "seed")
    }


def test_a_config_file_that_has_changed_since_does_not_change_a_run(train: Train, tmp_path: Path) -> None:
    file = tmp_path / "configs" / "optimizer" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("_target_: torch.optim.SGD\nlr: 0.25\n")
    run, folder = tmp_path / "run", ["--config-dir", str(tmp_path / "configs")]
    assert train(*SPIRAL, "optimizer=mine", "trainer.max_steps=2", f"run_dir={run}", *folder)[0] == 0
    file.write_text("_target_: torch.optim.SGD\nlr: 0.5\nmomentum: 0.9\n")
    for typed, lr in (([], 0.25), (["optimizer.lr=0.5"], 0.5)):
        code, said = train(f"resume={run}", f"trainer.max_steps={3 + len(typed)}", *typed, *folder)
        assert code == 0, said
        optimizer = yaml.safe_load((run / "config.yaml").read_text())["optimizer"]
        assert (optimizer["lr"], optimizer["momentum"]) == (lr, 0)


def test_every_setting_is_in_all_that_describes_a_run(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", *SPIRAL, "trainer.max_steps=2", "device=cpu", "threads=1", f"run_dir={tmp_path / 'run'}"]
    assert main([*line, "--cfg", "job"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert not (tmp_path / "run").exists()
    assert main(line) == 0
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert recorded == printed
    assert recorded["objective"]["label_smoothing"] == 0.0
    assert find(tmp_path / "run").manifest["config"] == recorded
    assert hyperparameters(configured(["model=dqn"]))["objective.discount"] == 0.99
    assert main([*line[:-1], f"resume={tmp_path / 'run'}", "trainer.max_steps=5", "--cfg", "job"]) == 0
    resumed = yaml.safe_load(capsys.readouterr().out)
    assert resumed["network"] == recorded["network"]
    assert resumed["trainer"] == recorded["trainer"] | {"max_steps": 5}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("optimizer.lrr=1", "optimizer.lrr is not a setting of AdamW"),
        ("network.widths=3", "network.widths is 3"),
        ("trainer.ema=2", "trainer.ema is 2"),
        ("unknown=1", "'unknown' is not a setting"),
    ],
)
def test_a_config_that_no_run_would_take_is_not_printed(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_one_sentence(["train", "model=mlp", typed, "--cfg", "job"], 2, said, capsys)
