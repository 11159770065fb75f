"""A resumed run is the uninterrupted one, bit for bit, wherever it was cut."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dlref
from dlref.cli.compose import configs_folder, groups
from dlref.training.checkpoint import Checkpoints
from tests.conftest import SMALL, first

Train = Callable[..., tuple[int, str]]
Trained = Callable[..., Path]
OPTIONS = {
    "plain": [],
    "accumulated": ["trainer.accumulate=3"],
    "averaged": ["trainer.ema=0.9"],
    "bf16": ["trainer.precision=bf16"],
    "clipped and monitored": ["trainer.clip_norm=0.5", "trainer.monitor=eval/loss min", "trainer.patience=50"],
}
# A cell with one state; all random numbers of a batch; and a text that is cut elsewhere in each of several epochs.
GRU = [
    *("model=lstm_lm", "network.cell=gru", "network.width=12", "network.variational=true", "network.dropout=0.2"),
    *("network.weight_drop=0.3", "network.word_dropout=0.1", "objective.ar=1", "objective.tar=1"),
]
SHORT = ["data=markov_chain", "data.tokens=2000", "data.batch_size=12", "data.seq_len=40"]
# The models that other tests of faults leave out, as small; and those that are fitted in closed form, which is one step.
FURTHER = {
    "perceptron": ["model=perceptron", "data.gate=xor"],
    "ladder": [
        *("model=ladder", "network.widths=[12,8]", "network.pca_components=9"),
        *("data.samples=100", "data.batch_size=9"),
    ],
    "q_table": [
        *(
            "model=q_table",
            "data.batch_size=8",
            "data.buffer_size=40",
            "data.learning_starts=50",
            "data.exploration_steps=60",
        ),
        *("data.episodes=2", "objective.target_update_interval=3"),
    ],
}
FITTED = {
    "ngram": ["model=ngram", "network.order=3", "data.min_freq=20"],
    "ppmi_svd": ["model=ppmi_svd", "network.width=6", "data.min_freq=20"],
}
EVERY = SMALL | FURTHER
RESUMED = EVERY | {
    "gru": [*GRU, *SHORT, "data.order=rotated"],
    "shifted": ["model=lstm_lm", "network.width=12", *SHORT, "data.order=shifted"],
    # Each word with noise of its own, and words predicted by their context.
    "own noise": [*SMALL["word2vec"], "objective.block_size=1"],
    "cbow": [*SMALL["word2vec"], "objective=cbow"],
}
STEPS = 12
# What may all be in use at once.
TOGETHER = [
    *("trainer.accumulate=2", "trainer.precision=bf16", "trainer.ema=0.9", "trainer.clip_norm=0.5"),
    *("trainer.log_every=5", "trainer.eval_every=4", "trainer.save_every=3", "reports=null"),
]


def everything(run: Path) -> dict[str, Any]:
    """All that the last checkpoint holds."""
    last = Checkpoints(run / "checkpoints").newest("step")
    assert last is not None
    return {name: last.read(name) for name in last.manifest["files"]} | {"metrics": last.manifest["metrics"]}


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit; seconds of wall-clock are the one thing that may differ."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key not in ("seconds", "logged"):
                assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def logged(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl less what a clock decides."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if not key.startswith("second") and "per_second" not in key}
        for line in lines
    ]


# Training stops where a checkpoint is all that is left: each cut resumes from one in the middle of a log window, an
# evaluation period, an epoch, or an episode.
CUTS = [(model, option, cut) for model in RESUMED for option in OPTIONS for cut in (1, 4, 7, 11)]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("model", "option", "cut"),
    first(
        *((model, "plain", 7) for model in ("cnn", "seq2seq", "transformer_lm", "word2vec", "dqn", "actor_critic")),
        # mlp uses them together, after each step: test_fault_04_stopped_after_each_step.
        *(("lstm_lm", option, 11) for option in OPTIONS),
        of=CUTS,
    ),
)
def test_fault_04_resumed_equals_uninterrupted_at_every_cut(
    model: str, option: str, cut: int, train: Train, trained: Trained, tmp_path: Path
) -> None:
    settings = [*RESUMED[model], "trainer.monitor=null", *OPTIONS[option], f"trainer.max_steps={STEPS}"]
    if model in ("dqn", "q_table", "reinforce", "actor_critic"):  # whose evaluation has no loss
        settings = [setting.replace("eval/loss min", "eval/return max") for setting in settings]
    settings += ["trainer.log_every=5", "trainer.eval_every=4", "trainer.save_every=4", "reports=null"]
    run, whole = tmp_path / "run", trained(*settings)
    cut_short(train, settings, run, cut)
    assert train(f"resume={run}")[0] == 0
    assert_same(everything(run), everything(whole))
    assert logged(run) == logged(whole)


@pytest.mark.faults
def test_fault_04_every_model_is_among_the_resumed() -> None:
    assert EVERY.keys() | FITTED.keys() == set(groups([configs_folder()])["model"])
    assert all(settings[0] == f"model={model}" for model, settings in (EVERY | FITTED).items())


@pytest.mark.faults
@pytest.mark.half
@pytest.mark.parametrize("model", first("mlp", of=EVERY))
def test_fault_04_stopped_after_each_step_it_is_the_uninterrupted_run(
    model: str, train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """With all that may be in use at once: a life for each step, which takes up what the one before has left."""
    settings = [*EVERY[model], *TOGETHER, f"trainer.max_steps={STEPS}"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(*settings, f"run_dir={whole}")[0] == 0
    for cut in range(1, STEPS + 1):  # after the last one it is only evaluated
        cut_short(train, [*settings, "resume=auto"], run, cut)
        assert everything(run)["training.pt"]["progress"]["step"] == cut
    assert train(f"resume={run}")[0] == 0
    assert_same(everything(run), everything(whole))
    assert logged(run) == logged(whole)


PARTS = [(group, option) for group in ("optimizer", "schedule") for option in groups([configs_folder()])[group]]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("group", "option"),
    first(*(("optimizer", o) for o in ("adam", "muon", "sgd_rows")), ("schedule", "cosine"), of=PARTS),
)
def test_fault_04_what_an_optimizer_and_a_schedule_remember_is_taken_up(
    group: str, option: str, train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    model = "word2vec" if option in ("row_adagrad", "sgd_rows") else "mlp"
    settings = [*SMALL[model], f"{group}={option}", "trainer.max_steps=9", "trainer.monitor=null", "reports=null"]
    assert train(*settings, f"run_dir={tmp_path / 'whole'}")[0] == 0
    cut_short(train, settings, tmp_path / "run", 5)
    assert train(f"resume={tmp_path / 'run'}")[0] == 0
    assert_same(everything(tmp_path / "run"), everything(tmp_path / "whole"))


@pytest.mark.faults
@pytest.mark.parametrize("model", FITTED)
def test_fault_04_what_was_fitted_at_once_is_finished_and_is_fitted_alike_again(
    model: str, train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    runs = [tmp_path / name for name in ("one", "other")]
    for run in runs:
        assert train(*FITTED[model], "reports=null", "resume=auto", f"run_dir={run}")[0] == 0
    assert_same(*map(everything, runs))
    before = {path: path.read_bytes() for path in runs[0].rglob("*") if path.is_file()}
    for line in ([f"resume={runs[0]}"], [*FITTED[model], "reports=null", "resume=auto", f"run_dir={runs[0]}"]):
        code, said = train(*line)
        assert code == 0
        assert "finished at step 1" in said
    assert {path: path.read_bytes() for path in runs[0].rglob("*") if path.is_file()} == before


@pytest.mark.faults
@pytest.mark.parametrize(
    ("model", "setting", "change"),
    [
        ("ngram", "network.order=4", "network.order 3 → 4"),
        ("ppmi_svd", "network.width=5", "network.width 6 → 5"),
        ("ngram", "data.min_freq=19", "data.min_freq 20 → 19"),
    ],
)
def test_what_was_fitted_at_once_is_not_resumed_with_other_settings(
    model: str, setting: str, change: str, train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(*FITTED[model], "reports=null", f"run_dir={run}")[0] == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for more in ([], ["trainer.allow_other_data=true"]):
        code, said = train(f"resume={run}", setting, *more)
        assert code == 4
        assert change in said
        assert "is not fitted again" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def cut_short(train: Callable[..., tuple[int, str]], settings: list[str], run: Path, cut: int) -> None:
    """A run that ends after `cut` steps by a signal, which is raised in the last of them."""
    import signal

    from dlref.training.trainer import Trainer

    original = Trainer.step

    def step(self: Trainer, *arguments: Any) -> Any:
        if self.progress.step == cut - 1:
            signal.raise_signal(signal.SIGTERM)
            return original(self, *arguments[:-1], True)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        assert train(*settings, f"run_dir={run}")[0] == 143


def test_a_run_of_more_steps_later_is_longer_not_other(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Under a constant rate a run of 8 steps, then raised to 12, is the run of 12."""
    settings = [*SMALL["lstm_lm"], "schedule=constant", "trainer.log_every=3", "trainer.eval_every=4"]
    train(*settings, "trainer.max_steps=12", f"run_dir={tmp_path / 'whole'}")
    train(*settings, "trainer.max_steps=8", f"run_dir={tmp_path / 'longer'}")
    code, said = train(f"resume={tmp_path / 'longer'}", "trainer.max_steps=12")
    assert code == 0
    assert "trainer.max_steps: 8 → 12" in said
    assert_same(everything(tmp_path / "longer"), everything(tmp_path / "whole"))
    assert logged(tmp_path / "longer") == logged(tmp_path / "whole")  # without the line that it ended with at first


def test_a_finished_run_says_so_and_is_left_as_it_is(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(*SMALL["mlp"], "trainer.max_steps=3", f"run_dir={run}")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, said = train(f"resume={run}")
    assert code == 0
    assert "finished at step 3" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("first", "then", "way"),
    [
        (["trainer.max_seconds=0.01"], [], "trainer.max_seconds"),
        (["trainer.max_epochs=1"], [], "trainer.max_steps"),
        (["trainer.max_steps=60", "trainer.patience=1", "optimizer.lr=0"], ["trainer.patience=9"], "trainer.patience"),
    ],
)
def test_what_ended_a_run_is_named_and_may_be_raised(
    first: list[str], then: list[str], way: str, train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = [*SMALL["mlp"], "data.points=40", "data.batch_size=10", "trainer.eval_every=2", "~reports"]
    assert train(*settings, *first, f"run_dir={run}")[0] == 0
    step = everything(run)["training.pt"]["progress"]["step"]
    assert f"is finished at step {step}; raise {way} to train on" in train(f"resume={run}")[1]
    assert train(f"resume={run}", *(then or [f"trainer.max_steps={step + 5}"]))[0] == 0
    assert everything(run)["training.pt"]["progress"]["step"] > step


def test_a_run_stopped_in_its_last_step_is_evaluated_once(
    train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run, settings = tmp_path / "run", [*SMALL["mlp"], "trainer.max_steps=5", "trainer.save_every=2", "~reports"]
    cut_short(train, settings, run, 5)
    assert [line["split"] for line in logged(run)].count("eval") == 0
    assert train(f"resume={run}")[0] == 0
    lines = logged(run)
    (run / "evaluation.json").write_text("{}")  # as dlref evaluate leaves it
    assert "is finished at step 5" in train(f"resume={run}")[1]
    assert logged(run) == lines
    assert (run / "evaluation.json").exists()
    assert train(*settings, f"run_dir={tmp_path / 'whole'}")[0] == 0
    assert lines == logged(tmp_path / "whole")
    assert_same(everything(run), everything(tmp_path / "whole"))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()
    }


def test_a_monitor_of_no_figure_costs_nothing_that_was_learned(
    train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run, settings = tmp_path / "run", [*SMALL["mlp"], "trainer.max_steps=6", "trainer.eval_every=null", "~reports"]
    code, said = train(*settings, "trainer.monitor=eval/acuracy max", f"run_dir={run}")
    assert code == 2
    assert "did you mean 'accuracy'" in said
    assert everything(run)["training.pt"]["progress"]["step"] == 6
    assert train(f"resume={run}", "trainer.monitor=eval/accuracy max")[0] == 0
    assert (run / "checkpoints" / "best").resolve().name == "best-00000006"
    assert "is finished at step 6" in train(f"resume={run}")[1]


def test_a_monitor_that_a_switched_experiment_has_is_refused(
    train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """The best weights would be lost in silence. A YAML that was edited since does not change the recorded monitor."""
    (tmp_path / "experiment").mkdir()
    config, run = tmp_path / "experiment" / "mine.yaml", tmp_path / "run"
    other = tmp_path / "experiment" / "other.yaml"
    config.write_text("# @package _global_\ntrainer: {monitor: eval/nll min}\n")
    other.write_text("# @package _global_\ntrainer: {monitor: eval/loss min}\n")
    settings = [*SMALL["mlp"], "experiment=mine", "trainer.eval_every=2", "trainer.max_steps=4", "~reports"]
    folder = ["--config-dir", str(tmp_path)]
    assert train(*settings, *folder, f"run_dir={run}")[0] == 0
    best = everything(run)["training.pt"]["progress"]["best"]
    code, said = train(f"resume={run}", "experiment=other", "trainer.max_steps=5", *folder)
    assert code == 4
    assert (
        "kept the best weights by trainer.monitor 'eval/nll min', and the config now has 'eval/loss min'; add" in said
    )
    for typed in re.findall(r"'(trainer.monitor=.*?)'", said):
        code, said = train(f"resume={run}", "experiment=other", typed, "trainer.max_steps=5", *folder)
        assert code == 0, said
        assert ("what is best starts again" in said) == (typed == "trainer.monitor=eval/loss min")
        assert everything(run)["training.pt"]["progress"]["best"] >= best
    recorded = tmp_path / "recorded"
    assert train(*settings, *folder, f"run_dir={recorded}")[0] == 0
    config.write_text("# @package _global_\ntrainer: {monitor: eval/loss min}\n")
    code, said = train(f"resume={recorded}", "trainer.max_steps=5", *folder)
    assert code == 0, said
    assert "trainer.monitor" not in said


def test_with_another_monitor_what_is_best_begins_anew(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    run, settings = tmp_path / "run", [*SMALL["mlp"], "trainer.eval_every=2", "~reports", f"run_dir={tmp_path / 'run'}"]
    assert train(*settings, "trainer.monitor=eval/accuracy max", "trainer.max_steps=4")[0] == 0
    code, said = train(f"resume={run}", "trainer.monitor=eval/loss min", "trainer.max_steps=20")
    assert code == 0
    assert "what is best starts again" in said
    losses = {line["step"]: line["loss"] for line in logged(run) if line["split"] == "eval" and line["step"] > 4}
    best = Checkpoints(run / "checkpoints").newest("best")
    assert best is not None
    assert best.step == min(losses, key=losses.__getitem__)


def test_a_run_goes_on_in_its_own_directory(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    run, branch = tmp_path / "run", tmp_path / "branch"
    settings = [*SMALL["mlp"], "trainer.max_steps=4", "trainer.save_every=2", "trainer.monitor=null", "~reports"]
    assert train(*settings, f"run_dir={run}")[0] == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for start in (run, run / "checkpoints" / "step-00000002"):
        code, said = train(f"resume={start}", f"run_dir={branch}", "trainer.max_steps=6")
        assert code == 2
        assert "leave run_dir out" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert not branch.exists()
    assert train(f"resume={run / 'checkpoints' / 'last'}", f"run_dir={run}", "trainer.max_steps=6")[0] == 0


@pytest.mark.parametrize("had", [0, 2])
def test_what_another_process_saves_before_it_lets_go_is_not_lost(
    had: int, train: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends between the look at its checkpoints and the lock."""
    from dlref.cli.commands import train as module

    run = tmp_path / "run"
    line = [*SMALL["mlp"], "schedule=constant", "~reports", f"run_dir={run}", "resume=auto"]
    if had:
        assert train(*line, f"trainer.max_steps={had}")[0] == 0
    look, others = module.to_resume, [[*line, "trainer.max_steps=4"]]

    def look_and_wait(typed: dict[str, str]) -> Any:
        start = look(typed)
        if others:
            assert train(*others.pop())[0] == 0
        return start

    monkeypatch.setattr(module, "to_resume", look_and_wait)
    code, said = train(*line, "trainer.max_steps=6")
    assert code == 2
    assert "another process trained" in said
    assert everything(run)["training.pt"]["progress"]["step"] == 4
    assert train(*line, "trainer.max_steps=6")[0] == 0


def test_auto_starts_and_then_goes_on(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    line = [*SMALL["mlp"], "resume=auto", f"run_dir={tmp_path / 'run'}", "schedule=constant"]
    assert train(*line, "trainer.max_steps=3")[0] == 0
    assert train(*line, "trainer.max_steps=5")[0] == 0
    assert everything(tmp_path / "run")["training.pt"]["progress"]["step"] == 5


def test_restored_is_trained(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """What `dlref.load` gives is the network whose figures the run logged."""
    from dlref.data.supervised.spiral import Spiral
    from dlref.interfaces import Shard
    from dlref.objectives.supervised import Classification
    from dlref.training.evaluation import evaluate
    from dlref.training.precision import autocast

    run = tmp_path / "run"
    train(*SMALL["mlp"], "trainer.max_steps=20", f"run_dir={run}", "trainer.monitor=null")
    cpu = torch.device("cpu")
    figures = evaluate(
        Classification(dlref.load(run)), Spiral(points=50), "eval", Shard(), autocast("float32", cpu), cpu
    )
    assert figures == {k: v for k, v in logged(run)[-1].items() if k not in ("step", "split")}


def test_a_network_trained_in_float64_is_loaded_in_float64(train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["trainer.precision=float64", "trainer.max_steps=3", "trainer.monitor=null", "~reports"]
    assert train(*SMALL["mlp"], *settings, f"run_dir={run}")[0] == 0
    net = dlref.load(run)
    saved = everything(run)["weights.pt"]
    for name, value in net.state_dict().items():
        assert torch.equal(value, saved[f"net.{name}"])
    assert {value.dtype for value in net.parameters()} == {torch.float64}
