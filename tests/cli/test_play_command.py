"""dlref play: episodes counted and filmed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from dlref.cli.main import main
from dlref.training.checkpoint import manifest_digest
from tests.conftest import SMALL
from tests.data.rl.odd_environments import Rendered, Scripted, registered

Train = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("model", ["dqn", "actor_critic"])
def test_play_counts_episodes_and_films_them(
    model: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, film = str(tmp_path / "run"), tmp_path / "film.gif"
    train(*SMALL[model], "trainer.max_steps=3", f"run_dir={run}")
    assert main(["play", run, "--episodes", "3", "--seed=5"]) == 0
    *lines, mean = capsys.readouterr().out.splitlines()
    returns = [float(line.split()[3].rstrip(",")) for line in lines]
    assert len(returns) == 3
    assert mean.startswith(f"mean return {sum(returns) / 3:g} ±")
    assert main(["play", run, "--video", str(film), "--seed", "5"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == lines[0], "the same start"
    with Image.open(film) as pictures:
        assert (pictures.size, pictures.format) == ((600, 400), "GIF")


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (None, "cannot be rendered: with render_mode rgb_array its render returns NoneType"),
        (ImportError("pygame is not installed"), "pygame is not installed; pip install 'dlref[video]'"),
        (np.zeros((4, 5, 3), np.uint8), None),
    ],
    ids=["none", "no pygame", "picture"],
)
def test_an_environment_of_the_users_is_filmed_or_refused(
    picture: Any, said: str | None, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, run = registered(lambda render_mode=None: Rendered(picture)), str(tmp_path / "run")
    code, errors = train(*SMALL["dqn"], f"data.env={name}", "trainer.max_steps=1", "data.episodes=1", f"run_dir={run}")
    assert code == 0, errors
    code = main(["play", run, "--video", str(tmp_path / "film.gif")])
    out, errors = capsys.readouterr()
    assert (code, len(errors.splitlines())) == ((2, 1) if said else (0, 0))
    assert said is None or said in errors
    assert ("video" in out) == (said is None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "RUN is missing"),
        (["RUN", "--episodes", "none"], "whole number from 1"),
        (["RUN", "--video", "film.mp4"], "a file that ends in .gif"),
        (["RUN", "--vido", "film.gif"], "did you mean"),
    ],
)
def test_a_wrong_play_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_network_that_read_the_channels_last_is_not_used_on_them_first(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, run = spaces.Box(0, 255, (5, 7, 3), np.uint8), tmp_path / "run"
    name = registered(lambda **_: Scripted(space, [space.sample()] * 1000, space.sample()), max_episode_steps=3)
    settings = [*SMALL["dqn"], f"data.env={name}", "data.episodes=1", f"run_dir={run}"]
    code, errors = train(*settings, "trainer.max_steps=1")
    assert code == 0, errors
    commands = (["play", str(run)], ["evaluate", str(run)], ["train", f"resume={run}", "trainer.max_steps=2"])
    for file in {path.resolve() for path in run.glob("checkpoints/*/manifest.json")}:
        manifest = json.loads(file.read_text())
        del manifest["data"]["layout"], manifest["sha256"]
        file.with_suffix(".old").write_text(file.read_text())
        file.write_text(json.dumps(manifest | {"sha256": manifest_digest(manifest)}))
    for command in commands:
        assert main(command) == 4
        assert "does not say layout of its data, which this dlref reads" in capsys.readouterr().err
    for file in run.glob("checkpoints/*/manifest.old"):
        file.rename(file.with_suffix(".json"))
    for command in commands:
        assert main(command) == 0, capsys.readouterr().err


def test_a_model_without_an_environment_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*SMALL["mlp"], "trainer.max_steps=2", f"run_dir={tmp_path / 'run'}")
    assert main(["play", str(tmp_path / "run")]) == 4
    assert "was not trained in an environment" in capsys.readouterr().err
