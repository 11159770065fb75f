"""Atari games: frames are stacked and stored once, and training resumes with a new episode."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from dlref.data.rl.environments import Environments
from dlref.data.rl.experience import Experience
from dlref.interfaces import Shard
from dlref.models.strided_cnn import StridedCNN

pytest.importorskip("ale_py")
PONG = [
    "experiment=dqn_pong",
    "data.learning_starts=40",
    "data.buffer_size=200",
    "data.batch_size=4",
    "data.envs=2",
    "threads=2",
]
PONG += ["network.convolutions=[[4,8,8]]", "network.widths=[8]", "trainer.monitor=null", "trainer.eval_every=null"]


def test_states_are_the_last_four_frames() -> None:
    environments = Environments("ALE/Pong-v5", 2)
    environments.reset([1, 2])
    assert environments.observations.shape == (2, 4, 84, 84)
    assert not environments.observations[:, :3].any()
    for _ in range(5):
        before = environments.observations
        step = environments.step(np.array([2, 3]))
        assert np.array_equal(step.observations[:, :3], before[:, 1:])
        assert step.observations[:, 3].any()


def test_the_network_gets_frames_scaled_to_0_to_1() -> None:
    data = Experience("ALE/Pong-v5", envs=2, batch_size=8, buffer_size=100, learning_starts=50)
    net = StridedCNN(**{name: data.sizes[name] for name in ("rows", "columns", "outputs", "in_channels")}, widths=[4])
    for batch in islice(data.train_batches(net, Shard(), 0), 3):
        assert batch.states.shape == batch.next_states.shape == (8, 4, 84, 84)
        assert batch.states.dtype == torch.float32
        assert 0.5 < float(batch.states.max()) <= 1
        assert torch.equal(batch.states[:, 1:], batch.next_states[:, :3])
    assert data.replay.storage.state_dict(len(data.replay))["frames"].shape[1:] == (84, 84)


@pytest.mark.slow
def test_pong_trains_and_resumes(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """A game's state cannot be saved, so a resumed run starts a new episode."""
    run = f"run_dir={tmp_path / 'run'}"
    code, said = train(*PONG, "data.episodes=1", "trainer.max_steps=20", "trainer.log_every=10", run)
    assert code == 0, said
    code, said = train(*PONG, "data.episodes=1", "trainer.max_steps=30", "trainer.log_every=10", run, "resume=auto")
    assert code == 0, said
    assert "cannot be restored" in said
