"""How the parts that a config names are assembled."""

import inspect
from pathlib import Path

import hydra
import pytest
import torch

from dlref import build
from dlref.cli.compose import compose, configured, one_limit
from dlref.errors import ConfigError
from dlref.training.config import TrainerConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.max_step=5", "did you mean 'trainer.max_steps'"),
        ("+trainer.max_step=5", "did you mean 'trainer.max_steps'"),
        ("++network.width=5", "did you mean 'network.widths'"),
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
        built(["model=mlp", override])


def built(overrides: list[str]) -> None:
    config = configured(overrides)
    model = build.build(config, CPU)
    if not model.objective.closed_form:
        build.build_optimizer(config, model.objective)
        TrainerConfig(**config["trainer"]).limit_steps(lambda: model.data.batches_per_epoch)


@pytest.mark.parametrize(
    ("override", "said"),
    [("model=mlpp", "did you mean 'model=mlp'"), ("data", "key=value"), ("seed=${nope}", "command line")],
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
    optimizer = build.build_optimizer(config, objective)[0]
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
    config = configured(["model=mlp", "reports.decision_boundary=null"])
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
