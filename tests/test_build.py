"""What a config may name and hold, and what is said when it may not."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import GenericAlias
from typing import Any

import hydra
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlref import build
from dlref.cli.compose import compose, load_plugins, one_limit
from dlref.errors import ConfigError

CPU = torch.device("cpu")


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
        build.resolve(target, group)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_other_text_is_refused_too(text: str) -> None:
    with pytest.raises(ConfigError):
        build.resolve(text, "network")


def test_a_plugin_is_at_home_only_when_named(tmp_path: Path) -> None:
    file = tmp_path / "my_networks.py"
    file.write_text("from torch import nn\nclass Mine(nn.Module):\n    pass\n")
    with pytest.raises(ConfigError, match=r"plugins=FILE\.py"):
        build.resolve("my_networks.Mine", "network")
    plugins = load_plugins([str(file)])
    assert build.resolve("my_networks.Mine", "network", plugins).__name__ == "Mine"
    with pytest.raises(ConfigError):
        build.resolve("my_networks.nn.Linear", "network", plugins)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.max_step=5", "did you mean 'max_steps'"),
        ("+trainer.max_step=5", "did you mean 'max_steps'"),
        ("++network.width=5", "did you mean 'widths'"),
        ("lr=0.1", "did you mean 'optimizer.lr'"),
        ("moddel=mlp", "did you mean 'model'"),
        ("optimizer.lr=nan", "finite"),
        ("optimizer.lr=inf", "finite"),
        ("optimizer.lr=-1", "negative"),
        ("optimizer.lr=fast", "a number"),
        ("optimizer.betas=[0.9]", "betas"),
        ("trainer.max_steps=1.5", "whole number"),
        ("trainer.compile=7", "true or false"),
        ("trainer.precision=fp8", "bf16"),
        ("network.widths=100", "widths"),
        ("network.widths=[a]", "widths"),
        ("network.widths=[1", "widths"),
        ("network.dropout=1.5", "dropout"),
        ("seed=null", "seed"),
        ("seed=true", "seed"),
        ("trainer.max_steps=null", "nothing ends this run"),
        ("data=python_docs", "inputs"),  # a network of other sizes than the data has
    ],
)
def test_a_wrong_setting_is_named_with_its_value(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(compose(["model=mlp", override]))


TABLE = ["model=mlp", "data=table", "data.file=a.csv"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [*TABLE, "data.targets=[y]"],
            "data.kind has no value; set data.kind=…, which takes numbers or classes or labels",
        ),
        (TABLE, "data.targets has no value; set data.targets=…, which takes a list of text"),
        (["model=mlp", "data=idx"], "data.folder has no value; set data.folder=…, which takes a path"),
        (["model=mlp", "trainer.precision=???"], "which takes auto or float32 or bf16 or fp16 or float64"),
    ],
)
def test_a_value_that_is_missing_is_asked_for_with_its_choices(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build.check(compose(overrides))
    assert said in str(refused.value)


def test_a_setting_that_a_class_needs_and_no_config_names_is_asked_for() -> None:
    config = compose([*TABLE, "data.targets=[y]"])
    del config["data"]["kind"]
    with pytest.raises(ConfigError, match=r"data\.kind has no value; .* which takes numbers or classes or labels"):
        build.check(config)


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
        build.check(compose([*TABLE, "optimizer=adam", "data.targets=[y]", "data.kind=classes", override]))
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
        build.check_value("data.x", "???", hint)
    assert str(refused.value) == f"data.x has no value; set data.x=…, which takes {words}"
    build.matches([1], hint)


def test_a_negative_number_by_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.x is -1; it takes no negative number"):
        build.check_value("data.x", {"a": -1}, dict[str, int])


def test_lists_in_lists_are_shown_as_such() -> None:
    with pytest.raises(
        ConfigError, match=r"it takes a list of lists of whole numbers, as network.blocks=\[\[3, 4\]\]$"
    ):
        build.check(compose(["model=cnn", "network.blocks=[3,4]"]))


def test_a_number_that_may_be_text_is_a_code_and_may_be_negative() -> None:
    """As a file of configs has it."""
    config = compose(["model=mlp", "data=table", "data.file=a.csv", "data.targets=[y]", "data.kind=numbers"])
    config["data"]["na_values"] = [-999, -0.5, "NA"]
    build.check(config)
    config["data"]["batch_size"] = -1
    with pytest.raises(ConfigError, match=r"data\.batch_size is -1; it takes no negative number"):
        build.check(config)


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
    assert build.is_codes(hint) == expected


def test_a_number_that_may_be_text_is_text_however_it_is_given(tmp_path: Path) -> None:
    """In a list of text alone, as of names, 1.0 is another than 1."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("defaults: [table]\nna_values: [-999.0, NA, true]\ntargets: ['1.0']\n")
    data = compose(["model=mlp", "data=mine"], [str(tmp_path)])["data"]
    assert (data["na_values"], data["targets"]) == (["-999", "NA", True], ["1.0"])
    for codes in ("[-999,NA]", "[-999.0,NA]"):
        data = compose(["model=mlp", "data=mine", f"data.na_values={codes}"], [str(tmp_path)])["data"]
        assert data["na_values"] == ["-999", "NA"]


def built(config: dict[str, Any]) -> None:
    model = build.build(config, CPU)
    build.build_trainer(config, model.objective)[2].limit_steps(lambda: model.data.batches_per_epoch)


@pytest.mark.parametrize(
    ("override", "said"),
    [("model=mlpp", "did you mean 'mlp'"), ("data", "key=value"), ("seed=${nope}", "command line")],
)
def test_what_cannot_be_composed_is_explained(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose([override])


def test_the_command_line_stands_above_experiment_above_model(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /model: mlp, override /optimizer: sgd]\n"
        "network: {widths: [7], dropout: 0.5}\n"
    )
    config = compose(["experiment=mine", "network.dropout=0.25"], [str(tmp_path)])
    assert config["network"]["widths"] == [7]
    assert config["network"]["dropout"] == 0.25
    assert config["optimizer"]["_target_"] == "torch.optim.SGD"
    assert config["name"] == "mine"


def test_settings_of_a_group_do_not_survive_its_exchange() -> None:
    """A model sets values only on its own network and the trainer, so any of its parts can be exchanged."""
    for model in (path.stem for path in (Path(__file__).parents[1] / "configs" / "model").glob("*.yaml")):
        exchanged = compose(
            [f"model={model}", "data=spiral", "optimizer=sgd", "objective=classification", "schedule=constant"]
        )
        plain = compose(["data=spiral", "optimizer=sgd", "objective=classification", "schedule=constant"])
        for group in ("data", "optimizer", "objective", "schedule"):
            assert exchanged[group] == plain[group]


def test_what_the_tests_compose_once_is_what_is_composed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A composition is shared between tests, whatever run directory was set in it before."""
    lines = [["run_dir=a"], ["resume='b c'"], [], ["run_dir=$c/ü", "resume=auto"], ["run_dir=a", "seed=1"]]
    shared = [compose(["model=cnn", *line]) for line in 2 * lines]
    monkeypatch.setattr(hydra, "compose", inspect.unwrap(hydra.compose))
    assert shared == [compose(["model=cnn", *line]) for line in 2 * lines]


def test_norms_and_biases_are_not_decayed() -> None:
    config = compose(["model=mlp", "network.norm=batch", "network.widths=[4]"])
    objective = build.build(config, CPU).objective
    optimizer = build.build_trainer(config, objective)[0]
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {n: decay[id(p)] > 0 for n, p in objective.named_parameters()} == {
        n: p.ndim > 1 for n, p in objective.named_parameters()
    }


def test_an_interpolation_of_the_environment_works_where_it_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLREF_TEST_NAME", "eleven")
    assert compose(["name=${oc.env:DLREF_TEST_NAME}"])["name"] == "eleven"


@pytest.mark.parametrize("name", ["max_steps", "max_epochs", "max_seconds"])
def test_a_typed_limit_replaces_those_of_the_yamls(name: str) -> None:
    typed = ["experiment=mlp_mnist_fast", f"trainer.{name}=7"]
    config = compose(typed)
    one_limit(config, typed)
    limits = {other: config["trainer"].get(other) for other in ("max_steps", "max_epochs", "max_seconds")}
    assert limits == dict.fromkeys(limits, None) | {name: 7}


def test_a_report_that_is_null_is_left_out() -> None:
    config = compose(["model=mlp", "reports.decision_boundary=null"])
    build.check(config)
    assert set(build.build(config, CPU).reports) == set(compose(["model=mlp"])["reports"]) - {"decision_boundary"}


@pytest.mark.parametrize(
    ("model", "data"),
    [
        *(("lstm_lm", "dates"), ("word2vec", "addition"), ("mlp", "dates"), ("seq2seq", "python_docs")),
        *(("transformer_lm", "dates"), ("transformer", "python_docs")),
    ],
)
def test_a_model_for_other_data_is_told_which_size_they_lack(model: str, data: str) -> None:
    """Pairs have two vocabularies, by names of their own, so that a model of one does not take them."""
    few = ["data.size=100", "data.eval_size=10", "data.test_size=10"] if data in ("dates", "addition") else []
    with pytest.raises(ConfigError, match="choose data that suits the model"):
        build.build(compose([f"model={model}", f"data={data}", *few]), CPU)
