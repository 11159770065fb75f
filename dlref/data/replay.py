"""The replay memory: Lin 1992, and with priorities Schaul et al. 2016."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlref.data.environments import Step
from dlref.errors import ConfigError


class Sample(NamedTuple):
    """B transitions, each with the n - 1 that followed it in its episode, as far as there are so many."""

    states: Tensor  # [B, ...]
    actions: Tensor  # [B] int64
    rewards: Tensor  # [B, n]: of the transitions from here on, 0 for those that are not there
    steps: Tensor  # [B] int64: how many are, 1 to n
    next_states: Tensor  # [B, ...]: after the last of them
    terminated: Tensor  # [B] bool: nothing follows next_states; an episode cut off by a time limit goes on


class Replay:
    """The last `capacity` transitions of `envs` environments, in arrays that are allocated once.

    A transition knows the one that followed it in its episode, so the rewards of n steps are put together when they are
    sampled. Raises ConfigError for fewer rows than environments.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: torch.dtype, envs: int = 1) -> None:
        if capacity < envs:
            raise ConfigError(
                f"data.replay is {capacity} and data.envs {envs}; remember one transition of each or more"
            )
        self.capacity = capacity
        self.states = torch.zeros(capacity, *shape, dtype=dtype)
        self.next_states = torch.zeros(capacity, *shape, dtype=dtype)
        self.actions = torch.zeros(capacity, dtype=torch.int64)
        self.rewards = torch.zeros(capacity)
        self.terminated = torch.zeros(capacity, dtype=torch.bool)
        self.following = torch.full((capacity,), -1)  # the row of the next transition of the episode, -1 for none
        self.newest = np.full(envs, -1)  # of each environment's episode
        self.written = 0  # so far; the oldest are overwritten
        self.columns = [self.states, self.next_states, self.actions, self.rewards, self.terminated, self.following]
        # Writing through NumPy takes a tenth of the time.
        self.arrays = [column.numpy() for column in self.columns[:-1]]

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def write(self, states: np.ndarray, actions: np.ndarray, step: Step) -> np.ndarray:
        """What the environments of a step saw and did before it, [M, ...] and [M]; the rows that were written [M]."""
        rows = (self.written + np.arange(len(step.who))) % self.capacity
        values = (states, step.observations, actions, step.rewards, step.terminated)
        for array, value in zip(self.arrays, values, strict=True):
            array[rows] = value
        following, before = self.following.numpy(), self.newest[step.who]
        following[rows] = -1
        following[before[before >= 0]] = rows[before >= 0]
        self.newest[step.who] = np.where(step.terminated | step.truncated, -1, rows)
        self.written += len(rows)
        return rows

    def sample(self, rows: Tensor, n_step: int = 1) -> Sample:
        """The transitions of rows [B], which have been written."""
        states, actions = self.states[rows], self.actions[rows]
        rewards = self.rewards[rows]
        here, steps, columns = rows, torch.ones_like(rows), [rewards]
        for _ in range(n_step - 1):
            after = self.following[here]
            there = after >= 0  # and where it once was not, it never is again: `here` stays
            here = torch.where(there, after, here)
            columns.append(self.rewards[here] * there)
            steps += there
        rewards = torch.stack(columns, 1)
        return Sample(states, actions, rewards, steps, self.next_states[here], self.terminated[here])

    def state_dict(self) -> dict[str, Any]:
        kept = len(self)
        return {
            "written": self.written,
            "newest": self.newest.tolist(),
            "rows": [t[:kept].clone() for t in self.columns],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.written, self.newest = state["written"], np.array(state["newest"])
        for column, saved in zip(self.columns, state["rows"], strict=True):
            column[: len(self)] = saved


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

    def draw(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows [B] at shares [B] in [0, 1) of the sum of all priorities, and their chances [B]."""
        ends = self.sums.cumsum()
        places = shares * ends[-1]
        blocks = np.minimum(np.searchsorted(ends, places, side="right"), len(ends) - 1)
        inside = self.values[blocks].cumsum(1)
        rest = places - (ends[blocks] - self.sums[blocks])
        columns = np.minimum((inside <= rest[:, None]).sum(1), (self.values[blocks] > 0).cumsum(1).argmax(1))
        return blocks * self.width + columns, self.values[blocks, columns] / ends[-1]
