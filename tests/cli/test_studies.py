"""Studies, searches and plots: each leaves its table and its picture."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dlref.cli.commands.study import studies
from dlref.cli.main import main
from dlref.studies import batch_norm, gates, initialization, optimizers_surface
from tests.conftest import SMALL, first

Train = Callable[..., tuple[int, str]]
QUICK = {
    "batch_norm": ["scales=2", "epochs=1"],
    "initialization": ["steps=5", "seeds=[0,1]"],
    "optimizers_mnist": ["steps=5", "seeds=[0]"],
    "overfitting": ["epochs=2"],
}
SHORT = {
    "bandits": ["steps=50", "runs=5"],
    "dynamic_programming": ["threshold=0.1"],
    "monte_carlo": ["episodes=50", "prediction_episodes=50"],
    "temporal_difference": ["episodes=50", "prediction_episodes=50"],
}


@pytest.mark.parametrize(
    "name", first("bandits", "monte_carlo", "optimizers_surface", "recurrent_gradients", of=studies())
)
def test_every_study_leaves_a_table_and_its_pictures(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    settings = [*QUICK[name], f"root={request.getfixturevalue('datasets')}"] if name in QUICK else SHORT.get(name, [])
    assert main(["study", name, *settings, f"run_dir={tmp_path / 'here'}"]) == 0
    rows = list(csv.DictReader((tmp_path / "here" / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows) > 2
    pictures = list((tmp_path / "here").glob("*.png"))
    assert pictures
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert json.loads((tmp_path / "here" / "study.json").read_text())["study"] == name


def test_one_unit_learns_all_gates_but_xor_which_takes_two_layers() -> None:
    for row in gates.study().table:
        assert row["two layers"] == "4 of 4"
        assert (row["one unit"] == "4 of 4") == (row["gate"] != "XOR")


def test_the_paths_on_the_surface_follow_the_equations() -> None:
    """Momentum by hand from (-7, 2), and the end that the table gives."""
    x, y, vx, vy = -7.0, 2.0, 0.0, 0.0
    for _ in range(30):
        vx, vy = 0.9 * vx + x / 10, 0.9 * vy + 2 * y
        x, y = x - 0.1 * vx, y - 0.1 * vy
    row = next(row for row in optimizers_surface.study().table if row["optimizer"] == "momentum")
    assert (row["x"], row["y"]) == pytest.approx((x, y), rel=1e-4)


def test_a_study_s_settings_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["gats"], "did you mean 'gates'?"),
        (["gates", "step=3"], "did you mean 'steps'?"),
        (["gates", "steps=many"], "it takes a whole number"),
        (["gates", "steps=-1"], "no negative number"),
        (["gates", "threads=0"], "threads is 0; it takes 1"),
        (["monte_carlo", "max_steps=0"], "max_steps is 0; it takes 1 or more"),
        (["bandits", "arms=0"], "arms is 0; it takes 1 or more"),
        (["dynamic_programming", "threshold=0"], "threshold is 0; it takes a number above 0"),
    ):
        assert main(["study", *arguments]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.alone
def test_the_books_figures_are_within_the_noise_of_single_batches(datasets: Path) -> None:
    torch.set_num_threads(2)
    for row in initialization.study(datasets, seeds=[0, 1]).table:
        low, high = (float(end) for end in str(row["single batches"]).split(" to "))
        assert low <= float(row["book"]) <= high
    wins = sum(row["better"] == "batch norm" for row in batch_norm.study(datasets).table)
    assert wins >= 14


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_interrupted(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlref.training.trainer import Trainer

    space = ["optimizer.lr=log(1e-4,1e-1)", "network.widths=choice([5],[6,7])", "--trials", "4"]
    small = ["model=mlp", "data.points=20", "trainer.max_steps=6", "trainer.eval_every=3", "device=cpu"]

    def table(folder: str) -> list[dict[str, str]]:
        rows = list(csv.DictReader((tmp_path / folder / "table.csv").read_text(encoding="utf-8").splitlines()))
        return [{key: value for key, value in row.items() if key != "run"} for row in rows]

    assert main(["search", *small, *space, "--search-dir", str(tmp_path / "whole")]) == 0
    step, calls = Trainer.step, []

    def interrupted(self: Trainer, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 15:  # within the third trial
            raise KeyboardInterrupt
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert main(["search", *small, *space, "--search-dir", str(tmp_path / "parts")]) == 130
    monkeypatch.setattr(Trainer, "step", step)
    assert main(["search", *small, *space, "--search-dir", str(tmp_path / "parts")]) == 0
    assert table("whole") == table("parts")
    assert len(table("whole")) == 4
    assert (tmp_path / "parts" / "search.png").exists()
    capsys.readouterr()
    assert main(["search", *small, "optimizer.lr=log(1,2)", "--search-dir", str(tmp_path / "parts")]) == 2
    assert "holds a search of other settings" in capsys.readouterr().err


def test_a_search_takes_folders_of_configs_and_paths_as_they_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [mlp]\nname: mine\ntrainer: {max_steps: 2}\n"
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(text)
    (tmp_path / "rows (1).csv").write_text("x,y\n" + "\n".join(f"{i % 7},{i % 2}" for i in range(50)))
    line = [
        "search",
        "model=mine",
        "data=table",
        "data.file=rows (1).csv",
        "data.targets=[y]",
        "data.task=classification",
    ]
    line += [
        "network.widths=choice([5],[6,7])",
        "--trials",
        "1",
        "--search-dir",
        "it's (1)",
        "device=cpu",
        "reports=null",
    ]
    assert main(line) == 2
    assert main([*line, "--config-dir", "conf"]) == 0
    assert (tmp_path / "it's (1)" / "0000" / "checkpoints" / "last").exists()
    config = (tmp_path / "it's (1)" / "0000" / "config.yaml").read_text()
    assert "name: mine" in config


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=mlp"], "nothing is searched for"),
        (["model=mlp", "optimizer.lr=log(0,1)"], "above 0"),
        (["model=mlp", "optimizer.lr=log(1)"], "two numbers"),
        (["model=mlp", "optimizer.lr=log(1e-3,1)", "--trials=some"], "whole number"),
        (["model=mlp", "optimizer.lr=log(1e-3,1)", "trainer.monitor=null"], "trainer.monitor"),
        (["model=mlp", "optimizer.lr=log(1e-3,1)", "trainer.monitor=nll"], "write as 'eval/loss min'"),
        (["model=ngram", "network.order=int(2,4)"], "needs trainer.monitor"),
        (["model=mlp", "optimizer.lrr=log(1e-3,1)"], "optimizer.lrr"),
        (["model=mlp", "optimizer.lr=log(1e-3,1)", "--search-dir=what?"], "question mark"),
    ],
)
def test_a_wrong_search_is_one_sentence_and_leaves_nothing(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_compare_draws_a_line_for_each_group_of_seeds(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for rate in ("1e-3", "1e-2"):
        for seed in (0, 1):
            runs.append(str(tmp_path / f"{rate}-{seed}"))
            settings = [f"optimizer.lr={rate}", f"seed={seed}", "trainer.max_steps=4", "trainer.eval_every=2"]
            train(*SMALL["mlp"], *settings, f"run_dir={runs[-1]}")
    assert main(["compare", *runs, "--plot", str(tmp_path / "plot.svg")]) == 0
    drawn = (tmp_path / "plot.svg").read_text()
    assert "mlp × 2" in capsys.readouterr().out
    assert "<!-- mlp, lr 0.001 -->" in drawn
    assert "<!-- mlp, lr 0.01 -->" in drawn
    assert main(["compare", *runs, "--plot", "plot.txt"]) == 2
