"""Every config that is offered can be trained."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dlref import config_check
from dlref.cli.compose import compose, configs_folder, groups
from dlref.training.checkpoint import Checkpoints
from tests.conftest import first, small_text8

pytestmark = pytest.mark.faults

OPTIONS = groups([configs_folder()])
NEEDS_MNIST = ("mnist", "idx")
# An objective of another kind of data and network is tried with a model that has it.
MODEL_OF = {
    "language_modelling": "lstm_lm",
    "skip_gram": "word2vec",
    **dict.fromkeys(("cbow", "cbow_book"), "word2vec"),
    **dict.fromkeys(("python_docs_word2vec", "ptb_cbow", "text_word2vec", "text8_word2vec"), "word2vec"),
    **dict.fromkeys(("translation", "dates", "addition", "multi30k", "parallel"), "seq2seq"),
    "ppmi_svd": "ppmi_svd",
    "kneser_ney": "ngram",
    "q_learning": "dqn",
    "denoising": "ladder",
    **dict.fromkeys(("python_docs", "markov_chain", "text", "ptb", "tiny_shakespeare", "text8"), "lstm_lm"),
    **dict.fromkeys(("python_docs_transformer", "tiny_shakespeare_transformer"), "transformer_lm"),
    "play": "dqn",
    "cartpole": "dqn",
    "frozen_lake": "dqn",
    "policy_gradient": "reinforce",
    "rollouts": "reinforce",
    "actor_critic": "actor_critic",
    "rollouts_cartpole": "actor_critic",
    **dict.fromkeys(("gate", "perceptron", "multilabel", "regression"), "perceptron"),
}


WHOLE = [(group, option) for group in ("model", "experiment") for option in OPTIONS[group]]


@pytest.mark.parametrize(
    ("group", "option"),
    first(*(("model", o) for o in OPTIONS["model"] if o != "transformer"), ("experiment", "dqn_cartpole"), of=WHOLE),
)
def test_fault_23_every_model_and_experiment_trains_two_steps(
    group: str,
    option: str,
    train: Callable[..., tuple[int, str]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = compose([f"{group}={option}"])
    config_check.check(config)
    assert config["goal"], "it says what it should reach"
    kind = config["data"]["_target_"].rpartition(".")[2]
    settings = {"Experience": ["data.learning_starts=20", "data.episodes=1"], "Rollouts": ["data.episodes=1"]}.get(
        kind, []
    )
    if kind in ("MNIST", "PennTreebank", "Multi30k", "TinyShakespeare"):
        settings = [f"data.root={request.getfixturevalue('datasets')}"]
    in_full = request.node.get_closest_marker("slow") is not None
    if kind in ("Dates", "Addition") and not in_full:
        settings = ["data.eval_size=100", "data.test_size=100"]
    if kind == "PennTreebank":
        settings += ["data.eval_batch_size=250"]
    if kind == "TinyShakespeare":
        settings += ["data.batch_size=2", "data.eval_stride=null"]
    if kind == "Text8":
        small_text8(tmp_path, monkeypatch)
        settings = [f"data.root={tmp_path}"]
    code, said = train(f"{group}={option}", *settings, "trainer.max_steps=2", f"run_dir={tmp_path / 'run'}")
    assert code == 0, said
    last = Checkpoints(tmp_path / "run" / "checkpoints").newest("step")
    assert last is not None
    assert last.step == (1 if option in ("ppmi_svd", "ngram", "ngram_ptb") else 2)  # the former are fitted at once


@pytest.mark.parametrize("model", ["dqn", "q_table", "reinforce", "actor_critic"])
def test_values_of_play_are_learned_in_full_precision_wherever_it_runs(model: str) -> None:
    assert compose([f"model={model}"])["trainer"]["precision"] == "float32"


PARTS = [(g, o) for g in ("data", "objective", "optimizer", "schedule", "trainer") for o in OPTIONS[g]]
# One of each kind; the models above train with the defaults of every group.
QUICK = ("cartpole", "parallel", "table", "text", "text8", "cbow_book", "regression", "muon", "sgd_rows", "linear")


@pytest.mark.parametrize(("group", "option"), first(*((g, o) for g, o in PARTS if o in QUICK), of=PARTS))
def test_fault_23_every_part_can_be_chosen(
    group: str,
    option: str,
    train: Callable[..., tuple[int, str]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [f"model={MODEL_OF.get(option, 'mlp')}", f"{group}={option}"]
    if settings[0] == "model=dqn":
        settings += ["data.learning_starts=20", "data.episodes=1"]
    elif settings[0] in ("model=reinforce", "model=actor_critic"):
        settings += ["data.episodes=1"]
    if group in ("optimizer", "schedule", "trainer") and not request.node.get_closest_marker("slow"):
        settings += ["~reports"]
    if option == "regression":  # which has no accuracy
        settings += ["trainer.monitor=eval/loss min"]
    if option == "table":
        rows = [f"{i},{i % 3},{'ab'[i % 2]}" for i in range(30)]
        (tmp_path / "rows.csv").write_text("\n".join(["x,y,z", *rows]))
        settings += [f"data.file={tmp_path / 'rows.csv'}", "data.targets=[z]", "data.task=classification"]
    if option in ("text", "text_word2vec"):
        (tmp_path / "words.txt").write_text("some words and more of them\n" * 500)
        settings += [f"data.train={tmp_path / 'words.txt'}"]
    if option == "parallel":
        (tmp_path / "a.de").write_text("ein Satz und noch einer\n" * 50)
        (tmp_path / "a.en").write_text("one sentence and another\n" * 50)
        settings += [f"data.train=[{tmp_path / 'a.de'},{tmp_path / 'a.en'}]", "data.level=words", "network.width=8"]
    if option == "multi30k":
        settings += [f"data.root={request.getfixturevalue('datasets')}", "data.level=characters", "network.width=8"]
    if option in ("text8", "text8_word2vec"):  # which is not at hand: a short one in its place
        small_text8(tmp_path, monkeypatch)
        settings += [f"data.root={tmp_path}"]
    if option in ("ptb", "ptb_cbow", "tiny_shakespeare", "tiny_shakespeare_transformer"):
        settings += [f"data.root={request.getfixturevalue('datasets')}", "data.eval_batch_size=1000", "network.width=8"]
    if option in NEEDS_MNIST:
        datasets = request.getfixturevalue("datasets")
        settings += [f"data.root={datasets}" if option == "mnist" else f"data.folder={datasets / 'mnist'}"]
    code, said = train(*settings, "trainer.max_steps=2", f"run_dir={tmp_path / 'run'}")
    assert code == 0, said
