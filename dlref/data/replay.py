"""The replay memory: Lin 1992, and with priorities Schaul et al. 2016."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from dlref.data.environments import Step
from dlref.errors import ConfigError


class Sample(NamedTuple):
    """B transitions, each with the n - 1 that followed it in its episode, as far as there are so many."""

    states: np.ndarray  # [B, ...]
    actions: np.ndarray  # [B] int64
    rewards: np.ndarray  # [B, n]: of the transitions from here on, 0 for those that are not there
    steps: np.ndarray  # [B] int64: how many are, 1 to n
    next_states: np.ndarray  # [B, ...]: after the last of them
    terminated: np.ndarray  # [B] bool: nothing follows next_states; an episode cut off by a time limit goes on


class Replay:
    """The last `capacity` transitions of `envs` environments, in arrays that are allocated once.

    They are NumPy's, which reads and writes single rows in a fraction of the time of tensors. A transition knows the one
    that followed it in its episode, so the rewards of n steps are put together when they are sampled. Raises ConfigError
    for fewer rows than environments.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: Any, envs: int = 1) -> None:
        if capacity < envs:
            raise ConfigError(
                f"data.replay is {capacity} and data.envs {envs}; remember one transition of each or more"
            )
        self.capacity = capacity
        self.states = np.zeros((capacity, *shape), dtype)
        self.next_states = np.zeros((capacity, *shape), dtype)
        self.actions = np.zeros(capacity, np.int64)
        self.rewards = np.zeros(capacity, np.float32)
        self.terminated = np.zeros(capacity, bool)
        self.following = np.full(capacity, -1)  # the row of the next transition of the episode, -1 for none
        self.newest = np.full(envs, -1)  # of each environment's episode
        self.written = 0  # so far; the oldest are overwritten

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def write(self, states: np.ndarray, actions: np.ndarray, step: Step) -> np.ndarray:
        """What the environments of a step saw and did before it, [M, ...] and [M]; the rows that were written [M]."""
        rows = (self.written + np.arange(len(step.who))) % self.capacity
        self.states[rows], self.next_states[rows] = states, step.observations
        self.actions[rows], self.rewards[rows], self.terminated[rows] = actions, step.rewards, step.terminated
        before = self.newest[step.who]
        self.following[rows] = -1
        self.following[before[before >= 0]] = rows[before >= 0]
        self.newest[step.who] = np.where(step.terminated | step.truncated, -1, rows)
        self.written += len(rows)
        return rows

    def sample(self, rows: np.ndarray, n_step: int = 1) -> Sample:
        """The transitions of rows [B], which have been written."""
        here, steps, rewards = rows, np.ones_like(rows), [self.rewards.take(rows)]
        for _ in range(n_step - 1):
            after = self.following.take(here)
            there = after >= 0  # and where it once was not, it never is again: `here` stays
            here = np.where(there, after, here)
            rewards.append(self.rewards.take(here) * there)
            steps += there
        return Sample(
            self.states.take(rows, 0),
            self.actions.take(rows),
            np.stack(rewards, 1),
            steps,
            self.next_states.take(here, 0),
            self.terminated.take(here),
        )

    def columns(self) -> list[np.ndarray]:
        return [self.states, self.next_states, self.actions, self.rewards, self.terminated, self.following]

    def state_dict(self) -> dict[str, Any]:
        rows = [torch.from_numpy(column[: len(self)].copy()) for column in self.columns()]
        return {"written": self.written, "newest": self.newest.tolist(), "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.written, self.newest = state["written"], np.array(state["newest"])
        for column, saved in zip(self.columns(), state["rows"], strict=True):
            column[: len(self)] = saved.numpy()


class Priorities:
    """Chances of rows in proportion to their priorities, which are drawn from and changed in O(√rows).

    Rows stand in √rows blocks with their sums: a block is drawn, then a row in it (Schaul et al. 2016, appendix B.2.1, has a
    tree in place of the two levels).
    """

    def __init__(self, rows: int) -> None:
        self.width = math.isqrt(rows - 1) + 1
        self.values = np.zeros((-(-rows // self.width), self.width))
        self.sums = np.zeros(len(self.values))

    def set(self, rows: np.ndarray, values: np.ndarray | float) -> None:
        self.values.reshape(-1)[rows] = values
        blocks = rows // self.width
        self.sums[blocks] = self.values[blocks].sum(1)

    def draw(self, shares: np.ndarray) -> np.ndarray:
        """The rows [B] at shares [B] in [0, 1) of the sum of all priorities."""
        ends = self.sums.cumsum()
        places = shares * ends[-1]
        blocks = np.minimum(np.searchsorted(ends, places, side="right"), len(ends) - 1)
        inside = self.values[blocks].cumsum(1)
        rest = places - (ends[blocks] - self.sums[blocks])
        columns = np.minimum((inside <= rest[:, None]).sum(1), (self.values[blocks] > 0).cumsum(1).argmax(1))
        return blocks * self.width + columns

    def chances(self, rows: np.ndarray) -> np.ndarray:
        """How likely each of rows [B] is to be drawn."""
        return self.values.reshape(-1)[rows] / self.sums.sum()
