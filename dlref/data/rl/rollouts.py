"""Rollouts: what the present policy does, for learning from it at once (Williams 1992)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data.rl.episodes import LONGEST, Finished, Playing, as_input
from dlref.errors import ConfigError
from dlref.hardware import device_and_dtype
from dlref.interfaces import Shard


class Rollout(NamedTuple):
    """T steps of E environments, and what play has seen of whole episodes."""

    states: Tensor  # [T, E, ...]
    actions: Tensor  # [T, E] int64
    rewards: Tensor  # [T, E]
    next_states: Tensor  # [T, E, ...]
    terminated: Tensor  # [T, E] bool: nothing follows next_states
    ended: Tensor  # [T, E] bool: terminated, or cut off by a time limit
    taken: Tensor  # [T, E] bool: false where an environment took no step, and the other fields mean nothing
    finished: Finished  # episodes that ended in them
    played: int  # environment steps so far, over all ranks


class Rollouts(Playing):
    """Any gymnasium environment with numbered actions, played by drawing from the softmax of the network's outputs.

    Each batch is `length` steps of `envs` environments, or without a `length` a whole episode of each, which is cut off
    after 10,000 steps. Nothing is kept for the next batch. Evaluation plays `episodes` greedy episodes, the same starts
    each time. Each rank plays environments of its own.
    """

    def __init__(
        self, env: str = "CartPole-v1", envs: int = 8, length: int | None = None, episodes: int = 20, seed: int = 0
    ) -> None:
        if length is not None and length < 1:
            raise ConfigError(f"data.length is {length}; it takes 1 or more, or null for whole episodes")
        super().__init__(env, envs, length is not None, episodes, seed)
        self.length = length
        self.unit = "steps" if length else "episodes"

    def units_per_batch(self, ranks: int) -> float:
        return self.environments.count * (self.length or 1) * ranks

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Rollout]:
        self.prepare(shard)
        while True:
            rollout = self.roll(net)
            yield rollout._replace(played=self.played * shard.ranks)

    def roll(self, net: nn.Module) -> Rollout:
        count = self.environments.count
        steps: list[tuple[np.ndarray, ...]] = []
        if self.length is None:
            self.begin()
        playing = np.ones(count, bool)
        while len(steps) < self.length if self.length is not None else playing.any():
            states = self.environments.observations
            actions = self.draw(net, states)
            who = None if self.length is not None else np.flatnonzero(playing)
            step = self.step(actions if who is None else actions[who], who)
            fields = [np.zeros((count, *x.shape[1:]), x.dtype) for x in step[1:]]
            for field, values in zip(fields, step[1:], strict=True):
                field[step.who] = values
            taken = np.isin(np.arange(count), step.who)
            steps.append((states, actions, *fields, taken))
            if self.length is None:
                playing &= ~(fields[2] | fields[3])
                if playing.any() and len(steps) == LONGEST:
                    fields[3] |= playing
                    self.end(np.flatnonzero(playing))
                    break
        device, dtype = device_and_dtype(net)
        stacked = [as_input(np.stack(field), device, dtype) for field in zip(*steps, strict=True)]
        return Rollout(
            states=stacked[0],
            actions=stacked[1],
            rewards=stacked[2],
            next_states=stacked[3],
            terminated=stacked[4],
            ended=stacked[4] | stacked[5],
            taken=stacked[6],
            finished=self.take_finished(),
            played=self.played,
        )

    def draw(self, net: nn.Module, states: np.ndarray) -> np.ndarray:  # [E, ...] -> [E]
        """Actions by their chances."""
        device, dtype = device_and_dtype(net)
        with torch.no_grad():
            shares = net(as_input(states, device, dtype)).softmax(1)
        return torch.multinomial(shares.cpu(), 1, generator=self.random).squeeze(1).numpy()
