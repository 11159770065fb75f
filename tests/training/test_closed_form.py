"""Models that are fitted in closed form: one fit, no optimizer, and a checkpoint of the weights alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import dlref
from tests.training.test_resume import FITTED, everything, logged

Train = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("model", FITTED)
def test_a_fit_is_logged_and_saved_as_step_1_and_its_weights_can_be_loaded(
    model: str, train: Train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(*FITTED[model], "reports=null", f"run_dir={run}")[0] == 0
    [line] = logged(run)
    assert (line["step"], line["split"]) == (1, "eval")
    assert json.loads((run / "run.json").read_text())["finished"] is True
    saved = everything(run)
    assert saved.keys() == {"weights.pt", "metrics"}
    for name, value in dlref.load(run).state_dict().items():
        assert value.equal(saved["weights.pt"][f"net.{name}"])


def test_settings_of_gradient_steps_are_named_in_a_warning(train: Train, tmp_path: Path) -> None:
    unused = ["optimizer=sgd", "trainer.max_steps=3", "trainer.monitor=eval/loss min"]
    code, said = train(*FITTED["ngram"], "reports=null", *unused, f"run_dir={tmp_path / 'run'}")
    assert code == 0, said
    assert "KneserNey is fitted in closed form and does not use optimizer, trainer.max_steps\n" in said


def test_an_objective_of_gradient_steps_needs_an_optimizer_and_something_to_train(train: Train, tmp_path: Path) -> None:
    line = [*FITTED["ngram"], "objective=language_modelling", f"run_dir={tmp_path / 'run'}"]
    code, said = train(*line)
    assert code == 2
    assert "optimizer is not set, and objective LanguageModelling is trained by gradient steps" in said
    code, said = train(*line, "optimizer=sgd", "schedule=constant")
    assert code == 2
    assert "network NGram has no trainable parameters" in said
