"""Rollouts: steps taken by the current policy, for policy gradients (Williams 1992)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data.rl.episodes import MAX_EPISODE_STEPS, EnvironmentData, EpisodeTotals, as_input
from dlref.errors import ConfigError
from dlref.hardware import device_and_dtype
from dlref.interfaces import Shard


class Rollout(NamedTuple):
    """T steps of E environments, and statistics of the episodes that ended in them."""

    states: Tensor  # [T, E, ...]
    actions: Tensor  # [T, E] int64
    rewards: Tensor  # [T, E]
    next_states: Tensor  # [T, E, ...]
    terminated: Tensor  # [T, E] bool: next_states is terminal
    ended: Tensor  # [T, E] bool: terminated or truncated
    valid: Tensor  # [T, E] bool: false where an environment took no step and the other fields mean nothing
    finished: EpisodeTotals
    env_steps: int  # so far, of all ranks


class Rollouts(EnvironmentData):
    """A gymnasium environment with Discrete actions, which are sampled from the softmax of the network's outputs.

    Each batch is `rollout_steps` steps of `envs` environments or, with null, a complete episode of each, truncated after
    10,000 steps. No batch is used twice.
    """

    def __init__(
        self,
        env: str = "CartPole-v1",
        envs: int = 8,
        rollout_steps: int | None = None,
        episodes: int = 20,
        seed: int = 0,
    ) -> None:
        if rollout_steps is not None and rollout_steps < 1:
            raise ConfigError(
                f"data.rollout_steps is {rollout_steps}; it takes 1 or more, or null for complete episodes"
            )
        super().__init__(env, envs, rollout_steps is not None, episodes, seed)
        self.rollout_steps = rollout_steps
        self.unit = "steps" if rollout_steps else "episodes"

    def units_per_batch(self, ranks: int) -> float:
        return self.environments.count * (self.rollout_steps or 1) * ranks

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Rollout]:
        self.prepare(shard)
        while True:
            rollout = self.rollout(net)
            yield rollout._replace(env_steps=self.env_steps * shard.ranks)

    def rollout(self, net: nn.Module) -> Rollout:
        count, has_length = self.environments.count, self.rollout_steps is not None
        steps: list[tuple[np.ndarray, ...]] = []
        if not has_length:
            self.reset()
        running = np.ones(count, bool)  # environments whose episode has not ended; with a length all of them
        while running.any() and len(steps) != self.rollout_steps:
            states = self.environments.observations
            actions = self.sample_actions(net, states)
            env_ids = None if has_length else np.flatnonzero(running)
            step = self.step(actions if env_ids is None else actions[env_ids], env_ids)
            fields = [np.zeros((count, *x.shape[1:]), x.dtype) for x in step[1:]]
            for field, values in zip(fields, step[1:], strict=True):
                field[step.env_ids] = values
            valid = np.isin(np.arange(count), step.env_ids)
            steps.append((states, actions, *fields, valid))
            if not has_length:
                _, _, terminated, truncated = fields
                running &= ~(terminated | truncated)
                if running.any() and len(steps) == MAX_EPISODE_STEPS:
                    truncated |= running
                    self.finish(np.flatnonzero(running))
                    break
        device, dtype = device_and_dtype(net)
        states_, actions_, rewards, next_states, is_terminal, is_cut, valid_ = (
            as_input(np.stack(field), device, dtype) for field in zip(*steps, strict=True)
        )
        ended = is_terminal | is_cut
        finished = self.take_finished()
        return Rollout(
            states_, actions_, rewards, next_states, is_terminal, ended, valid_, finished, env_steps=self.env_steps
        )

    def sample_actions(self, net: nn.Module, states: np.ndarray) -> np.ndarray:  # [E, ...] -> [E]
        device, dtype = device_and_dtype(net)
        with torch.no_grad():
            probabilities = net(as_input(states, device, dtype)).softmax(1)
        return torch.multinomial(probabilities.cpu(), 1, generator=self.generator).squeeze(1).numpy()
