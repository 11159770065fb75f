"""Plug-ins: files and packages, what is said where they fail, and what is known of their source."""

import inspect
import itertools
import json
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dlref
from dlref import config_check, interfaces, plugins
from dlref.cli import run_training as training
from dlref.cli.compose import load_plugins
from dlref.cli.main import main
from dlref.data.supervised.spiral import Spiral
from dlref.errors import ConfigError, DataError
from tests.conftest import SMALL

Train = Callable[..., tuple[int, str]]
NET = """
from dlref.models.mlp import MLP
class Net(MLP):
    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, [3])
"""
USE = ["model=mlp", "~network.widths", "~reports", "trainer.max_steps=2"]


@pytest.fixture(autouse=True)
def fresh_modules(tmp_path: Path) -> Iterator[None]:
    """Each test has plug-ins of the same names."""
    path, loaded = list(sys.path), set(plugins.loaded)
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = path
    plugins.loaded.clear()
    plugins.loaded.update(loaded)


def package(folder: Path, init: str = "from .layers import Net\n") -> Path:
    """A package `mynets` with the network in a module of it, which imports from another one."""
    home = folder / "mynets"
    home.mkdir()
    (home / "__init__.py").write_text(init)
    (home / "layers.py").write_text("from . import sizes\n" + NET.replace("[3]", "[sizes.WIDTH]"))
    (home / "sizes.py").write_text("WIDTH = 5\n")
    return home


@pytest.mark.parametrize("named", ["mynets", "mynets/", "mynets/__init__.py"])
def test_a_package_is_a_plug_in(named: str, train: Train, tmp_path: Path) -> None:
    package(tmp_path)
    line = [*USE, f"plugins={tmp_path / named}" + "/" * named.endswith("/")]
    code, said = train(*line, "network._target_=mynets.Net", f"run_dir={tmp_path / 'run'}")
    assert code == 0, said
    assert main(["evaluate", str(tmp_path / "run"), f"plugins={tmp_path / named}"]) == 0
    assert dlref.load(tmp_path / "run", ["mynets"]).layers[0].out_features == 5


def test_a_module_of_a_package_is_imported_by_its_name(tmp_path: Path) -> None:
    package(tmp_path, init="")
    names = load_plugins([str(tmp_path / "mynets")])
    assert config_check.resolve("mynets.layers.Net", "network", names).__name__ == "Net"
    with pytest.raises(ConfigError, match="refused"):
        config_check.resolve("mynets.layers.sizes.sys", "network", names)
    (tmp_path / "mynets" / "__main__.py").write_text("raise SystemExit\n")
    with pytest.raises(ConfigError, match="refused"):
        config_check.resolve("mynets.__main__.Net", "network", names)


def test_a_plug_in_may_pass_on_classes_from_beside_it_and_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text(NET)
    (tmp_path / "passing.py").write_text(
        "from beside_it import Net\nfrom torch.nn import Linear\nfrom os import _Environ\n"
    )
    names = load_plugins([str(tmp_path / "passing.py")])
    assert config_check.resolve("passing.Net", "network", names).__module__ == "beside_it"
    assert config_check.resolve("passing.Linear", "network", names).__name__ == "Linear"
    with pytest.raises(ConfigError, match="not a class for network"):
        config_check.resolve("passing._Environ", "network", names)
    with pytest.raises(ConfigError, match="names no class of"):
        config_check.resolve("beside_it.Net", "network", names)


def test_what_data_lack_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "lacking.py").write_text("class Mine:\n    unit = 'rows'\n    def has(self, split): return True\n")
    names = load_plugins([str(tmp_path / "lacking.py")])
    with pytest.raises(ConfigError) as found:
        config_check.resolve("lacking.Mine", "data", names)
    lacking = "batches, batches_per_epoch, describe, load_state_dict, sizes, state_dict, train_batches, units_per_batch"
    assert f"data Mine lacks {lacking};" in str(found.value)


FAILING = {
    "as it loads": (
        "import dlref\n\nundefined\n",
        2,
        "NameError: name 'undefined' is not defined ({}, line 3, in <module>)",
    ),
    "as it exits": ("import sys\nsys.exit(3)\n", 2, "does not load: SystemExit: 3 ({}, line 2, in <module>)"),
    "as it is parsed": ("def (\n", 2, "line 1"),
    "as it is made, by a mistake": (
        NET + "        self.width = {}['width']\n",
        2,
        "({}, line 6, in __init__) refuses its settings",
    ),
    "as it is made": (
        NET + "        undefined\n",
        1,
        "{}, line 6, in __init__: NameError: name 'undefined' is not defined; ",
    ),
    "as it computes": (NET + "    def forward(self, x): return x @ x\n", 1, "{}, line 6, in forward: RuntimeError: "),
    "as it asks a tuple": (
        NET + "    def forward(self, x):\n        from os import times\n        return times().width\n",
        1,
        "{}, line 8, in forward: AttributeError: ",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_where_a_plug_in_fails_is_said_in_one_sentence(case: str, train: Train, tmp_path: Path) -> None:
    source, expected, sentence = FAILING[case]
    file = tmp_path / "failing.py"
    file.write_text(source)
    line = [*USE, f"plugins={file}", "network._target_=failing.Net", f"run_dir={tmp_path / 'run'}"]
    code, said = train(*line)
    assert code == expected, said
    assert sentence.replace("{}", str(file), 1) in said.splitlines()[-1]
    assert "Traceback" not in said


def test_the_whole_traceback_is_there_for_who_asks(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLREF_TRACEBACK", "1")
    (tmp_path / "failing.py").write_text(FAILING["as it computes"][0])
    with pytest.raises(RuntimeError):
        train(*USE, f"plugins={tmp_path / 'failing.py'}", "network._target_=failing.Net", f"run_dir={tmp_path / 'run'}")


OBJECTIVE = """
from typing import Protocol
from dlref.metrics import Mean
from dlref.objectives import Objective
class Words(Protocol):
    words: list
class Typed(Objective[Words]):
    def forward(self, batch):
        return {}
class Mine(Objective):
    def forward(self, batch):
        LINE
"""


@pytest.mark.parametrize(
    ("name", "line", "expected", "sentence"),
    [
        ("Typed", "batch.words", 2, "objective Typed reads words of a batch, and data Spiral give inputs, targets"),
        ("Mine", "batch.words", 1, "mine.py, line 12, in forward: AttributeError: 'Examples' object has no"),
        ("Mine", "return {'nll': Mean(self.net(batch.inputs).sum(), 1)}", 2, "objective Mine gives no 'loss'"),
    ],
)
def test_an_objective_that_reads_what_the_data_lack_is_refused_or_named_with_its_line(
    name: str, line: str, expected: int, sentence: str, train: Train, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(OBJECTIVE.replace("LINE", line))
    typed = ["model=mlp", f"objective._target_=mine.{name}", f"plugins={tmp_path / 'mine.py'}"]
    code, said = train(*typed, "~reports", "trainer.max_steps=2", f"run_dir={tmp_path / 'run'}")
    assert code == expected, said
    assert sentence in said


def test_figures_that_are_numbers_of_numpy_or_torch_are_numbers(train: Train, tmp_path: Path) -> None:
    source = OBJECTIVE.replace("LINE", "loss = self.net(batch.inputs).square().sum()")
    source += "        return {'loss': Mean(loss, np.int64(len(batch.inputs))), 'one': Mean(np.float32(3), 3)}\n"
    source += (
        "    def summarize(self, totals):\n        return {'half': np.float32(0.5), 'third': torch.tensor(0.25)}\n"
    )
    (tmp_path / "mine.py").write_text("import numpy as np, torch\n" + source)
    typed = ["model=mlp", "objective._target_=mine.Mine", f"plugins={tmp_path / 'mine.py'}", "~reports"]
    typed += ["trainer.max_steps=3", "trainer.log_every=2", "trainer.monitor=null", f"run_dir={tmp_path / 'run'}"]
    code, said = train(*typed)
    assert code == 0, said
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["half"], line["third"]) for line in logged] == [(0.5, 0.25)] * 3
    assert train(f"resume={tmp_path / 'run'}", f"plugins={tmp_path / 'mine.py'}", "trainer.max_steps=5")[0] == 0


def test_fewer_rows_than_ranks_are_refused_with_both_numbers() -> None:
    data = Spiral(points=1, classes=3, batch_size=8)
    with pytest.raises(ConfigError, match=r"data\.batch_size is 1: 1 rows for 2 ranks"):
        training.require_rows({"data": {"batch_size": 1}}, data, 2)
    with pytest.raises(DataError, match="the data have 3 rows to train on for 4 ranks"):
        training.require_rows({"data": {"batch_size": 8}}, data, 4)
    for ranks in (1, 3):
        training.require_rows({"data": {"batch_size": 8}}, data, ranks)


def changed(file: Path) -> None:
    """Of the same length."""
    text = file.read_text()
    file.write_text(text[:-1] + (" " if text.endswith("\t") else "\t"))


def test_other_source_is_warned_of(train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, helper = tmp_path / "hashed.py", tmp_path / "helping.py"
    file.write_text("import helping\n" + NET)
    helper.write_text("import json\n")
    (tmp_path / "unused.py").write_text("")
    typed, run = f"plugins={file}", tmp_path / "run"
    assert train(*USE, typed, "network._target_=hashed.Net", f"run_dir={run}")[0] == 0
    about = json.loads((run / "run.json").read_text())["plugins"]
    assert set(about) == {"hashed"}
    assert len(about["hashed"]["sha256"]) == 64

    def warned(action: Callable[[], Any]) -> bool:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dlref"):
            action()
        return any("the source of plug-in hashed has changed" in text for text in caplog.messages)

    steps = itertools.count(3)
    uses: list[Callable[[], Any]] = [
        lambda: main(["evaluate", str(run), typed]),
        lambda: dlref.load(run, ["hashed"]),
        lambda: train(f"resume={run}", typed, f"trainer.max_steps={next(steps)}"),
    ]
    changed(tmp_path / "unused.py")
    assert [warned(use) for use in uses] == [False] * 3
    changed(helper)
    assert [warned(use) for use in uses] == [True] * 3
    assert not warned(uses[0])  # the resumed run has saved with the new source
    changed(file)
    assert warned(uses[0])


def test_the_commit_of_a_plug_in_is_that_of_its_repository(tmp_path: Path) -> None:
    from dlref.training.run import commit_of, plugin_facts

    package(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    names = load_plugins([str(tmp_path / "mynets")])
    clean = plugin_facts(names)["mynets"]
    assert clean["git_commit"] == commit_of(tmp_path)
    assert not str(clean["git_commit"]).endswith("-dirty")
    changed(tmp_path / "mynets" / "sizes.py")
    dirty = plugin_facts(names)["mynets"]
    assert dirty["git_commit"] == f"{clean['git_commit']}-dirty"
    assert dirty["sha256"] != clean["sha256"]


def test_small_models_have_no_plug_ins(trained: Callable[..., Path]) -> None:
    run = trained(*SMALL["mlp"], "~reports", "trainer.max_steps=2")
    assert json.loads((run / "run.json").read_text())["plugins"] == {}


PAGE = Path(__file__).resolve().parents[2] / "docs" / "own_model.md"
NAMED = re.compile(r"`([\w./]+)`:\n\n```\w+\n(.*?)```\n", re.DOTALL)
BLOCK = re.compile(r"```(\w+)\n(.*?)```\n", re.DOTALL)


def files_of_the_page(folder: Path) -> None:
    """Write each block of code that follows the name of its file."""
    for name, content in NAMED.findall(PAGE.read_text(encoding="utf-8")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def commands_of_the_page() -> list[list[str]]:
    blocks = [content for language, content in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if language == "sh"]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if "needs MNIST" not in line]


def test_the_code_and_the_commands_of_the_page_on_models_of_your_own_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files_of_the_page(tmp_path)
    commands = commands_of_the_page()
    assert {command[0] for command in commands} == {"list", "train", "evaluate", "generate"}
    for command in commands:
        few = []
        if command[0] == "train":  # steps; a run that is resumed takes some more
            few = ["device=cpu", f"trainer.max_steps={4 if 'resume=runs/maxout' in command else 2}"]
            few += ["network.hidden=4"] if "model=neural_ngram" in command else []
        assert main([*command, *few]) == 0, f"{command}: {capsys.readouterr().err}"
    said = capsys.readouterr().out
    assert "maxout             Maxout network on the spiral." in said
    assert "the function" in said
    for language, content in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python" and "dlref.load" in content:
            exec(content, {})


def test_the_language_model_of_the_page_predicts_alike_token_by_token_and_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files_of_the_page(tmp_path)
    load_plugins(["neural_ngram.py"])
    net = sys.modules["neural_ngram"].NeuralNGram(vocab_size=11, context=7, width=3, hidden=5, order=3)
    tokens = torch.randint(11, (2, 7))
    state = net.prefill(tokens[:, :2])
    for t, expected in enumerate(net(tokens)[0][:, 2:].unbind(dim=1)):
        logits, state = net.step(state, tokens[:, 2 + t])
        torch.testing.assert_close(logits, expected)


def test_the_page_lists_every_interface_of_networks_and_data() -> None:
    rows = [row.split("|")[1] for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    every = {
        name for name, cls in vars(interfaces).items() if inspect.isclass(cls) and issubclass(cls, interfaces.Interface)
    }
    assert listed == every - {"Interface", "Decoder"}  # the base classes of others
