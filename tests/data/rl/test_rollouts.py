"""Rollouts: the policy's steps, and the ends of episodes among them."""

from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

from dlref.data.rl import rollouts
from dlref.data.rl.rollouts import Rollout, Rollouts
from dlref.interfaces import Shard
from tests.data.rl import corridor  # noqa: F401  registers the environments


def rollouts_of(env: str, batches: int, **settings: Any) -> list[Rollout]:
    data = Rollouts(env, **settings)
    return list(islice(data.train_batches(nn.Linear(*data.sizes.values()), Shard(), 0), batches))


@pytest.mark.parametrize("end", ["terminated", "truncated", "both"])
def test_each_rollout_continues_where_the_previous_one_ended(end: str) -> None:
    batches = rollouts_of(f"Corridor-{end}-v0", 3, envs=2, rollout_steps=4)
    for env in range(2):
        states = torch.cat([b.states[:, env, 0] for b in batches])
        assert states.tolist() == [i % 3 for i in range(12)]
        assert torch.equal(torch.cat([b.next_states[:, env, 0] for b in batches]), states + 1)
        assert torch.cat([b.rewards[:, env] for b in batches]).tolist() == [i % 3 + 1 for i in range(12)]
        assert torch.cat([b.ended[:, env] for b in batches]).tolist() == [i % 3 == 2 for i in range(12)]
        assert torch.cat([b.terminated[:, env] for b in batches]).any() == (end != "truncated")
    assert all(b.valid.all() for b in batches)
    assert [sum(sums) for sums in zip(*(b.finished for b in batches), strict=True)] == [8 * 6.0, 8 * 3.0, 8]
    assert [b.env_steps for b in batches] == [8, 16, 24]


def test_without_rollout_steps_each_environment_has_one_complete_episode() -> None:
    batch = rollouts_of("CartPole-v1", 2, envs=4)[1]
    lengths = batch.valid.sum(0)
    assert len(set(lengths.tolist())) > 1
    assert batch.finished == (sum(lengths), sum(lengths), 4)
    for env, length in enumerate(lengths.tolist()):
        assert batch.valid[:length, env].all()
        assert batch.ended[:, env].nonzero().flatten().tolist() == [length - 1]
        torch.testing.assert_close(
            batch.next_states[:length, env, 0], (batch.states[:, env, 0] + 0.02 * batch.states[:, env, 1])[:length]
        )
    assert torch.equal(batch.rewards, batch.valid.float())


def test_an_endless_episode_is_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "MAX_EPISODE_STEPS", 5)
    for batch in rollouts_of("Shifted-v0", 2, envs=3):
        assert batch.valid.shape == (5, 3)
        assert batch.valid.all()
        assert not batch.terminated.any()
        assert batch.ended.tolist() == 4 * [[False] * 3] + [[True] * 3]
        assert batch.finished == (0.0, 15.0, 3)
    [batch] = rollouts_of("Corridor-terminated-v0", 1, envs=2)  # of three steps
    assert batch.ended.tolist() == batch.terminated.tolist() == 2 * [[False] * 2] + [[True] * 2]


def test_reset_steps_are_not_valid() -> None:
    """gymnasium's vector environment of CartPole resets in a step of its own."""
    (batch,) = rollouts_of("CartPole-v1", 1, envs=4, rollout_steps=120)
    assert not batch.valid.all()
    assert torch.equal(~batch.valid[1:], batch.ended[:-1])
    assert batch.env_steps == int(batch.valid.sum())


def test_actions_are_sampled_from_the_policy() -> None:
    data = Rollouts(envs=4000, rollout_steps=1)
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.copy_(torch.tensor([0.3, 0.7]).log())
    batch = next(data.train_batches(net, Shard(), 0))
    assert float(batch.actions.float().mean()) == pytest.approx(0.7, abs=0.03)
