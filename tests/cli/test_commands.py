"""What a user types, and what comes of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlref.cli.commands.evaluate import alike
from dlref.cli.compose import configs_folder
from dlref.cli.main import main
from dlref.training import checkpoint
from tests.conftest import ROOT, SMALL, assert_one_sentence, command, first
from tests.faults.processes import Child

Train = Callable[..., tuple[int, str]]
StartChild = Callable[..., Child]


@pytest.mark.slow
def test_nobody_is_asked_and_nothing_is_sent(tmp_path: Path) -> None:
    """Training, evaluation, use and the doctor, with nothing to be downloaded; asking for a host's name would count, too."""
    code = """
import sys
asked = []
network = ("socket.connect", "socket.getaddrinfo", "socket.sendto")
sys.addaudithook(lambda event, given: event in network and asked.append(given))
from dlref.cli.main import main
run = sys.argv[1]
main(["train", *sys.argv[2:], "device=cpu", "run_dir=" + run])
for command in (["evaluate", run], ["generate", run, "the"], ["compare", run], ["list"], ["doctor"]):
    main(command)
sys.exit(f"asked: {asked}" if asked else 0)
"""
    line = [sys.executable, "-c", code, str(tmp_path / "run"), *SMALL["lstm_lm"], "~reports", "trainer.max_steps=2"]
    result = subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "evaluation.json").exists(), "it was trained and evaluated"


def test_list_names_every_model_and_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for folder in ("model", "experiment", "data"):
        for path in (configs_folder() / folder).glob("*.yaml"):
            assert any(line.strip().startswith(path.stem) and len(line.split()) > 3 for line in lines), path


def test_doctor_finds_this_machine_sound(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out = main(["doctor"]), capsys.readouterr().out
    assert code == 0, out
    assert "torchtext 0.6.0" in out
    assert "data mnist" in out


def test_doctor_names_a_damaged_data_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no")
    monkeypatch.setenv("DLREF_DATA", str(tmp_path))
    assert main(["doctor"]) == 1
    assert "t10k-labels-idx1-ubyte.gz" in capsys.readouterr().out


def test_cfg_job_prints_what_would_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "model=lstm_lm", "network.width=7", "--cfg", "job"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["network"]["width"] == 7
    assert config["name"] == "lstm_lm"


@pytest.mark.parametrize(
    ("model", "reports"),
    first(
        *((model, "none") for model in ("mlp", "seq2seq", "word2vec", "reinforce")),
        *(("lstm_lm", "all"), ("dqn", "all")),
        of=[(model, reports) for model in SMALL for reports in ("none", "all")],
    ),
)
def test_evaluate_gives_the_figures_of_the_best_weights(
    model: str, reports: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = [*SMALL[model], "trainer.max_steps=30", "trainer.eval_every=10", "trainer.log_every=10"]
    settings += ["~reports"] * (reports == "none")
    assert train(*settings, f"run_dir={run}")[0] == 0
    assert main(["evaluate", str(run), "--split", "eval"]) == 0
    out = capsys.readouterr().out
    result = json.loads((run / "evaluation.json").read_text())
    assert result["checkpoint"].startswith("best-")
    assert result["checkpoint"] in out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    trained = next(line for line in lines if line["split"] == "eval" and line["step"] == result["step"])
    again = lines[-1]
    shared = trained.keys() & result["metrics"].keys()  # evaluation has more where word_similarity lies at hand
    assert "loss" in shared or "return" in shared
    for name in shared:
        assert trained[name] == again[name] == result["metrics"][name]
    assert main(["evaluate", str(run)]) == 0  # test, which every built-in set has
    assert json.loads((run / "evaluation.json").read_text())["split"] == "test"
    assert main(["evaluate", str(run / "checkpoints" / "last"), "--split", "eval"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["checkpoint"] == "step-00000030"


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_run_directory_may_be_called_best(name: str, train: Train, tmp_path: Path) -> None:
    assert train(*SMALL["mlp"], "trainer.max_steps=2", "~reports", f"run_dir={tmp_path / name}")[0] == 0
    assert main(["evaluate", str(tmp_path / name)]) == 0
    assert main(["evaluate", str(tmp_path / name / "checkpoints" / name)]) == 0


def test_a_run_directory_says_what_the_run_is(train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(*SMALL["mlp"], "trainer.max_steps=4", "trainer.log_every=2", "seed=5", f"run_dir={run}")
    about = json.loads((run / "run.json").read_text())
    assert "seed=5" in about["overrides"]
    assert about["finished"] is True
    assert about["repeatable_bit_for_bit"] is True
    assert about["step"] == 4
    for key in (
        "command",
        "git_commit",
        "versions",
        "hardware",
        "threads",
        "seconds",
        "samples_per_second",
        "memory_mib",
    ):
        assert key in about
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 5
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == [2, 4, 4]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best-00000004", "step-00000004", "best", "last"}
    assert list(run.glob("events.out.tfevents.*"))


def test_tensorboard_has_the_documented_tags(train: Train, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    expected = {
        "mlp": {
            "train/loss",
            "train/accuracy",
            "train/lr",
            "train/grad_norm",
            "train/samples_per_second",
            "eval/accuracy",
        },
        "lstm_lm": {"train/perplexity", "train/tokens_per_second", "eval/loss", "eval/perplexity"},
        "dqn": {
            "rl/return",
            "rl/length",
            "rl/epsilon",
            "rl/q",
            "rl/environment_steps",
            "rl/updates",
            "rl/replay_ratio",
            "train/steps_per_second",
            "eval/return",
        },
        "actor_critic": {"rl/return", "rl/entropy", "rl/value", "rl/environment_steps", "train/steps_per_second"},
    }
    for model, tags in expected.items():
        run = tmp_path / model
        train(*SMALL[model], "trainer.max_steps=60", "trainer.log_every=30", f"run_dir={run}")
        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        assert tags <= set(events.Tags()["scalars"])
        assert [event.step for event in events.Scalars("train/loss")] == [30, 60]
        if model == "mlp":
            assert events.Tags()["images"] == ["eval/decision_boundary"]


def test_compare_gives_mean_and_standard_deviation_over_seeds(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / str(seed) for seed in range(3)]
    for seed, run in enumerate(runs):
        train(*SMALL["mlp"], "trainer.max_steps=4", f"seed={seed}", f"run_dir={run}", "reports=null")
    assert main(["compare", *map(str, runs), "--metrics", "accuracy"]) == 0
    out = capsys.readouterr().out.splitlines()
    values = [json.loads((run / "run.json").read_text())["metrics"]["accuracy"] for run in runs]
    mean = sum(values) / 3
    std = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    assert out[-1].startswith("mlp × 3")
    assert f"{mean:.5g} ± {std:.2g}" in out[-1]


def test_curves_are_drawn_over_the_seconds_that_were_logged(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    run = tmp_path / "run"
    train(*SMALL["mlp"], "trainer.max_steps=6", "trainer.eval_every=2", f"run_dir={run}", "reports=null")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for over, key in (("seconds", "seconds"), ("steps", "step")):
        assert main(["compare", str(run), "--metrics=loss", "--plot", "curve.png", "--over", over]) == 0
        expected = [(line[key], line["loss"]) for line in lines if line["split"] == "eval"]
        assert list(zip(*drawn[-1].axes[0].lines[0].get_data(), strict=True)) == expected
        assert len(expected) == 3
    assert main(["compare", str(run), "--over", "second"]) == 2


def test_a_model_from_outside_needs_no_edited_file(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linear.py").write_text(
        "from torch import Tensor, nn\n\n\nclass Linear(nn.Module):\n"
        "    def __init__(self, inputs: int, outputs: int, scale: float = 1.0) -> None:\n"
        "        super().__init__()\n        self.layer, self.scale = nn.Linear(inputs, outputs), scale\n\n"
        "    def forward(self, x: Tensor) -> Tensor:\n        return self.scale * self.layer(x)\n"
    )
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "linear.yaml").write_text(
        "# @package _global_\ndefaults: [override /data: spiral]\n"
        "network: {_target_: linear.Linear, scale: 2.0}\ntrainer: {max_steps: 5}\n"
    )
    line = ["model=linear", "plugins=linear.py", "--config-dir", "conf", "run_dir=run"]
    assert train(*line)[0] == 0
    code, said = train(*line[:1], *line[2:4], "run_dir=other")
    assert code == 2
    assert "plugins=FILE.py" in said
    assert main(["evaluate", "run", "plugins=linear.py"]) == 0
    assert main(["evaluate", "run"]) == 4  # what a checkpoint names is not run
    code, said = train("resume=run", "trainer.max_steps=7", "plugins=linear.py")
    assert code == 4
    assert "--config-dir" in said
    assert train("resume=run", "trainer.max_steps=7", "--config-dir", "conf")[0] == 2  # typed again
    assert train("resume=run", "trainer.max_steps=7", "--config-dir", "conf", "plugins=linear.py")[0] == 0


def test_a_sweep_trains_each_combination(child: StartChild, tmp_path: Path) -> None:
    code, said = child("train", "-m", *SMALL["mlp"], "seed=0,1", "trainer.max_steps=2", "device=cpu").ended()
    assert code == 0, said
    runs = sorted((tmp_path / "runs" / "mlp").iterdir())
    assert sorted(yaml.safe_load((run / "config.yaml").read_text())["seed"] for run in runs) == [0, 1]
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}  # Hydra leaves nothing of its own


def test_a_sweep_takes_a_launcher_and_folders_of_configs(child: StartChild, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"conf{number}" / "model").mkdir(parents=True)
        text = f"# @package _global_\ndefaults: [mlp]\nname: own{number}\n"
        (tmp_path / f"conf{number}" / "model" / f"own{number}.yaml").write_text(text)
    folders = [part for number in (1, 2) for part in ("--config-dir", f"conf{number}")]
    settings = ["model=own1,own2", "hydra/launcher=basic", "trainer.max_steps=2", "~reports", "data.points=50"]
    code, said = child("train", "-m", *folders, *settings, "device=cpu", "threads=1").ended()
    assert code == 0, said
    assert {path.name for path in (tmp_path / "runs").iterdir()} >= {"own1", "own2"}


def test_a_sweep_takes_values_as_they_are_typed(child: StartChild, tmp_path: Path) -> None:
    settings = [*SMALL["mlp"], "trainer.max_steps=2", "reports=null", "device=cpu", "threads=1"]
    odd = ["trainer.monitor=eval/loss min,eval/nll min", "goal=it's (1) #ö", "seed=range(3,4)"]
    code, said = child("train", "-m", *settings, *odd).ended()
    assert code == 0, said
    assert said.count("next: dlref evaluate runs/mlp/") == 2
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (tmp_path / "runs" / "mlp").iterdir()]
    assert sorted(config["trainer"]["monitor"] for config in configs) == ["eval/loss min", "eval/nll min"]
    assert [(config["goal"], config["seed"]) for config in configs] == [("it's (1) #ö", 3)] * 2


@pytest.mark.slow
def test_a_sweep_in_other_processes_says_what_it_does_and_how_it_ended(tmp_path: Path) -> None:
    """As joblib's launcher does: each job in a process that has only imported what it is given."""
    launcher = tmp_path / "hydra_plugins" / "apart.py"
    launcher.parent.mkdir()
    launcher.write_text(APART)
    line = ["train", "-m", *SMALL["mlp"], "hydra/launcher=apart", "reports=null", "device=cpu", "threads=1"]
    where = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = command(*line, "trainer.max_steps=2", "seed=0,1", cwd=tmp_path, env=where)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("next: dlref evaluate runs/mlp/") == 2
    failed = command(*line, "trainer.max_stepz=2", "seed=0,1", cwd=tmp_path, env=where)
    assert failed.returncode == 2
    assert "did you mean 'trainer.max_steps'" in failed.stderr
    assert "Traceback" not in failed.stderr


APART = """
import multiprocessing
from dataclasses import dataclass

import cloudpickle
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.plugins.launcher import Launcher

def one(content):
    context, job, overrides, singletons, number = cloudpickle.loads(content)
    setup_globals()
    Singleton.set_state(singletons)
    config = context.config_loader.load_sweep_config(*overrides)
    return cloudpickle.dumps(run_job(
        hydra_context=context, task_function=job, config=config, job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    ))


class Apart(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.given = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        context, job, config = self.given
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return [
                cloudpickle.loads(pool.apply(one, [cloudpickle.dumps(
                    (context, job, (config, list(overrides)), Singleton.get_state(), number)
                )]))
                for number, overrides in enumerate(job_overrides)
            ]


@dataclass
class Settings:
    _target_: str = "hydra_plugins.apart.Apart"


ConfigStore.instance().store(group="hydra/launcher", name="apart", node=Settings, provider="apart")
"""


def test_files_of_others_are_left_alone(train: Train, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    code, said = train(*SMALL["mlp"], "trainer.max_steps=2", f"run_dir={tmp_path}")
    assert code == 2
    assert "holds metrics.jsonl, which no run of dlref wrote" in said
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"


def test_a_wrong_sweep_ends_with_a_sentence(child: StartChild) -> None:
    code, said = child("train", "-m", "model=mlp", "seed=0,1", "trainer.max_stepz=2").ended()
    assert code == 2
    assert "did you mean 'trainer.max_steps'" in said
    assert "Traceback" not in said


def test_what_hydra_refuses_of_a_sweep_is_a_sentence(tmp_path: Path) -> None:
    result = command("train", "-m", "model=mlp,nope", "seed=0", "trainer.max_steps=2", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(
        "dlref: the sweep does not fit: In 'train': Could not find 'model/nope'"
    )
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_sweep_parses_no_command_line_as_hydra_does(tmp_path: Path) -> None:
    """Python 3.14 refuses the parser of Hydra 1.3.8, one of whose help texts is not a string."""
    refusing = """
import argparse, sys
add = argparse.ArgumentParser.add_argument
def add_argument(self, *given, **named):
    if not isinstance(named.get("help", ""), str):
        raise ValueError("badly formed help string")
    return add(self, *given, **named)
argparse.ArgumentParser.add_argument = add_argument
from dlref.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    line = ["train", "-m", *SMALL["mlp"], "seed=0,1", "trainer.max_steps=2", "device=cpu", "threads=1"]
    result = subprocess.run([sys.executable, "-c", refusing, *line], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "runs" / "mlp").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tarin"], "did you mean 'train'"),
        (["train", "--fast"], "no flag --fast"),
        (["list", "optimiser"], "did you mean 'optimizer'"),
        (["train", "model"], "key=value"),
        (["evaluate"], "dlref evaluate: RUN is missing"),
        (["evaluate", "nowhere"], "does not exist"),
        (["evaluate", "nowhere", "somewhere"], "'somewhere' is not key=value; dlref evaluate takes one run"),
        (["compare"], "dlref compare: RUN is missing"),
        (["compare", "nowhere"], "not the directory of a run"),
        (["train", "resume=nowhere"], "not a run directory"),
        (["train", "resume=auto"], "run_dir"),
    ],
)
def test_a_wrong_command_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) in (2, 4)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_only_data_and_device_may_change_in_evaluation(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(*SMALL["mlp"], "trainer.max_steps=2", f"run_dir={run}", "reports=null")
    assert main(["evaluate", str(run), "data.points=30", "seed=9"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["seed"] == 9
    broken = ("data.points=[", "data.points={", "data.points=${oops}")
    for wrong in ("network.widths=[3]", "--split=tets", "data.pionts=3", "optimizer.lr=3", *broken):
        assert main(["evaluate", str(run), wrong]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_evaluation_without_the_test_file_of_training_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would hold out rows at random, of which all but some had been trained on; another place of the file is none."""
    rows, run = "x,y\n" + "\n".join(f"{'abc'[i % 3]},{i % 2}" for i in range(60)), tmp_path / "run"
    for name in ("rows.csv", "test.csv", "moved.csv"):
        (tmp_path / name).write_text(rows)
    typed = ["data=table", f"data.file={tmp_path / 'rows.csv'}", f"data.test_file={tmp_path / 'test.csv'}"]
    typed += ["data.targets=[y]", "data.task=classification", "trainer.max_steps=2", "reports=null", f"run_dir={run}"]
    assert train("model=mlp", *typed)[0] == 0
    assert main(["evaluate", str(run), f"data.test_file={tmp_path / 'moved.csv'}"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "data.test_file=null", "--split", "eval"]) == 2
    assert "data.test_file was a file in training and is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "data", "open_to", "closed_to"),
    [
        (
            "mlp",
            ["data=table", "data.targets=[y]", "data.task=classification"],
            ["data.eval_share=0.1"],
            ["data.test_share=0.2"],
        ),
        (
            "seq2seq",
            ["data.size=200", "data.eval_size=20", "data.test_size=20"],
            ["data.bucket_noise=3"],
            ["data.eval_size=30"],
        ),
    ],
)
def test_evaluation_takes_no_rows_for_held_out_that_were_trained_on(
    model: str,
    data: list[str],
    open_to: list[str],
    closed_to: list[str],
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, run = tmp_path / "rows.csv", str(tmp_path / "run")
    file.write_text("x,y\n" + "\n".join(f"{i % 7},{i % 2}" for i in range(50)))
    again = [f"data.file={file}"] if model == "mlp" else []
    settings = [*data, *again, "trainer.max_steps=2", f"run_dir={run}", "reports=null"]
    assert train(f"model={model}", "network.width=8" if model == "seq2seq" else "network.widths=[4]", *settings)[0] == 0
    assert main(["evaluate", run, *again, *open_to]) == 0
    for wrong in (["seed=1"], closed_to):
        capsys.readouterr()
        assert main(["evaluate", run, *again, *wrong]) == 2
        assert "may hold out rows that were trained on" in capsys.readouterr().err


def test_evaluation_reads_rows_as_training_did(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, moved, run = tmp_path / "rows.csv", tmp_path / "moved.csv", str(tmp_path / "run")
    for path, origin in ((file, 0), (moved, 5)):
        path.write_text("x,y\n" + "\n".join(f"{origin + i % 7},{i % 2}" for i in range(50)))
    settings = ["model=mlp", "network.widths=[4]", "data=table", "data.targets=[y]", "data.task=classification"]
    assert train(*settings, f"data.file={file}", "trainer.max_steps=2", f"run_dir={run}", "reports=null")[0] == 0
    file.write_text(file.read_text().replace("\n6,", "\n6.0000001,"))  # which only changes last digits of the mean
    assert main(["evaluate", run, f"data.file={file}"]) == 0
    assert main(["evaluate", run, f"data.file={moved}"]) == 4
    said = capsys.readouterr().err
    assert "another mean, std or values of its columns" in said
    assert "dlref predict" in said


def test_columns_of_tiny_numbers_are_compared_by_their_own_size() -> None:
    one, other = ([{"name": "x", "mean": mean, "std": 1e-12}] for mean in (1e-12, 4e-12))
    assert alike(one, one)
    assert not alike(one, other)
    assert alike([{"mean": 1e-5, "std": 1e6}], [{"mean": 2e-5, "std": 1e6}])


def test_loading_gives_a_network_with_its_vocabulary(train: Train, tmp_path: Path) -> None:
    import dlref

    run = tmp_path / "run"
    train(*SMALL["lstm_lm"], "trainer.max_steps=2", f"run_dir={run}")
    net = dlref.load(run)
    assert not net.training
    assert net.description["vocabulary"][0] == "<unk>"
    assert net.embed.num_embeddings == len(net.description["vocabulary"])


@pytest.mark.slow
@pytest.mark.alone
def test_starting_is_quick(tmp_path: Path) -> None:
    """Generous limits, so that a busy machine passes: half of each is usual."""
    limits = {("--help",): 1.0, ("completion", "--words", "dlref train mo"): 0.5}
    for arguments, limit in limits.items():
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            command(*arguments)
            seconds.append(time.perf_counter() - began)
        assert min(seconds) <= limit
    seconds = []
    for number in range(3):
        began = time.time()
        command("train", "model=mlp", "trainer.max_steps=1", "trainer.log_every=1", f"run_dir={tmp_path / str(number)}")
        first = (tmp_path / str(number) / "metrics.jsonl").stat()
        seconds.append(first.st_mtime - began)
    assert min(seconds) <= 8


@pytest.mark.parametrize(
    ("model", "typed", "said"),
    first(
        ("mlp", "data.batch_size=0", "dlref: data.batch_size is 0; it takes 1 or more"),
        ("mlp", "data.classes=4", "dlref: data.classes=4 does not suit this model: "),
        of=[
            ("mlp", "data.batch_size=0", "dlref: data.batch_size is 0; it takes 1 or more"),
            ("mlp", "data.points=0", "dlref: data.points=0 does not suit this model: a spiral of 3 classes × 0 points"),
            ("mlp", "data.classes=4", "dlref: data.classes=4 does not suit this model: "),
            ("lstm_lm", "data.min_freq=5", "dlref: data.min_freq=5 does not suit this model: "),
            ("seq2seq", "data.size=0", "dlref: data.size is 0; it takes 1 or more"),
            ("dqn", "data.env=Nope-v0", "dlref: data.env=Nope-v0 cannot be made: "),
        ],
    ),
)
def test_a_wrong_setting_of_evaluate_is_the_command_lines_fault(
    model: str, typed: str, said: str, trained: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(*SMALL[model], "trainer.max_steps=2", "~reports")
    assert_one_sentence(["evaluate", str(run), typed], 2, said, capsys)


def test_what_a_checkpoint_itself_gets_wrong_is_its_own_fault(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever sound setting is typed as well."""
    run = trained(*SMALL["mlp"], "trainer.max_steps=2", "~reports")
    opened = checkpoint.open_checkpoint

    def spoiled(path: Path) -> Any:
        found = opened(path)
        found.manifest["config"]["data"]["points"] = 0
        return found

    monkeypatch.setattr(checkpoint, "open_checkpoint", spoiled)
    for typed in ([], ["data.batch_size=3"]):
        assert_one_sentence(["evaluate", str(run), *typed], 4, "does not describe a model that can be built", capsys)


@pytest.mark.parametrize("model", ["lstm_lm", "seq2seq"])
def test_evaluate_refuses_data_of_another_vocabulary(
    model: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of as many words, so that only the words themselves tell."""
    from dlref.data.text.tokenizer import Vocabulary

    run = tmp_path / "run"
    train(*SMALL[model], "trainer.max_steps=2", f"run_dir={run}", "reports=null")
    assert main(["evaluate", str(run)]) == 0
    begin = Vocabulary.__init__
    monkeypatch.setattr(Vocabulary, "__init__", lambda self, words: begin(self, [*words[:-2], words[-1], words[-2]]))
    assert main(["evaluate", str(run)]) == 4
    assert "another vocabulary" in capsys.readouterr().err


BUSY = """
import threading, torch

def compute():
    while True:
        torch.randn(100).sum().item()

threading.Thread(target=compute, daemon=True).start()
"""


@pytest.mark.slow
def test_a_thread_that_computes_when_the_process_ends_does_not_abort_it(tmp_path: Path) -> None:
    """Python's finalization would kill the thread within torch, which ends the process with SIGABRT."""
    plugin = tmp_path / "busy.py"
    plugin.write_text(BUSY, encoding="utf-8")
    typed = [*SMALL["mlp"], "~reports", "trainer.max_steps=1", f"plugins={plugin}", f"run_dir={tmp_path / 'run'}"]
    done = command("train", *typed)
    assert done.returncode == 0, done.stderr
    assert "next: dlref evaluate" in done.stderr
