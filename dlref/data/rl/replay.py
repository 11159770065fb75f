"""The replay memory: Lin 1992, and with priorities Schaul et al. 2016."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from dlref.data.rl.environments import Step
from dlref.errors import ConfigError


class Sample(NamedTuple):
    """B transitions, each with the n - 1 that followed it in its episode, as far as there are so many."""

    states: np.ndarray  # [B, ...]
    actions: np.ndarray  # [B] int64
    rewards: np.ndarray  # [B, n]: of the transitions from here on, 0 for those that are not there
    steps: np.ndarray  # [B] int64: how many are, 1 to n
    next_states: np.ndarray  # [B, ...]: after the last of them
    terminated: np.ndarray  # [B] bool: nothing follows next_states; an episode cut off by a time limit goes on


class Whole:
    """Each row's state and next state."""

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.states, self.next_states = np.zeros((2, capacity, *shape), dtype)

    def write(
        self, numbers: np.ndarray, rows: np.ndarray, before: np.ndarray, states: np.ndarray, next_states: np.ndarray
    ) -> None:
        self.states[rows], self.next_states[rows] = states, next_states

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.states.take(rows, 0)

    def read_next(self, rows: np.ndarray, following: np.ndarray) -> np.ndarray:
        return self.next_states.take(rows, 0)

    def state_dict(self, written: int) -> dict[str, Any]:
        return {name: torch.from_numpy(column[:written].copy()) for name, column in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, saved in state.items():
            getattr(self, name)[: len(saved)] = saved.numpy()


class Stacked:
    """The same of states that are the last K frames of an episode, zeros before its first: each frame is stored once.

    A row keeps the newest frame of its state and the numbers of the others, which are the rows before it. Its next state
    is that of the row that follows, or ends with a frame of its own where none does.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: Any, envs: int) -> None:
        depth = shape[0]
        # The frames of the oldest rows are older than they: as many steps as a state has frames.
        self.frames = np.zeros((capacity + depth * envs, *shape[1:]), dtype)
        self.numbers = np.full((capacity, depth), -1)  # of the frames of a row's state, -1 for zeros
        self.last: dict[int, np.ndarray] = {}  # the newest frame of the next state of rows that none follows

    def write(
        self, numbers: np.ndarray, rows: np.ndarray, before: np.ndarray, states: np.ndarray, next_states: np.ndarray
    ) -> None:
        older = np.where(before[:, None] >= 0, self.numbers[before], -1)[:, 1:]
        self.numbers[rows] = np.concatenate([older, numbers[:, None]], 1)
        self.frames[numbers % len(self.frames)] = states[:, -1]
        for row, previous, frame in zip(rows.tolist(), before.tolist(), next_states[:, -1], strict=True):
            self.last.pop(previous, None)
            self.last[row] = frame.copy()

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        frames = self.frames[numbers % len(self.frames)]
        frames[numbers < 0] = 0
        return frames

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.gather(self.numbers[rows])

    def read_next(self, rows: np.ndarray, following: np.ndarray) -> np.ndarray:
        there = following >= 0
        older = np.concatenate([self.numbers[rows, 1:], np.full((len(rows), 1), -1)], 1)
        states = self.gather(np.where(there[:, None], self.numbers[following], older))
        for place in np.flatnonzero(~there).tolist():
            states[place, -1] = self.last[int(rows[place])]
        return states

    def state_dict(self, written: int) -> dict[str, Any]:
        return {
            "frames": torch.from_numpy(self.frames[:written].copy()),
            "numbers": torch.from_numpy(self.numbers[:written].copy()),
            "last": {row: torch.from_numpy(frame) for row, frame in self.last.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.frames[: len(state["frames"])] = state["frames"].numpy()
        self.numbers[: len(state["numbers"])] = state["numbers"].numpy()
        self.last = {row: frame.numpy() for row, frame in state["last"].items()}


class Replay:
    """The last `capacity` transitions of `envs` environments, in arrays that are allocated once.

    They are NumPy's, which reads and writes single rows in a fraction of the time of tensors. A transition knows the one
    that followed it in its episode, so the rewards of n steps are put together when they are sampled. Where states are
    `stacked` frames, each frame is stored once. Raises ConfigError for fewer rows than environments.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: Any, envs: int = 1, stacked: bool = False) -> None:
        if capacity < envs:
            raise ConfigError(
                f"data.replay is {capacity} and data.envs {envs}; remember one transition of each or more"
            )
        self.capacity = capacity
        self.seen = Stacked(capacity, shape, dtype, envs) if stacked else Whole(capacity, shape, dtype)
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
        numbers = self.written + np.arange(len(step.who))
        rows, before = numbers % self.capacity, self.newest[step.who]
        self.seen.write(numbers, rows, before, states, step.observations)
        self.actions[rows], self.rewards[rows], self.terminated[rows] = actions, step.rewards, step.terminated
        self.following[before[before >= 0]] = rows[before >= 0]
        self.following[rows] = -1  # after it: in a small memory these may be the rows that they follow
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
            self.seen.read(rows),
            self.actions.take(rows),
            np.stack(rewards, 1),
            steps,
            self.seen.read_next(here, self.following.take(here)),
            self.terminated.take(here),
        )

    def columns(self) -> list[np.ndarray]:
        return [self.actions, self.rewards, self.terminated, self.following]

    def state_dict(self) -> dict[str, Any]:
        rows = [torch.from_numpy(column[: len(self)].copy()) for column in self.columns()]
        seen = self.seen.state_dict(self.written)
        return {"written": self.written, "newest": self.newest.tolist(), "rows": rows, "seen": seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.written, self.newest = state["written"], np.array(state["newest"])
        self.seen.load_state_dict(state["seen"])
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
