"""What a config may name and hold, what is said when it may not, and which defaults are filled in."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from types import GenericAlias
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlref import config_check
from dlref.cli.compose import compose, configs_folder, configured, groups, load_plugins
from dlref.errors import ConfigError


@pytest.mark.parametrize(
    ("target", "group"),
    [
        ("os.system", "network"),
        ("builtins.open", "network"),
        ("torch.hub.load", "network"),
        ("torch.nn.Linear", "network"),
        ("torch.optim.optimizer.torch.os.system", "optimizer"),
        ("torch.optim.optimizer.Optimizer", "optimizer"),  # the base class itself
        ("torch.optim.sgd.sgd", "optimizer"),  # a function
        ("dlref.training.run.os.system", "objective"),
        ("dlref.training.run.subprocess.run", "network"),
        ("dlref.cli.main.main", "network"),
        ("dlref.models.mlp.MLP", "objective"),  # at home, but of another kind
        ("dlref.models.mlp.nn.Linear", "network"),
        ("dlref.models.mlp.torch", "network"),
        ("dlref..models", "network"),
        ("dlref", "network"),
        ("", "network"),
        (7, "network"),
        (None, "data"),
    ],
)
def test_a_target_of_another_home_or_kind_is_refused(target: Any, group: str) -> None:
    with pytest.raises(ConfigError, match="refused"):
        config_check.resolve(target, group)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_other_text_is_refused_too(text: str) -> None:
    with pytest.raises(ConfigError):
        config_check.resolve(text, "network")


def test_a_plugin_is_at_home_only_when_named(tmp_path: Path) -> None:
    file = tmp_path / "my_networks.py"
    file.write_text("from torch import nn\nclass Mine(nn.Module):\n    pass\n")
    with pytest.raises(ConfigError, match=r"plugins=FILE\.py"):
        config_check.resolve("my_networks.Mine", "network")
    plugins = load_plugins([str(file)])
    assert config_check.resolve("my_networks.Mine", "network", plugins).__name__ == "Mine"
    with pytest.raises(ConfigError):
        config_check.resolve("my_networks.nn.Linear", "network", plugins)


TABLE = ["model=mlp", "data=table", "data.file=a.csv"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [*TABLE, "data.targets=[y]"],
            "data.task has no value; set data.task=…, which takes regression or classification or multilabel",
        ),
        (TABLE, "data.targets has no value; set data.targets=…, which takes a list of text"),
        (["model=mlp", "data=idx"], "data.folder has no value; set data.folder=…, which takes a path"),
        (["model=mlp", "trainer.precision=???"], "which takes auto or float32 or bf16 or fp16 or float64"),
    ],
)
def test_a_value_that_is_missing_is_asked_for_with_its_choices(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config_check.check(compose(overrides))
    assert said in str(refused.value)


def test_a_setting_that_a_class_needs_and_no_config_names_is_asked_for() -> None:
    config = compose([*TABLE, "data.targets=[y]"])
    del config["data"]["task"]
    said = r"data\.task has no value; .* which takes regression or classification or multilabel"
    with pytest.raises(ConfigError, match=said):
        config_check.check(config)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.targets=label", "data.targets is 'label'; it takes a list of text, as data.targets=[label]"),
        ("data.targets=a b,c", "it takes a list of text, as data.targets=[a b,c]"),
        ("data.inputs=x", "it takes a list of text or null, as data.inputs=[x]"),
        ("data.na_values=-1", "it takes a list of text or numbers, as data.na_values=[-1]"),
        ("network.widths=3", "network.widths is 3; it takes a list of whole numbers, as network.widths=[3]"),
        ("network.widths=200,100", "it takes a list of whole numbers, as network.widths=[200,100]"),
        ("network.widths=[3.5]", "network.widths is [3.5]; it takes a list of whole numbers"),
        ("network.widths=wide", "network.widths is 'wide'; it takes a list of whole numbers"),
        ("optimizer.betas=0.9", "optimizer.betas is 0.9; it takes a list of 2 numbers"),
        ("optimizer.betas=0.9,0.99", "it takes a list of 2 numbers, as optimizer.betas=[0.9,0.99]"),
    ],
)
def test_a_value_that_should_be_a_list_is_shown_as_one(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config_check.check(
            compose([*TABLE, "optimizer=adam", "data.targets=[y]", "data.task=classification", override])
        )
    assert str(refused.value).endswith(said)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (torch.Tensor, "a Tensor"),
        (torch.Tensor | None, "null"),
        (Sequence, "a Sequence"),
        (tuple[int, str], "a list of a whole number, text"),
        (tuple[int, int], "a list of 2 whole numbers"),
        (list, "a list"),
    ],
)
def test_what_a_plug_in_takes_is_spelled_whatever_its_hint(hint: Any, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config_check.check_value("data.x", "???", hint)
    assert str(refused.value) == f"data.x has no value; set data.x=…, which takes {words}"
    config_check.matches([1], hint)


def test_a_negative_number_by_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.x is -1; it takes no negative number"):
        config_check.check_value("data.x", {"a": -1}, dict[str, int])


def test_lists_in_lists_are_shown_as_such() -> None:
    with pytest.raises(
        ConfigError, match=r"it takes a list of lists of whole numbers, as network.blocks=\[\[3, 4\]\]$"
    ):
        config_check.check(compose(["model=cnn", "network.blocks=[3,4]"]))


def test_a_number_that_may_be_text_is_a_code_and_may_be_negative() -> None:
    """As a file of configs has it."""
    config = compose(["model=mlp", "data=table", "data.file=a.csv", "data.targets=[y]", "data.task=regression"])
    config["data"]["na_values"] = [-999, -0.5, "NA"]
    config_check.check(config)
    config["data"]["batch_size"] = -1
    with pytest.raises(ConfigError, match=r"data\.batch_size is -1; it takes no negative number"):
        config_check.check(config)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Sequence[str | float], True),
        (list[float | str] | None, True),
        (Sequence[str], False),
        (GenericAlias(list, ()), False),  # as typing.List, without what it holds
        (str | float, False),
        (Any, False),
    ],
    ids=str,
)
def test_a_list_of_text_or_numbers_is_known_by_its_hint(hint: Any, expected: bool) -> None:
    assert config_check.is_codes(hint) == expected


def test_a_number_that_may_be_text_is_text_however_it_is_given(tmp_path: Path) -> None:
    """In a list of text alone, as of names, 1.0 is another than 1."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("defaults: [table]\nna_values: [-999.0, NA, true]\ntargets: ['1.0']\n")
    config = compose(["model=mlp", "data=mine"], [str(tmp_path)])
    data = config_check.with_codes_as_text(config)["data"]
    assert (data["na_values"], data["targets"]) == (["-999", "NA", True], ["1.0"])
    for codes in ("[-999,NA]", "[-999.0,NA]"):
        config = compose(["model=mlp", "data=mine", f"data.na_values={codes}"], [str(tmp_path)])
        data = config_check.with_codes_as_text(config)["data"]
        assert data["na_values"] == ["-999", "NA"]


OFFERED = [f"{group}={name}" for group in ("model", "experiment") for name in groups([configs_folder()])[group]]


def sections(config: dict[str, Any]) -> dict[str, tuple[type, dict[str, Any]]]:
    """Class and settings of each section, by its dotted name."""
    found = {group: (group, config[group]) for group in config_check.BASES if group != "reports" and config.get(group)}
    found |= {f"reports.{name}": ("reports", report) for name, report in config["reports"].items() if report}
    return {path: (config_check.resolve(one["_target_"], group), one) for path, (group, one) in found.items()}


@pytest.mark.parametrize("offered", OFFERED)
def test_every_setting_is_in_the_config(offered: str) -> None:
    """What each constructor takes, except what dlref supplies."""
    config = configured([offered])
    assert set(config["trainer"]) == set(inspect.signature(config_check.TrainerConfig).parameters)
    for path, (cls, section) in sections(config).items():
        supplied = {"seed", "net", "params", "tables", *(config_check.SIZES if path == "network" else ())}
        taken = set(inspect.signature(cls).parameters)
        assert taken - supplied <= set(section) <= taken | {"_target_"}, path
    assert json.loads(json.dumps(config)) == config, "the values are plain"


@pytest.mark.parametrize("offered", OFFERED)
def test_normalizing_twice_is_normalizing_once(offered: str) -> None:
    config = configured([offered])
    assert config_check.normalized(config) == config


def test_the_discount_of_a_q_network_is_in_its_config() -> None:
    assert configured(["model=dqn"])["objective"]["discount"] == 0.99


def test_sizes_that_the_data_do_not_give_are_filled_in_once_the_data_are_there() -> None:
    config = configured(["model=transformer"])
    assert "context" not in config["network"]
    given = config_check.with_defaults(config, sizes=["source_vocab_size", "target_vocab_size"])
    assert given["network"]["context"] == 512
    assert "context" not in config_check.with_defaults(config, sizes=["context"])["network"]


def test_another_class_brings_its_own_defaults() -> None:
    config = configured(["model=word2vec", "objective=cbow"])
    assert config["objective"]["_target_"].endswith("CBOW")
    config = configured(["model=mlp", "optimizer=sgd"])
    assert config["optimizer"]["momentum"] == 0
    assert "betas" not in config["optimizer"]


PLUGIN = """
from pathlib import Path
from dlref.models.mlp import MLP
from dlref.data.supervised.spiral import Spiral
class Net(MLP):
    def __init__(self, inputs: int, outputs: int, depth: int = None, shift: float = -1.0, scale=float("inf"),
                 widths: tuple[int, ...] = (3, 4), file: Path = Path("a"), kind=object(), by={"a": (1, 2)}, **others) -> None:
        super().__init__(inputs, outputs, widths)
class Data(Spiral):
    pass
"""


def test_defaults_of_a_plug_in_are_filled_in_where_they_are_plain_values(tmp_path: Path) -> None:
    (tmp_path / "of_defaults.py").write_text(PLUGIN)
    plugins = load_plugins([str(tmp_path / "of_defaults.py")])
    line = ["model=mlp", "~network.widths", "network._target_=of_defaults.Net"]
    network = configured(line, plugins=plugins)["network"]
    target = {"_target_": "of_defaults.Net"}
    assert network == target | {"depth": None, "shift": -1.0, "widths": [3, 4], "by": {"a": [1, 2]}}
    # Data of a plug-in may give any of these as a size.
    config = configured([*line, "data._target_=of_defaults.Data"], plugins=plugins)
    assert config["network"] == target
    filled = config_check.with_defaults(config, plugins, ["inputs", "outputs", "depth"])["network"]
    assert filled == {name: value for name, value in network.items() if name != "depth"}


def test_a_closed_form_model_needs_neither_optimizer_nor_schedule() -> None:
    config = configured(["model=ngram"])
    assert not config.get("optimizer")
    assert config_check.normalized(config) == config
