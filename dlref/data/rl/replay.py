"""The replay buffer (Lin 1992), and priorities for prioritized replay (Schaul et al. 2016).

B sampled transitions, M environments that took a step, N rows of the buffer. Everything is NumPy, which reads and writes
single rows in a fraction of the time of tensors.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from dlref.data.rl.environments import Step
from dlref.errors import ConfigError


class Sample(NamedTuple):
    """B n-step transitions; fewer steps where the episode, or what is stored of it, ends before."""

    states: np.ndarray  # [B, ...]
    actions: np.ndarray  # [B] int64
    rewards: np.ndarray  # [B, n], 0 beyond `steps`
    steps: np.ndarray  # [B] int64: number of steps, 1 to n
    next_states: np.ndarray  # [B, ...], after the last of these steps
    terminated: np.ndarray  # [B] bool: next_states is terminal; false where a time limit truncated the episode


class FullStates:
    """Storage of each row's state and next state."""

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.states, self.next_states = np.zeros((2, capacity, *shape), dtype)

    def write(
        self, numbers: np.ndarray, rows: np.ndarray, previous: np.ndarray, states: np.ndarray, next_states: np.ndarray
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


class StackedFrames:
    """Storage of states that are the last K frames of an episode, zeros before its first; each frame is stored once.

    A row keeps the newest frame of its state and the numbers of the other frames, which belong to earlier rows. Its next
    state is the state of the following row; a row that none follows also stores the newest frame of its next state.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: Any, envs: int) -> None:
        depth = shape[0]
        # Frames of the oldest rows are older than these rows: by as many steps as a state has frames.
        self.frames = np.zeros((capacity + depth * envs, *shape[1:]), dtype)
        self.numbers = np.full((capacity, depth), -1)  # of the frames of a row's state, -1 for zeros
        self.last: dict[int, np.ndarray] = {}  # row without a following row -> newest frame of its next state

    def write(
        self, numbers: np.ndarray, rows: np.ndarray, previous: np.ndarray, states: np.ndarray, next_states: np.ndarray
    ) -> None:
        older = np.where(previous[:, None] >= 0, self.numbers[previous], -1)[:, 1:]
        self.numbers[rows] = np.concatenate([older, numbers[:, None]], 1)
        self.frames[numbers % len(self.frames)] = states[:, -1]
        for row, row_before, frame in zip(rows.tolist(), previous.tolist(), next_states[:, -1], strict=True):
            self.last.pop(row_before, None)
            self.last[row] = frame.copy()

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        frames = self.frames[numbers % len(self.frames)]
        frames[numbers < 0] = 0
        return frames

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.gather(self.numbers[rows])

    def read_next(self, rows: np.ndarray, following: np.ndarray) -> np.ndarray:
        is_followed = following >= 0
        older = np.concatenate([self.numbers[rows, 1:], np.full((len(rows), 1), -1)], 1)
        states = self.gather(np.where(is_followed[:, None], self.numbers[following], older))
        for index in np.flatnonzero(~is_followed).tolist():
            states[index, -1] = self.last[int(rows[index])]
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


class ReplayBuffer:
    """The last `capacity` transitions of `envs` environments.

    Each transition is linked to the next one of its episode, so that n-step returns are formed when it is sampled. With
    `stacked` frames as states each frame is stored once. Raises ConfigError for fewer rows than environments.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: Any, envs: int = 1, stacked: bool = False) -> None:
        if capacity < envs:
            raise ConfigError(f"data.buffer_size is {capacity}; it takes at least data.envs, which is {envs}")
        self.capacity = capacity
        self.storage = StackedFrames(capacity, shape, dtype, envs) if stacked else FullStates(capacity, shape, dtype)
        self.actions = np.zeros(capacity, np.int64)
        self.rewards = np.zeros(capacity, np.float32)
        self.terminated = np.zeros(capacity, bool)
        self.following = np.full(capacity, -1)  # row of the next transition of the episode, -1 for none
        self.newest = np.full(envs, -1)  # row of the newest transition of each environment's current episode
        self.written = 0  # transitions so far; the oldest are overwritten

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def add(self, states: np.ndarray, actions: np.ndarray, step: Step) -> np.ndarray:
        """Store a step from states [M, ...] by actions [M]; returns the rows [M] that were written."""
        numbers = self.written + np.arange(len(step.env_ids))
        rows, previous = numbers % self.capacity, self.newest[step.env_ids]
        self.storage.write(numbers, rows, previous, states, step.observations)
        self.actions[rows], self.rewards[rows], self.terminated[rows] = actions, step.rewards, step.terminated
        self.following[previous[previous >= 0]] = rows[previous >= 0]
        self.following[rows] = -1  # last: in a small buffer these may be the rows that they follow
        self.newest[step.env_ids] = np.where(step.terminated | step.truncated, -1, rows)
        self.written += len(rows)
        return rows

    def sample(self, rows: np.ndarray, n_step: int = 1) -> Sample:
        """The n-step transitions that start at these rows [B]."""
        last, steps, rewards = rows, np.ones_like(rows), [self.rewards.take(rows)]
        for _ in range(n_step - 1):
            following = self.following.take(last)
            is_followed = following >= 0  # once false it stays false, since `last` stays
            last = np.where(is_followed, following, last)
            rewards.append(self.rewards.take(last) * is_followed)
            steps += is_followed
        return Sample(
            self.storage.read(rows),
            self.actions.take(rows),
            np.stack(rewards, 1),
            steps,
            self.storage.read_next(last, self.following.take(last)),
            self.terminated.take(last),
        )

    def end_episodes(self) -> None:
        """The next transition of each environment does not continue its episode."""
        self.newest[:] = -1

    def columns(self) -> list[np.ndarray]:
        return [self.actions, self.rewards, self.terminated, self.following]

    def state_dict(self) -> dict[str, Any]:
        rows = [torch.from_numpy(column[: len(self)].copy()) for column in self.columns()]
        states = self.storage.state_dict(self.written)
        return {"written": self.written, "newest": self.newest.tolist(), "rows": rows, "states": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.written, self.newest = state["written"], np.array(state["newest"])
        self.storage.load_state_dict(state["states"])
        for column, saved in zip(self.columns(), state["rows"], strict=True):
            column[: len(self)] = saved.numpy()


class Priorities:
    """Sampling probabilities of N rows in proportion to their priorities (Schaul et al. 2016, equation 1).

    Sampling and updating take O(√N): rows are stored in √N blocks with their sums; a block is sampled, then a row in it.
    (The paper's appendix B.2.1 has a sum tree instead of these two levels.)
    """

    def __init__(self, rows: int) -> None:
        self.width = math.isqrt(rows - 1) + 1
        self.values = np.zeros((-(-rows // self.width), self.width))
        self.sums = np.zeros(len(self.values))
        self.highest = 1.0  # so far

    def add(self, rows: np.ndarray) -> None:
        """New transitions at these rows, whose TD errors are not known yet: the highest priority so far."""
        self.set(rows, self.highest)

    def update(self, rows: np.ndarray, td_errors: np.ndarray) -> None:
        """Priorities (|δ| + 10⁻⁶)^0.6 of rows [B]; never 0, so that each row can be sampled again."""
        values = (abs(td_errors) + 1e-6) ** 0.6
        self.set(rows, values)
        self.highest = max(self.highest, float(values.max()))

    def set(self, rows: np.ndarray, values: np.ndarray | float) -> None:
        self.values.reshape(-1)[rows] = values
        blocks = rows // self.width
        self.sums[blocks] = self.values[blocks].sum(1)

    def sample(self, uniform: np.ndarray) -> np.ndarray:
        """Rows [B] by inverse transform sampling from uniform numbers [B] in [0, 1)."""
        ends = self.sums.cumsum()
        positions = uniform * ends[-1]
        blocks = np.minimum(np.searchsorted(ends, positions, side="right"), len(ends) - 1)
        inside = self.values[blocks].cumsum(1)
        rest = positions - (ends[blocks] - self.sums[blocks])
        columns = np.minimum((inside <= rest[:, None]).sum(1), (self.values[blocks] > 0).cumsum(1).argmax(1))
        return blocks * self.width + columns

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """The probability of sampling each of rows [B]."""
        return self.values.reshape(-1)[rows] / self.sums.sum()

    def state_dict(self) -> dict[str, Any]:
        return {"values": torch.from_numpy(self.values.copy()), "highest": self.highest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.set(np.arange(self.values.size), state["values"].flatten().numpy())
        self.highest = state["highest"]
