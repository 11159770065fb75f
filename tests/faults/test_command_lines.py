"""What people mistype, and devices that are not there: one sentence with the values and the way out, exit code 2."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import accelerators, command
from tests.faults.processes import refusal

pytestmark = pytest.mark.faults
Train = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("device", "there"),
    [
        ("cuda", False),
        ("cuda:7", False),
        ("cuda:7", True),
        ("gpu", False),
        ("cuda:", True),
        ("cuda:-1", True),
        ("", False),
    ],
)
def test_fault_21_a_device_that_is_not_there_is_answered_with_those_that_are(
    device: str, there: bool, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    accelerators(monkeypatch, "cuda" if there else None, 2)
    code, said = train("model=mlp", f"device={device}", f"run_dir={tmp_path / 'run'}")
    assert code == 2
    assert f"device={device} is " in refusal(said)
    assert ("cpu, cuda:0, cuda:1" if there else "cpu") in refusal(said)
    assert "auto" in refusal(said)
    assert not (tmp_path / "run").exists()


MISTAKES = {
    # an unknown key, however it is added
    "optimizer.lrr=1": "optimizer.lrr is not a setting of AdamW; did you mean 'optimizer.lr'?",
    "+optimizer.lrr=1": "did you mean 'optimizer.lr'?",
    "++optimizer.lrr=1": "did you mean 'optimizer.lr'?",
    "network.width=3": "did you mean 'network.widths'?",
    "trainer.max_step=3": "did you mean 'trainer.max_steps'?",
    "+trainer.typo=1": "choose from accumulate, ",
    "lr=0.1": "did you mean 'optimizer.lr'?",
    "model.width=3": "'model' is not a setting",
    "data.seed=3": "data.seed is not a setting of Spiral",
    "unknown.x.y=3": "'unknown' is not a setting",
    # a misspelt group or option
    "modle=mlp": "did you mean 'model'?",
    "trainr.max_steps=3": "did you mean 'trainer'?",
    "model=mpl": "there is no model 'mpl'; did you mean 'model=mlp'?",
    "model=mlp,dqn": "there is no model 'mlp,dqn'",
    "model=[mlp,dqn]": "there is no model '[mlp,dqn]'",
    "model=../data/spiral": "there is no model '../data/spiral'",
    "model=": "there is no model ''; choose from ",
    "+data=spirl": "did you mean 'data=spiral'?",
    "optimizer=adamm": "did you mean 'optimizer=adam'?",
    "experiment=mnist": "did you mean 'experiment=mlp_mnist'?",
    "experiment=digits": "choose from ",
    "data=null": "there is no data 'null'",
    "model=null": "there is no model 'null'",
    # a wrong type
    "optimizer.lr=abc": "optimizer.lr is 'abc'; it takes a number",
    "optimizer.lr=true": "optimizer.lr is True; it takes a number",
    "optimizer.lr=": "optimizer.lr is ''; it takes a number",
    "optimizer.lr=[1]": "optimizer.lr is [1]; it takes a number",
    "optimizer.betas=[0.9]": "optimizer.betas is [0.9]",
    "trainer.max_steps=1.5": "trainer.max_steps is 1.5; it takes a whole number or null",
    "trainer.precision=fp8": "it takes auto or float32 or bf16 or fp16 or float64",
    "network.widths=3": "network.widths is 3",
    "network.widths=[a]": "network.widths is ['a']",
    "network.norm=3": "network.norm is 3; it takes batch or layer or null",
    "network=3": "network has no _target_",
    "reports=3": "reports is 3",
    "seed=null": "seed is None; it takes a whole number",
    "threads=a": "threads is 'a'; it takes a whole number or null",
    # numbers that make no sense
    "optimizer.lr=nan": "optimizer.lr is nan; it takes a finite number",
    "optimizer.lr=inf": "optimizer.lr is inf; it takes a finite number",
    "optimizer.lr=1e400": "optimizer.lr is inf; it takes a finite number",
    "optimizer.lr=-1": "optimizer.lr is -1; it takes no negative number",
    "trainer.max_steps=-5": "trainer.max_steps is -5; it takes no negative number",
    "trainer.max_steps=0": "trainer.max_steps is 0; it takes 1 or more",
    "trainer.max_steps=null": "nothing ends this run",
    "trainer.max_seconds=0": "trainer.max_seconds is 0; it takes a number above 0",
    "trainer.max_epochs=0": "trainer.max_epochs is 0; it takes a number above 0",
    "threads=5000000000": "threads is 5000000000; it takes 1 to",
    "trainer.ema=2": "trainer.ema is 2",
    "trainer.monitor=eval/ min": "trainer.monitor is 'eval/ min'; write",
    "trainer.monitor=nll": "trainer.monitor is 'nll'; write",
    "network.widths=[0]": "network.widths is [0]",
    "network.dropout=2": "a dropout of the network is 2",
    "data.batch_size=0": "data.batch_size is 0; it takes 1 or more",
    "data.noise=nan": "data.noise is nan; it takes a finite number",
    "schedule.warmup=2": "schedule.warmup is 2",
    "objective.label_smoothing=1": "objective.label_smoothing is 1",
    "seed=-1": "seed is -1; it takes no negative number",
    "seed=99999999999999999999999": "seed is 99999999999999999999999",
    # a missing value, or one too much
    "data=idx": "data.folder has no value; set data.folder=",
    "data.points=???": "data.points has no value",
    "~seed": "seed is missing",
    "~network": "network has no _target_",
    "~data.nope": "'data.nope' does not exist",
    "network.inputs=7": "network.inputs is 7, the data have 2",
    # parts that do not fit each other
    "data=python_docs": "network MLP needs inputs, outputs",
    "data=cartpole": "objective Classification reads inputs, targets of a batch, and data Experience give states, actions,",
    "objective=q_learning": "objective QLearning reads states, actions, rewards, steps, next_states, terminated of a batch",
    "objective=translation": "objective Translation is for networks with dlref.interfaces.EncoderDecoder, not MLP",
    "optimizer.foreach=true": "`fused` and `foreach`",
    "optimizer._target_=torch.optim.Optimizer": "is refused",
    "network._target_=os.system": "network._target_ 'os.system' is refused",
    # the grammar
    "network.widths=[1,2": "network.widths is '[1,2'; it takes a list",
    "optimizer.lr=1e-3,1e-4": "optimizer.lr is '1e-3,1e-4'; it takes a number",
    "optimizer.lr=${nope}": "'nope' not found",
    "optimizer..lr=3": "optimizer..lr=3",
    "a=b=c": "'a' is not a setting",
    "=b": "'=b' begins with no name of a setting",
    "mlp": "'mlp' is not key=value",
    "--model=mlp": "--model is a setting: model=mlp",
    "-m=false": "-m takes no value; leave it out",
    "--multirn": "did you mean '--multirun'?",
    "plugins=nowhere.py": "plugins=nowhere.py must be a Python file",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_fault_22_a_mistake_is_answered_with_what_was_meant(typed: str, train: Train, tmp_path: Path) -> None:
    code, said = train("model=mlp", typed, f"run_dir={tmp_path / 'run'}")
    assert code == 2, said
    assert MISTAKES[typed] in refusal(said)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_fault_22_a_network_that_cannot_be_built_says_why(train: Train, tmp_path: Path) -> None:
    """What a constructor raises of its own accord, as for a width that does not split into heads."""
    (tmp_path / "divided_network.py").write_text("""
from torch import nn
class Divided(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int = 10, heads: int = 4) -> None:
        if width % heads:
            raise ValueError(f"width {width} does not split into {heads} heads; choose a multiple of {heads}")
        super().__init__()
""")
    plugin = [
        f"plugins={tmp_path / 'divided_network.py'}",
        "network._target_=divided_network.Divided",
        "~network.widths",
    ]
    code, said = train("model=mlp", *plugin, f"run_dir={tmp_path / 'run'}")
    assert code == 2
    assert refusal(said).endswith("width 10 does not split into 4 heads; choose a multiple of 4")


@pytest.mark.parametrize(
    "line",
    [
        ["model=dqn", "data=rollouts"],
        ["model=reinforce", "objective=q_learning"],
        ["model=q_table", "data=rollouts"],
        ["model=ppmi_svd", "objective=language_modelling"],
        ["model=word2vec", "objective=language_modelling"],
        ["model=word2vec", "optimizer=adamw"],
    ],
    ids=" ".join,
)
def test_fault_22_parts_that_cannot_be_combined_are_named(line: list[str], train: Train, tmp_path: Path) -> None:
    small = ["data=markov_chain"] if line[0] in ("model=ppmi_svd", "model=word2vec") else []
    code, said = train(*line, *small, "trainer.max_steps=2", "~reports", f"run_dir={tmp_path / 'run'}")
    assert code == 2, said
    assert "choose " in refusal(said)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        pytest.param(
            ["train", "model=mpl"], "there is no model 'mpl'; did you mean 'model=mlp'?", marks=pytest.mark.slow
        ),
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
        (["train", "model=mlp", "optimizer.lr=nan", "run_dir=x"], "optimizer.lr is nan"),
        (["evaluate"], "RUN is missing"),
    ],
)
def test_fault_22_a_shell_sees_the_sentence_and_the_code(line: list[str], part: str, tmp_path: Path) -> None:
    ended = command(*line, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 2
    assert part in refusal(ended.stderr)
    assert ended.stdout == ""
