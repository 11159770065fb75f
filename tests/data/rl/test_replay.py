"""The replay buffer and its priorities, compared with lists."""

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dlref.data.rl.environments import Step
from dlref.data.rl.replay import Priorities, ReplayBuffer

ENVS, CAPACITY, STEPS = 3, 11, 3


class Buffer(RuleBasedStateMachine):
    """Each transition's state is its number, by which it is found in the list of all transitions."""

    def __init__(self) -> None:
        super().__init__()
        self.replay = ReplayBuffer(CAPACITY, (1,), np.float64, ENVS)
        self.kept: deque[dict[str, Any]] = deque(maxlen=CAPACITY)
        self.count = 0

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Some environments take a step; the others were only reset."""
        env_ids = sorted(data.draw(st.sets(st.integers(0, ENVS - 1))))
        ends = np.array([[data.draw(st.booleans()) for _ in env_ids] for _ in range(2)], bool).reshape(2, len(env_ids))
        numbers = np.arange(self.count, self.count + len(env_ids), dtype=float)
        step = Step(np.array(env_ids, int), np.float32(numbers % 7), numbers[:, None] + 0.5, *ends)
        self.replay.add(numbers[:, None], numbers.astype(int) % 5, step)
        for env, number, terminated, truncated in zip(env_ids, numbers.tolist(), *ends.tolist(), strict=True):
            self.kept.append({"env": env, "number": number, "terminated": terminated, "over": terminated or truncated})
        self.count += len(env_ids)

    @rule()
    def restore(self) -> None:
        other = ReplayBuffer(CAPACITY, (1,), np.float64, ENVS)
        other.load_state_dict(self.replay.state_dict())
        self.replay = other

    def window(self, start: dict[str, Any]) -> list[dict[str, Any]]:
        later = [t for t in self.kept if t["env"] == start["env"] and t["number"] >= start["number"]]
        for length in range(1, STEPS):
            if len(later) <= length or later[length - 1]["over"]:
                return later[:length]
        return later[:STEPS]

    @invariant()
    def n_step_transitions_are_those_of_the_list(self) -> None:
        assert len(self.replay) == len(self.kept)
        sample = self.replay.sample(np.arange(len(self.replay)), STEPS)
        assert sorted(sample.states[:, 0].tolist()) == [t["number"] for t in self.kept]
        by_number = {t["number"]: t for t in self.kept}
        for row, number in enumerate(sample.states[:, 0].tolist()):
            window = self.window(by_number[number])
            rewards = [t["number"] % 7 for t in window] + [0.0] * (STEPS - len(window))
            assert sample.actions[row] == number % 5
            assert sample.rewards[row].tolist() == rewards
            assert sample.steps[row] == len(window)
            assert float(sample.next_states[row, 0]) == window[-1]["number"] + 0.5
            assert bool(sample.terminated[row]) == window[-1]["terminated"]


Buffer.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestBuffer = pytest.mark.faults(Buffer.TestCase)


@pytest.mark.parametrize("rows", [1, 2, 9, 10, 50])
def test_sampling_by_priority_is_that_of_the_cumulative_sum(rows: int) -> None:
    random = np.random.default_rng(rows)
    priorities, plain = Priorities(rows), np.zeros(rows)
    for _ in range(30):
        some, values = random.integers(rows, size=3), random.random(3) * random.integers(2, size=3)
        for one, value in zip(some, values, strict=True):
            priorities.set(np.array([one]), value)
            plain[one] = value
        if not plain.any():
            continue
        uniform = np.append(random.random(40), [0.0, 1 - 1e-12])
        rows_ = priorities.sample(uniform)
        probabilities = priorities.probabilities(rows_)
        ends = plain.cumsum()
        expected = np.minimum(np.searchsorted(ends, uniform * ends[-1], side="right"), np.flatnonzero(plain)[-1])
        assert (plain[rows_] > 0).all(), "a row without priority is never sampled"
        assert (rows_ == expected).mean() > 0.97  # at a boundary the two sums may round differently
        np.testing.assert_allclose(probabilities, plain[rows_] / plain.sum())


def test_one_of_two_rows_in_a_block_may_be_set_twice_at_once() -> None:
    priorities = Priorities(9)
    priorities.set(np.array([0, 1, 2, 4, 1]), np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert priorities.sums.tolist() == [9.0, 4.0, 0.0]


def test_a_buffer_of_one_step_links_no_transitions() -> None:
    replay = ReplayBuffer(3, (1,), np.float32, envs=3)
    for _ in range(2):
        none = np.zeros(3, bool)
        replay.add(np.ones((3, 1)), np.zeros(3, int), Step(np.arange(3), np.ones(3), np.ones((3, 1)), none, none))
    assert replay.following.tolist() == [-1] * 3


@pytest.mark.parametrize("n_step", [1, 3])
def test_stacked_frames_stored_once_equal_full_states(n_step: int) -> None:
    """Also after the buffer was full several times, was restored, and episodes were abandoned."""
    random, envs, capacity, depth = np.random.default_rng(2), 3, 40, 4
    full, compact = (ReplayBuffer(capacity, (depth, 2), np.uint8, envs, stacked) for stacked in (False, True))

    def initial(frame: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((depth - 1, 2), np.uint8), frame[None]])

    def frame() -> np.ndarray:
        return random.integers(1, 255, 2, dtype=np.uint8)

    states = np.stack([initial(frame()) for _ in range(envs)])
    over = np.zeros(envs, bool)
    for number in range(150):
        env_ids = np.flatnonzero(~over | (random.random(envs) < 0.5))  # the others were only reset
        after = np.stack([np.concatenate([state[1:], frame()[None]]) for state in states])
        terminated, truncated = random.random((2, envs)) < 0.1
        step = Step(env_ids, random.random(envs)[env_ids], after[env_ids], terminated[env_ids], truncated[env_ids])
        for replay in (full, compact):
            replay.add(states[env_ids], env_ids % 2, step)
        over &= ~np.isin(np.arange(envs), env_ids)
        over[env_ids] = (terminated | truncated)[env_ids]
        if number == 70:
            over[:] = True
            full.end_episodes()
            compact.end_episodes()
        states = np.stack(
            [initial(frame()) if over[env] else after[env] if env in env_ids else states[env] for env in range(envs)]
        )
        if number == 100:
            saved, compact = compact.state_dict(), ReplayBuffer(capacity, (depth, 2), np.uint8, envs, True)
            compact.load_state_dict(saved)
        for mine, theirs in zip(*(r.sample(np.arange(len(r)), n_step) for r in (full, compact)), strict=True):
            assert np.array_equal(mine, theirs)
    assert compact.storage.state_dict(capacity)["frames"].nbytes < full.storage.states.nbytes / 2
