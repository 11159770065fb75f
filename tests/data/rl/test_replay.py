"""The replay memory and its priorities, against models of them that are lists."""

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


class Memory(RuleBasedStateMachine):
    """Each transition carries its number as its state, so what is sampled can be looked up in the list of all."""

    def __init__(self) -> None:
        super().__init__()
        self.replay = ReplayBuffer(CAPACITY, (1,), np.float64, ENVS)
        self.kept: deque[dict[str, Any]] = deque(maxlen=CAPACITY)
        self.count = 0

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Some environments take a step; those that are left out had only been reset."""
        who = sorted(data.draw(st.sets(st.integers(0, ENVS - 1))))
        ends = np.array([[data.draw(st.booleans()) for _ in who] for _ in range(2)], bool).reshape(2, len(who))
        numbers = np.arange(self.count, self.count + len(who), dtype=float)
        step = Step(np.array(who, int), np.float32(numbers % 7), numbers[:, None] + 0.5, *ends)
        self.replay.add(numbers[:, None], numbers.astype(int) % 5, step)
        for env, number, terminated, truncated in zip(who, numbers.tolist(), *ends.tolist(), strict=True):
            self.kept.append({"env": env, "number": number, "terminated": terminated, "over": terminated or truncated})
        self.count += len(who)

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
    def holds_the_last_ones_and_what_followed_them(self) -> None:
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


Memory.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestMemory = pytest.mark.faults(Memory.TestCase)


@pytest.mark.parametrize("rows", [1, 2, 9, 10, 50])
def test_priorities_draw_as_the_running_sum_does(rows: int) -> None:
    random = np.random.default_rng(rows)
    priorities, plain = Priorities(rows), np.zeros(rows)
    for _ in range(30):
        some, values = random.integers(rows, size=3), random.random(3) * random.integers(2, size=3)
        for one, value in zip(some, values, strict=True):
            priorities.set(np.array([one]), value)
            plain[one] = value
        if not plain.any():
            continue
        shares = np.append(random.random(40), [0.0, 1 - 1e-12])
        drawn = priorities.sample(shares)
        chances = priorities.probabilities(drawn)
        ends = plain.cumsum()
        expected = np.minimum(np.searchsorted(ends, shares * ends[-1], side="right"), np.flatnonzero(plain)[-1])
        assert (plain[drawn] > 0).all(), "what has no priority is never drawn"
        assert (drawn == expected).mean() > 0.97  # at a border the sums may round the other way
        np.testing.assert_allclose(chances, plain[drawn] / plain.sum())


def test_one_of_two_rows_in_a_block_may_be_set_twice_at_once() -> None:
    priorities = Priorities(9)
    priorities.set(np.array([0, 1, 2, 4, 1]), np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert priorities.sums.tolist() == [9.0, 4.0, 0.0]


def test_a_memory_of_one_step_links_nothing() -> None:
    replay = ReplayBuffer(3, (1,), np.float32, envs=3)
    for _ in range(2):
        none = np.zeros(3, bool)
        replay.add(np.ones((3, 1)), np.zeros(3, int), Step(np.arange(3), np.ones(3), np.ones((3, 1)), none, none))
    assert replay.following.tolist() == [-1] * 3


@pytest.mark.parametrize("n_step", [1, 3])
def test_frames_that_are_stored_once_are_those_of_whole_states(n_step: int) -> None:
    """Also after the replay has wrapped around several times, was restored, and episodes were left before their end."""
    random, envs, capacity, depth = np.random.default_rng(2), 3, 40, 4
    whole, once = (ReplayBuffer(capacity, (depth, 2), np.uint8, envs, stacked) for stacked in (False, True))

    def begun(frame: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((depth - 1, 2), np.uint8), frame[None]])

    def frame() -> np.ndarray:
        return random.integers(1, 255, 2, dtype=np.uint8)

    states = np.stack([begun(frame()) for _ in range(envs)])
    over = np.zeros(envs, bool)
    for number in range(150):
        who = np.flatnonzero(~over | (random.random(envs) < 0.5))  # the others had only been reset
        after = np.stack([np.concatenate([state[1:], frame()[None]]) for state in states])
        terminated, truncated = random.random((2, envs)) < 0.1
        step = Step(who, random.random(envs)[who], after[who], terminated[who], truncated[who])
        for replay in (whole, once):
            replay.add(states[who], who % 2, step)
        over &= ~np.isin(np.arange(envs), who)
        over[who] = (terminated | truncated)[who]
        if number == 70:
            over[:] = True
            whole.end_episodes()
            once.end_episodes()
        states = np.stack(
            [begun(frame()) if over[env] else after[env] if env in who else states[env] for env in range(envs)]
        )
        if number == 100:
            saved, once = once.state_dict(), ReplayBuffer(capacity, (depth, 2), np.uint8, envs, True)
            once.load_state_dict(saved)
        for mine, theirs in zip(*(r.sample(np.arange(len(r)), n_step) for r in (whole, once)), strict=True):
            assert np.array_equal(mine, theirs)
    assert once.storage.state_dict(capacity)["frames"].nbytes < whole.storage.states.nbytes / 2
