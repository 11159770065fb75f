"""Play: what is stored is what happened, and a frozen environment goes on as if it had not stopped."""

from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dlref.data import Shard
from dlref.data.play import Play, freeze, thaw
from dlref.errors import ConfigError, DataError


class Push(nn.Module):
    """Acts by the angle of the pole, so that episodes are of middling length."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 0.0, 1.0, 0.0]))

    def forward(self, states: Tensor) -> Tensor:
        return torch.stack([-(states @ self.weight), states @ self.weight], dim=1)


class Corridor(gymnasium.Env[Any, Any]):
    """Ends by the wish of the test: at step 3 terminated, truncated or both; or it fails."""

    observation_space = gymnasium.spaces.Box(-100, 100, (2,))
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, end: str = "terminated") -> None:
        self.end, self.position = end, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = 0
        return np.array([0, 1], np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position += 1
        if self.end == "raises":
            raise RuntimeError("out of coffee")
        shape = 3 if self.end == "shape" else 2
        reward = float("nan") if self.end == "nan" else float(self.position)
        over = self.position == 3
        return (
            np.full(shape, self.position, np.float32),
            reward,
            over and self.end in ("terminated", "both"),
            over and self.end in ("truncated", "both"),
            {},
        )


for _end in ("terminated", "truncated", "both", "raises", "nan", "shape"):
    gymnasium.register(f"Corridor-{_end}-v0", Corridor, kwargs={"end": _end}, disable_env_checker=True)


def played(env: str, **settings: Any) -> tuple[Play, list[Any]]:
    data = Play(env=env, warmup_steps=20, replay=50, **settings)
    net = nn.Linear(data.inputs, data.outputs)
    return data, list(islice(data.train_batches(net, Shard(), 0), 5))


@pytest.mark.faults
@pytest.mark.parametrize("end", ["terminated", "truncated", "both"])
def test_fault_26_bootstrap_is_cut_only_where_the_episode_terminated(end: str) -> None:
    """And the step that only resets is not among the transitions: states go 0 1 2 | 0 1 2, next states 1 2 3."""
    data, batches = played(f"Corridor-{end}-v0", play_steps=2)
    count = data.written
    assert count == 20 + 5 * 2
    assert data.states[:count, 0].tolist() == [i % 3 for i in range(count)]
    assert torch.equal(data.next_states[:count, 0], data.states[:count, 0] + 1)
    assert data.rewards[:count].tolist() == [i % 3 + 1 for i in range(count)]
    assert data.terminated[:count].tolist() == [end != "truncated" and i % 3 == 2 for i in range(count)]
    assert sum(len(batch.finished) for batch in batches) == count // 3
    assert all(row.tolist() == [6.0, 3.0] for batch in batches for row in batch.finished)


@pytest.mark.faults
@pytest.mark.parametrize(("end", "said"), [("raises", "out of coffee"), ("nan", "reward nan"), ("shape", "shape")])
def test_fault_26_an_environment_that_breaks_is_named_with_its_step(end: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        played(f"Corridor-{end}-v0")
    assert f"Corridor-{end}-v0" in str(raised.value)
    assert "step 0" in str(raised.value)


def test_a_full_replay_keeps_the_last_transitions() -> None:
    data, batches = played("Corridor-terminated-v0", play_steps=13)
    assert data.written == 20 + 5 * 13
    newest = {(i % 50, (i % 3)) for i in range(data.written - 50, data.written)}
    assert {(row, int(data.states[row, 0])) for row in range(50)} == newest
    assert all((batch.next_states[:, 0] == batch.states[:, 0] + 1).all() for batch in batches)


def test_chance_falls_in_a_line_to_its_floor() -> None:
    data = Play(explore_steps=100, epsilon=0.1)
    shares = []
    for written in (0, 50, 100, 1000):
        data.written = written
        shares.append(data.epsilon_now())
    assert shares == pytest.approx([1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_a_thawed_environment_goes_on_as_the_frozen_one(name: str) -> None:
    one, other = gymnasium.make(name), gymnasium.make(name)
    one.reset(seed=3)
    for _ in range(5):
        one.step(1)
    state = freeze(one)
    assert state is not None
    other.reset()
    thaw(other, state)
    for _ in range(600):  # over ends, resets and the time limit
        a, b = one.step(0), other.step(0)
        assert np.array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]
        if a[2] or a[3]:
            assert np.array_equal(one.reset()[0], other.reset()[0])


def test_evaluation_plays_the_same_whole_episodes_over_any_ranks() -> None:
    data = Play(episodes=5)
    alone = [tuple(e) for e in data.batches("eval", Push(), Shard())]
    shared = [tuple(e) for rank in range(2) for e in data.batches("eval", Push(), Shard(rank, 2))]
    assert alone == shared == [tuple(e) for e in data.batches("eval", Push(), Shard())]
    assert alone != [tuple(e) for e in data.batches("test", Push(), Shard())]
    assert all(length == returns for returns, length in alone)


def test_what_cannot_be_played_is_refused() -> None:
    for env, said in (("NoSuch-v0", "cannot be made"), ("Pendulum-v1", "takes n and a vector")):
        with pytest.raises(ConfigError, match=said):
            Play(env=env)
