"""Environments: each step is a transition of an episode, whichever form it is stepped in, and a frozen one goes on."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from dlref.data.environments import Environments, Step, freeze, thaw
from dlref.errors import ConfigError, DataError
from tests.data import corridor  # noqa: F401  registers the environments


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "FrozenLake-v1", "Taxi-v4"])
def test_a_thawed_environment_goes_on_as_the_frozen_one(name: str) -> None:
    one, other = gymnasium.make(name), gymnasium.make(name)
    one.reset(seed=3)
    for _ in range(3):
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


def test_an_environment_that_hides_its_state_is_not_frozen() -> None:
    env = gymnasium.make("Corridor-terminated-v0")
    env.reset(seed=0)
    assert freeze(env) is None


def rollout(environments: Environments, steps: int) -> list[tuple[np.ndarray, Step]]:
    random = np.random.default_rng(5)
    seen = []
    for _ in range(steps):
        before = environments.observations.copy()
        seen.append((before, environments.step(random.integers(environments.actions, size=environments.count))))
    return seen


@pytest.mark.parametrize("vectorized", [True, False])
def test_no_step_spans_two_episodes(vectorized: bool) -> None:
    """CartPole moves by its speed times 0.02 s in each step; from the end of an episode to the start of the next it jumps."""
    environments = Environments("CartPole-v1", 6, vectorized)
    assert (environments.together is not None) == vectorized
    environments.begin(range(6))
    ends, moves = 0, 0
    for before, step in rollout(environments, 200):
        assert len(step.who) == len(step.rewards) == len(step.terminated)
        assert (step.rewards == 1).all()
        moved = step.observations[:, 0] - before[step.who, 0]
        np.testing.assert_allclose(moved, 0.02 * before[step.who, 1], atol=1e-5)
        outside = (np.abs(step.observations[:, 2]) > 12 * np.pi / 180) | (np.abs(step.observations[:, 0]) > 2.4)
        assert (outside == step.terminated).all()
        ends, moves = ends + step.terminated.sum(), moves + len(step.who)
    assert ends > 30
    # In the vectorised form the step after an end only resets, and only that one is left out.
    assert moves == 6 * 200 - (ends - step.terminated.sum() if vectorized else 0)


@pytest.mark.parametrize(
    ("name", "vectorized"), [("CartPole-v1", True), ("Acrobot-v1", False), ("FrozenLake-v1", False)]
)
def test_environments_go_on_where_their_state_was_taken(name: str, vectorized: bool) -> None:
    one, other = Environments(name, 3, vectorized), Environments(name, 3, vectorized)
    one.begin([1, 2, 3])
    rollout(one, 40)
    assert other.load_state_dict(one.state_dict())
    for (before, step), (before_there, step_there) in zip(rollout(one, 60), rollout(other, 60), strict=True):
        assert np.array_equal(before, before_there)
        assert all(np.array_equal(a, b) for a, b in zip(step, step_there, strict=True))


def test_numbered_observations_are_read_one_hot_and_actions_from_their_first() -> None:
    lake = Environments("FrozenLake-v1", 2)
    lake.begin([0, 1])
    assert lake.observations.tolist() == np.eye(16)[[0, 0]].tolist()
    shifted = Environments("Shifted-v0", 1)
    shifted.begin([0])
    assert (shifted.actions, shifted.shape) == (2, (3,))
    assert shifted.observations.tolist() == [[1, 0, 0]]
    assert shifted.step(np.array([1])).observations.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("name", "said"),
    [("NoSuch-v0", "cannot be made"), ("Pendulum-v1", "actions must be numbered"), ("Blackjack-v1", "observations")],
)
def test_what_cannot_be_played_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Environments(name)


@pytest.mark.faults
@pytest.mark.parametrize(("end", "said"), [("raises", "out of coffee"), ("nan", "reward nan"), ("shape", "shape")])
def test_fault_26_an_environment_that_breaks_is_named_with_its_step(end: str, said: str) -> None:
    environments: Any = Environments(f"Corridor-{end}-v0", 2)
    environments.begin([0, 1])
    with pytest.raises(DataError, match=said) as raised:
        environments.step(np.array([0, 1]))
    assert f"Corridor-{end}-v0" in str(raised.value)
    assert "step 0" in str(raised.value)
