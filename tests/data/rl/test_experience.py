"""Experience: stored transitions are those of the environment, and as many as the settings say."""

import copy
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dlref.data.rl.experience import Experience, Transitions
from dlref.errors import ConfigError
from dlref.interfaces import Shard
from tests.data.rl import corridor  # noqa: F401  registers the environments


class Push(nn.Module):
    """Acts by the angle of the pole, so that episodes are neither short nor long."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 0.0, 1.0, 0.0]))

    def forward(self, states: Tensor) -> Tensor:
        return torch.stack([-(states @ self.weight), states @ self.weight], dim=1)


def experience(env: str, batches: int = 5, **settings: Any) -> tuple[Experience, list[Transitions]]:
    data = Experience(env=env, **{"learning_starts": 20, "buffer_size": 50} | settings)
    net = nn.Linear(data.sizes["inputs"], data.sizes["outputs"])
    return data, list(islice(data.train_batches(net, Shard(), 0), batches))


@pytest.mark.faults
@pytest.mark.parametrize("length", [3, 1])
@pytest.mark.parametrize("end", ["terminated", "truncated", "both"])
def test_fault_26_bootstrap_is_cut_only_where_the_episode_terminated(end: str, length: int) -> None:
    """And reset steps are not stored: states are 0 1 2 | 0 1 2, next states 1 2 3."""
    data, batches = experience(f"Corridor-{end}-v{0 if length == 3 else 1}", env_steps_per_update=2)
    replay, count = data.replay, data.replay.written
    assert count == 20 + 5 * 2
    assert replay.storage.states[:count, 0].tolist() == [i % length for i in range(count)]
    assert (replay.storage.next_states[:count, 0] == replay.storage.states[:count, 0] + 1).all()
    assert replay.rewards[:count].tolist() == [i % length + 1 for i in range(count)]
    assert replay.terminated[:count].tolist() == [end != "truncated" and i % length == length - 1 for i in range(count)]
    episodes, total = count // length, length * (length + 1) / 2
    finished = [sum(sums) for sums in zip(*(batch.finished for batch in batches), strict=True)]
    assert finished == [episodes * total, episodes * length, episodes]


@pytest.mark.parametrize(("envs", "env_steps_per_update"), [(1, 1), (1, 3), (4, 2), (4, 0.5), (3, 7)])
def test_each_batch_follows_the_environment_steps_of_the_settings(envs: int, env_steps_per_update: float) -> None:
    data = Experience(
        "Corridor-terminated-v0",
        envs=envs,
        env_steps_per_update=env_steps_per_update,
        learning_starts=10,
        buffer_size=1000,
    )
    new = 0
    for number, batch in enumerate(islice(data.train_batches(nn.Linear(2, 3), Shard(), 0), 12)):
        due = 10 + env_steps_per_update * (number + 1)
        assert due <= batch.env_steps < due + envs
        new += batch.new_env_steps
        assert new == batch.env_steps == data.replay.written


def test_several_environments_are_stored_as_one_is() -> None:
    data, _ = experience("Corridor-truncated-v0", envs=4, buffer_size=60)
    replay, count = data.replay, data.replay.written
    assert count == 28
    assert replay.storage.states[:count, 0].tolist() == [i // 4 % 3 for i in range(count)]
    assert replay.following[:count].tolist() == [-1 if i // 4 % 3 == 2 or i >= 24 else i + 4 for i in range(count)]
    one, _ = experience("CartPole-v1", envs=1, buffer_size=300, learning_starts=200)
    many, _ = experience("CartPole-v1", envs=5, buffer_size=300, learning_starts=200)
    for data in (one, many):  # the cart moves by its velocity; between two episodes it would jump
        kept = slice(0, data.replay.written)
        states, after = data.replay.storage.states[kept], data.replay.storage.next_states[kept]
        np.testing.assert_allclose(after[:, 0], states[:, 0] + 0.02 * states[:, 1], atol=1e-5, rtol=0)
        follows = data.replay.following[kept]
        assert np.array_equal(data.replay.storage.states[follows[follows >= 0]], after[follows >= 0])


def test_a_full_replay_buffer_keeps_the_last_transitions() -> None:
    data, batches = experience("Corridor-terminated-v0", env_steps_per_update=13)
    written = data.replay.written
    assert written == 20 + 5 * 13
    newest = {(i % 50, (i % 3)) for i in range(written - 50, written)}
    assert {(row, int(data.replay.storage.states[row, 0])) for row in range(50)} == newest
    assert all((batch.next_states[:, 0] == batch.states[:, 0] + 1).all() for batch in batches)


def test_n_step_transitions_have_the_rewards_up_to_the_end_of_the_episode() -> None:
    """Rewards are 1 2 3 | 1 2 3."""
    _, batches = experience("Corridor-terminated-v0", n_step=2, batch_size=30, learning_starts=40)
    for batch in batches:
        for state, rewards, steps, after, ended in zip(
            batch.states[:, 0], batch.rewards, batch.steps, batch.next_states[:, 0], batch.terminated, strict=True
        ):
            if (state, after) in ((0, 1), (1, 2)):  # the newest transition, which none follows yet
                continue
            assert (rewards.tolist(), int(steps), float(after), bool(ended)) == {
                0.0: ([1.0, 2.0], 2, 2.0, False),
                1.0: ([2.0, 3.0], 2, 3.0, True),
                2.0: ([3.0, 0.0], 1, 3.0, True),
            }[float(state)]


def test_epsilon_falls_linearly_to_its_final_value() -> None:
    data = Experience(exploration_steps=100, final_epsilon=0.1)
    epsilons = []
    for env_steps in (0, 50, 100, 1000):
        data.env_steps = env_steps
        epsilons.append(data.epsilon())
    assert epsilons == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_transitions_are_sampled_in_proportion_to_their_td_errors() -> None:
    data = Experience("Corridor-terminated-v0", prioritized=True, learning_starts=30, batch_size=2000, buffer_size=64)
    batches = data.train_batches(nn.Linear(2, 3), Shard(), 0)
    for _ in range(40):
        batch = next(batches)
        assert batch.td_errors is not None
        batch.td_errors.copy_(batch.states[:, 0])  # 0 1 2
    assert batch.weights is not None
    frequencies = torch.bincount(batch.states[:, 0].long(), minlength=3) / 2000
    expected = torch.tensor([0.0, 1.0, 2.0]) ** 0.6
    torch.testing.assert_close(
        frequencies, expected / expected.sum(), atol=0.04, rtol=0
    )  # the tolerance covers the new transition, whose priority is the highest
    ones, twos = batch.weights[batch.states[:, 0] == 1], batch.weights[batch.states[:, 0] == 2]
    beta = 0.4 + 0.6 * data.replay.written / data.exploration_steps
    assert float(ones[0] / twos[0]) == pytest.approx(2 ** (0.6 * beta), rel=0.01)


def test_evaluation_has_the_same_episodes_for_any_number_of_ranks() -> None:
    data = Experience(episodes=5)
    one_rank = [tuple(e) for e in data.batches("eval", Push(), Shard())]
    two_ranks = [tuple(e) for rank in range(2) for e in data.batches("eval", Push(), Shard(rank, 2))]
    assert one_rank == two_ranks == [tuple(e) for e in data.batches("eval", Push(), Shard())]
    assert one_rank != [tuple(e) for e in data.batches("test", Push(), Shard())]
    assert all(length == episode_return for episode_return, length in one_rank)


def test_settings_out_of_range_are_refused() -> None:
    for settings in (
        {"envs": 0},
        {"n_step": 0},
        {"env_steps_per_update": 0.0},
        {"final_epsilon": 1.5},
        {"buffer_size": 3, "envs": 4},
    ):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            Experience(**settings)
    with pytest.raises(ConfigError, match="batch_size is 1; it takes one or more for each of 2 processes"):
        next(Experience(batch_size=1).train_batches(nn.Linear(4, 2), Shard(1, 2), 0))


@pytest.mark.parametrize("prioritized", [True, False])
def test_restored_experience_continues_identically(prioritized: bool) -> None:
    """With several steps and environments, a full replay buffer, and a state taken between two prefetched batches."""
    settings: dict[str, Any] = {
        "envs": 3,
        "n_step": 3,
        "env_steps_per_update": 0.7,
        "prioritized": prioritized,
        "buffer_size": 40,
        "learning_starts": 60,
        "batch_size": 8,
    }
    net, original, restored = Push(), Experience(**settings), Experience(**settings)

    def learn(batches: Any, count: int) -> list[list[Any]]:
        seen = []
        for _ in range(count):
            batch = next(batches)
            if prioritized:
                batch.td_errors.copy_(batch.rewards.sum(1) * batch.part.start)
            fields = batch._replace(prefetched=None, td_errors=None)
            seen.append([x.tolist() if isinstance(x, Tensor) else x for x in fields])
        return seen

    batches = original.train_batches(net, Shard(), 0)
    learn(batches, 10)
    restored.load_state_dict(copy.deepcopy(original.state_dict()))
    assert learn(batches, 30) == learn(restored.train_batches(net, Shard(), 10), 30)


def test_prefetched_batches_equal_batches_that_are_sampled_one_at_a_time() -> None:
    settings: dict[str, Any] = {
        "envs": 6,
        "n_step": 2,
        "env_steps_per_update": 1.5,
        "learning_starts": 30,
        "batch_size": 5,
    }
    prefetched, plain = (Experience(**settings) for _ in range(2))

    def sample(count: int, device: torch.device, dtype: torch.dtype, statistics: tuple[Any, ...]) -> Transitions:
        return plain.transitions(plain.sample_rows(1, count), count, device, dtype)

    plain.sample = sample  # type: ignore[method-assign]
    batches = zip(*(data.train_batches(Push(), Shard(), 0) for data in (prefetched, plain)), strict=True)
    for batch, expected in islice(batches, 30):
        for field in ("states", "actions", "rewards", "steps", "next_states", "terminated"):
            assert np.array_equal(getattr(batch, field), getattr(expected, field)), field
