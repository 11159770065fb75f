"""Environments: each step is a transition within an episode, and a restored environment continues identically."""

import collections
import random
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from dlref.data.rl.environments import Environments, Step
from dlref.data.rl.episodes import as_input
from dlref.data.rl.experience import Experience
from dlref.data.rl.observations import InvalidObservation, ObservationConverter
from dlref.data.rl.snapshots import Fingerprint, restore, snapshot, variables_restored
from dlref.errors import ConfigError, DataError, DlrefError
from dlref.interfaces import Shard
from tests.conftest import SMALL
from tests.data.rl import corridor, odd_environments  # noqa: F401  which registers the environments
from tests.data.rl.odd_environments import Counting, Rendered, registered, scripted


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "FrozenLake-v1", "Taxi-v4"])
def test_a_restored_environment_continues_as_the_original(name: str) -> None:
    one, other = gymnasium.make(name), gymnasium.make(name)
    one.reset(seed=3)
    for _ in range(3):
        one.step(1)
    state = snapshot(one)
    assert state is not None
    other.reset()
    assert restore(other, state)
    for _ in range(600):  # across ends, resets and the time limit
        a, b = one.step(0), other.step(0)
        assert np.array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]
        if a[2] or a[3]:
            assert np.array_equal(one.reset()[0], other.reset()[0])


def test_an_environment_that_hides_its_state_has_no_snapshot() -> None:
    env = gymnasium.make("Corridor-terminated-v0")
    env.reset(seed=0)
    assert snapshot(env) is None


class Spaceless(gymnasium.Env[Any, Any]):
    pass


def rollout(environments: Environments, steps: int) -> list[tuple[np.ndarray, Step]]:
    random = np.random.default_rng(5)
    seen = []
    for _ in range(steps):
        before = environments.observations.copy()
        seen.append((before, environments.step(random.integers(environments.actions, size=environments.count))))
    return seen


@pytest.mark.parametrize("vectorized", [True, False])
def test_no_step_spans_two_episodes(vectorized: bool) -> None:
    """CartPole moves by its velocity times 0.02 s in each step; between two episodes it jumps."""
    environments = Environments("CartPole-v1", 6, vectorized)
    assert (environments.vector_env is not None) == vectorized
    environments.reset(range(6))
    ends, moves = 0, 0
    for before, step in rollout(environments, 200):
        assert len(step.env_ids) == len(step.rewards) == len(step.terminated)
        assert (step.rewards == 1).all()
        moved = step.observations[:, 0] - before[step.env_ids, 0]
        np.testing.assert_allclose(moved, 0.02 * before[step.env_ids, 1], atol=1e-5)
        outside = (np.abs(step.observations[:, 2]) > 12 * np.pi / 180) | (np.abs(step.observations[:, 0]) > 2.4)
        assert (outside == step.terminated).all()
        ends, moves = ends + step.terminated.sum(), moves + len(step.env_ids)
    assert ends > 30
    # The vector environment's step after an end only resets, and only this one is left out.
    assert moves == 6 * 200 - (ends - step.terminated.sum() if vectorized else 0)


@pytest.mark.parametrize(
    ("name", "vectorized"), [("CartPole-v1", True), ("Acrobot-v1", False), ("FrozenLake-v1", False)]
)
def test_restored_environments_continue_identically(name: str, vectorized: bool) -> None:
    one, other = Environments(name, 3, vectorized), Environments(name, 3, vectorized)
    one.reset([1, 2, 3])
    rollout(one, 40)
    assert other.load_state_dict(one.state_dict())
    for (before, step), (other_before, other_step) in zip(rollout(one, 60), rollout(other, 60), strict=True):
        assert np.array_equal(before, other_before)
        assert all(np.array_equal(a, b) for a, b in zip(step, other_step, strict=True))


@pytest.mark.parametrize("place", ["steps", "array", "np_random", "own", "space"])
def test_plain_numbers_and_random_generators_are_restored(place: str) -> None:
    name = registered(lambda: Counting(place))
    one, other = Environments(name, 2), Environments(name, 2)
    one.reset([1, 2])
    rollout(one, 4)
    state = one.state_dict()
    expected = [step.rewards.tolist() for _, step in rollout(one, 4)]
    assert other.load_state_dict(state)
    assert [step.rewards.tolist() for _, step in rollout(other, 4)] == expected


def test_spaces_are_seeded_once_and_their_generators_continue() -> None:
    """Across new episodes, as REINFORCE starts them, and in restored environments."""
    name = registered(lambda: Spaced())
    one, other = Environments(name), Environments(name)
    one.reset([1])
    first = rollout(one, 3)[-1][1].rewards.tolist()
    one.reset([1])
    state = one.state_dict(check=False)
    second = rollout(one, 3)[-1][1].rewards.tolist()
    assert second != first, "the episode has the same seed, and the space's generator continues"
    assert other.load_state_dict(state)
    other.reset([1])
    assert rollout(other, 3)[-1][1].rewards.tolist() == second
    fresh = Environments(name)
    fresh.reset([1])
    assert rollout(fresh, 3)[-1][1].rewards.tolist() == first


class Spaced(Counting):
    """Its rewards are sampled from its own space."""

    def __init__(self) -> None:
        super().__init__("space")
        self.observation_space = spaces.Box(-1, 1, (1,))


@pytest.mark.parametrize(
    "place",
    [
        "list",
        "list, shown late",
        "inner",
        "class",
        "module",
        "simulator",
        "count",
        "generator",
        "closure",
        "global",
        "global, at reset",
    ],
)
def test_state_in_other_places_is_detected_as_not_restored(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = registered(lambda: Counting(place))
    one, other = Environments(name, 2), Environments(name, 2)
    one.reset([1, 2])
    rollout(one, 4)
    state = one.state_dict()
    Counting.shared[0] = odd_environments.COUNTER[0] = 0  # as in another process
    assert not other.load_state_dict(state)


@pytest.mark.parametrize("place", ["class", "module"])
def test_the_trial_restores_class_and_module_variables(place: str) -> None:
    one = Environments(registered(lambda: Counting(place)), 2)
    one.reset([1, 2])
    before = rollout(one, 4)[-1][1].rewards[-1]
    assert not one.is_restorable()
    assert rollout(one, 1)[0][1].rewards.tolist() == [before + 1, before + 2]


def test_each_kind_of_variable_is_restored_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        "a": [1, [2]],
        "b": {"x": [1]},
        "c": {1, 2},
        "d": collections.deque([1, 2]),
        "e": np.arange(3),
        "f": np.random.default_rng(1),
        "g": np.random.RandomState(1),
        "h": random.Random(1),
        "i": 5,
    }
    values["j"] = {"shared": values["f"], "more": 0}
    for name, value in values.items():
        monkeypatch.setattr(odd_environments, f"KEPT_{name}", value, raising=False)
    expected = {name: Fingerprint()(value) for name, value in values.items()}
    with variables_restored(Counting("steps")):
        values["a"][1].append(3)
        values["b"]["y"] = 1
        values["c"].add(3)
        values["d"].popleft()
        values["e"][:] = 0
        for name in "fgh":
            values[name].random()
        values["j"]["more"] = 1
        monkeypatch.setattr(odd_environments, "KEPT_i", 6)
        odd_environments.MADE = 1  # type: ignore[attr-defined]
    assert not hasattr(odd_environments, "MADE")
    assert values["j"]["shared"] is values["f"]
    for name, value in values.items():
        assert getattr(odd_environments, f"KEPT_{name}") is value
        assert Fingerprint()(value) == expected[name], name


class Closing(Counting):
    """Counts how many are made and closed."""

    def __init__(self, place: str = "steps") -> None:
        super().__init__(place)
        NOTED["made"] += 1

    def step(self, action: int) -> Any:
        observation, reward, *_ = super().step(action)
        return observation, reward, self.steps == 3, False, {}

    def close(self) -> None:
        NOTED["closed"] += 1


NOTED: Any = collections.Counter()


def test_environments_of_trials_and_evaluations_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    # A mapping that is not a dict is not restored.
    monkeypatch.setattr(sys.modules[__name__], "NOTED", noted := collections.UserDict(made=0, closed=0))
    name = registered(Closing)
    one = Environments(name, 2)
    one.reset([1, 2])
    assert one.is_restorable()
    assert noted == {"made": 6, "closed": 4}
    data = Experience(name, episodes=3)
    list(data.batches("eval", nn.Linear(1, 2), Shard()))
    assert noted == {"made": 6 + 1 + 3, "closed": 4 + 3}
    one.close()
    assert noted["closed"] == 9


def test_an_environment_that_cannot_be_closed_is_named() -> None:
    class Stuck(Counting):
        def close(self) -> None:
            raise RuntimeError("the door is stuck")

    one = Environments(registered(lambda: Stuck("steps")))
    with pytest.raises(DataError, match="failed while it was closed: RuntimeError: the door is stuck"):
        one.close()


def test_a_new_episode_starts_if_the_state_cannot_be_restored(caplog: pytest.LogCaptureFixture) -> None:
    name = registered(lambda: Counting("list"))
    one, other = (Experience(name, learning_starts=10, buffer_size=50, batch_size=4) for _ in range(2))
    net = nn.Linear(1, 2)
    list(islice(one.train_batches(net, Shard(), 0), 3))
    other.load_state_dict(one.state_dict())
    assert [record.getMessage() for record in caplog.records] == [
        f"the state of {name} cannot be restored, so a new episode begins"
    ]
    batch = next(other.train_batches(net, Shard(), 3))
    assert other.replay.rewards[other.replay.written - 1] == 1, "the first step of an episode"
    assert batch.env_steps == 14


def test_only_images_are_divided_by_255() -> None:
    """Images are uint8 with bounds 0 and 255 and two or more dimensions; other bytes are numbers."""
    for space, value, given in (
        (spaces.Box(0, 255, (3, 4, 2), np.uint8), 51, 0.2),
        (spaces.Box(0, 255, (4, 2), np.uint8), 51, 0.2),
        (spaces.Box(0, 255, (4,), np.uint8), 51, 51),
        (spaces.Box(0, 1, (2,), np.uint8), 1, 1),
        (spaces.Box(0, 1, (3, 4, 2), np.uint8), 1, 1),
        (spaces.Box(0, 255, (4, 2), np.float32), 51, 51),
        (spaces.Box(0, 255, (4, 2), np.int64), 51, 51),
    ):
        environments = Environments(scripted(space, np.full(space.shape, value, space.dtype)))
        environments.reset([0])
        observations = environments.step(np.array([0])).observations
        inputs = as_input(observations, torch.device("cpu"), torch.float32)
        torch.testing.assert_close(inputs, torch.full((1, *space.shape), given, dtype=torch.float32))


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((5, 7, 3), 3), ((5, 7, 1), 1), ((5, 7, 4), 4), ((3, 7, 5), 3), ((4, 7, 3), 4), ((5, 7, 2), 5)],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_come_first_in_each_observation(shape: tuple[int, ...], channels: int, dtype: Any) -> None:
    """Images [rows, columns, channels] are transposed; arrays that may have channels first stay as they are."""
    low = np.arange(np.prod(shape), dtype=dtype).reshape(shape) % 200
    space = spaces.Box(low * 0 if dtype is np.uint8 else low, np.full(shape, 255, dtype), shape, dtype)
    given = low + dtype(1)
    name = scripted(space, given, given.tolist(), first=given)
    expected = given.transpose(2, 0, 1) if shape[2] == channels else given
    environments = Environments(name)
    assert environments.shape == expected.shape
    environments.reset([0])
    assert np.array_equal(environments.observations, expected[None])
    for _ in range(2):  # an array of the space's type, and one of another
        assert np.array_equal(environments.step(np.array([0])).observations, expected[None])
    data = Experience(name, learning_starts=2, buffer_size=20)
    sizes, is_rearranged = data.sizes, shape[2] == channels
    assert data.describe() == {"env": name} | ({"layout": "channels first"} if is_rearranged else {})
    assert [sizes[name] for name in ("in_channels", "rows", "columns")] == list(expected.shape)
    assert np.array_equal(
        environments.converter.convert_batch(np.stack([given, given])), np.stack([expected, expected])
    )


def test_bytes_that_are_no_image_become_float32() -> None:
    """The network gets the values 0 and 1, whatever their type."""
    rows = []
    for dtype in (np.uint8, np.float32):
        environments = Environments(scripted(spaces.Box(0, 1, (2,), dtype), np.array([0, 1], dtype)))
        environments.reset([0])
        rows.append(environments.step(np.array([0])).observations)
    assert rows[0].dtype == rows[1].dtype
    assert np.array_equal(*rows)


def test_a_scalar_observation_becomes_a_vector_of_one() -> None:
    environments = Environments(
        scripted(spaces.Box(0, 1, (), np.float32), np.float32(0.5), np.array(0.25, np.float32)), 1
    )
    environments.reset([0])
    assert environments.step(np.array([0])).observations.tolist() == [[0.5]]
    assert environments.step(np.array([0])).observations.tolist() == [[0.25]]


def test_discrete_observations_become_one_hot_and_actions_start_at_the_spaces_first() -> None:
    lake = Environments("FrozenLake-v1", 2)
    lake.reset([0, 1])
    assert lake.observations.tolist() == np.eye(16)[[0, 0]].tolist()
    shifted = Environments("Shifted-v0", 1)
    shifted.reset([0])
    assert (shifted.actions, shifted.shape) == (2, (3,))
    assert shifted.observations.tolist() == [[1, 0, 0]]
    assert shifted.step(np.array([1])).observations.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NoSuch-v0", "cannot be made: .* plugins="),
        ("CartPole-v77", "cannot be made"),
        ("no name", "cannot be made"),
        ("Pendulum-v1", "actions must be numbered"),
        ("Blackjack-v1", "observations"),
        (scripted(spaces.MultiBinary(3)), "observations an array"),
        (scripted(spaces.MultiDiscrete([3, 2])), "observations an array"),
        (scripted(spaces.Box(0, 1, (0,))), "observations an array"),
        (registered(lambda: Spaceless()), "actions None and observations None"),
    ],
)
def test_unsuitable_environments_are_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Environments(name)


BOX, BYTES = spaces.Box(-1, 1, (2,), np.float32), spaces.Box(0, 255, (2, 2), np.uint8)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("space", "observation", "said"),
    [
        (BOX, np.array([0, np.nan], np.float32), "gave nan at [1] of an observation at step 1, which is not finite"),
        (BOX, np.array([-np.inf, 0], np.float32), "gave -inf at [0]"),
        (BOX, [0.0, 1.5], "gave 1.5 at [1] of an observation at step 1, which is outside of its space Box(-1"),
        (BOX, np.zeros(3), "gave an observation of shape (3,) at step 1, and its space has (2,)"),
        (BOX, np.zeros((1, 2), np.float32), "shape (1, 2)"),
        (BOX, 0.5, "shape ()"),
        (BOX, None, "shape ()"),
        (BOX, ["a", "b"], "of type <U1"),
        (BOX, np.array([None, 1]), "of type object"),
        (BOX, [[0], [1, 2]], "which is no array"),
        (BYTES, np.full((2, 2), 0.5), "of type float64"),
        (BYTES, np.full((2, 2), 300), "of type int64, [[300 300] [300 300]], at step 1, and its space has uint8"),
        (BYTES, np.full((2, 2), -1), "of type int64"),
        (spaces.Discrete(3), 3, "the observation 3 at step 1, which is outside of its space Discrete(3)"),
        (spaces.Discrete(3), -1, "the observation -1"),
        (spaces.Discrete(3), 1.5, "TypeError: 'float'"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("error")
def test_fault_26_an_observation_outside_of_its_space_is_named(space: Any, observation: Any, said: str) -> None:
    """As the second one of an episode, and as the first."""
    name = scripted(space, space.sample(), observation)
    environments = Environments(name)
    environments.reset([0])
    environments.step(np.array([0]))
    with pytest.raises(DataError) as raised:
        environments.step(np.array([0]))
    assert said in str(raised.value)
    assert name in str(raised.value)
    with pytest.raises(DataError, match="in the reset before step 0"):
        Environments(scripted(space, first=observation)).reset([0])


def test_the_index_of_a_wrong_number_is_that_of_the_environment() -> None:
    read = ObservationConverter(spaces.Box(-1, 1, (5, 7, 3), np.float32))
    for value in (2.0, np.inf):
        given = np.zeros((1, 5, 7, 3), np.float32)
        given[0, 4, 6, 1] = value
        with pytest.raises(InvalidObservation, match=r"at \[4, 6, 1\] of"):
            read.check(read.convert_batch(given))


@pytest.mark.parametrize("count", [1, 2, 24, 25, 300])
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_value_that_is_not_finite_is_found_among_few_and_many(count: int) -> None:
    read, ones = ObservationConverter(spaces.Box(-np.inf, np.inf, (1,))), np.ones(count, np.float32)
    largest = ones * np.finfo(np.float32).max
    read.check(largest[:, None], largest)
    for odd_one in (np.nan, np.inf, -np.inf):
        for place in {0, count // 2, count - 1}:
            numbers = largest.copy()
            numbers[0], numbers[place] = np.inf, odd_one  # which together may be NaN
            with pytest.raises(InvalidObservation, match="at"):
                read.check(numbers[:, None], ones)
            with pytest.raises(InvalidObservation, match="reward"):
                read.check(ones[:, None], numbers)
            with pytest.raises(InvalidObservation, match="reward"):  # of images and Discrete observations too
                ObservationConverter(spaces.Discrete(1)).check(ones[:, None], numbers)


def test_observations_of_another_type_are_cast_if_their_values_fit() -> None:
    for space, observation in (
        (BOX, [1, 0]),
        (BOX, np.array([0.5, -1])),
        (BYTES, [[0, 255], [1, 2]]),
        (BOX, (True, 0)),
    ):
        environments = Environments(scripted(space, observation))
        environments.reset([0])
        np.testing.assert_array_equal(environments.step(np.array([0])).observations[0], np.asarray(observation))


class Old(Counting):
    """As gym was before gymnasium."""

    def reset(self, **seed: Any) -> Any:
        return super().reset(**seed)[0] if self.place != "step" else super().reset(**seed)

    def step(self, action: int) -> Any:
        return self.state, 0.0, False, {}


class Unseeded(Counting):
    def reset(self) -> Any:
        return super().reset()


@pytest.mark.faults
@pytest.mark.parametrize("settings", [{}, {"max_episode_steps": 9}, {"order_enforce": False}], ids=str)
@pytest.mark.parametrize("made", [lambda: Old("reset"), lambda: Old("step"), lambda: Unseeded("")])
def test_fault_26_an_api_from_before_gymnasium_is_named(made: Any, settings: dict[str, Any]) -> None:
    environments = Environments(registered(made, **settings))
    with pytest.raises(DataError, match=r"step\(action\) returns \(observation, reward, terminated, truncated, info\)"):  # noqa: PT012
        environments.reset([0])
        environments.step(np.array([0]))


@pytest.mark.faults
@pytest.mark.parametrize("place", ["made", "reset", "step", "rendered"])
def test_fault_26_an_error_of_an_environment_has_its_line(place: str) -> None:
    class Broken(Counting):
        def __init__(self, render_mode: str | None = None) -> None:
            super().__init__("steps")
            self.trip("made")

        def reset(self, **settings: Any) -> Any:
            self.trip("reset")
            return super().reset(**settings)

        def step(self, action: int) -> Any:
            self.trip("step")
            return super().step(action)

        def render(self) -> Any:
            self.trip("rendered")

        def trip(self, here: str) -> None:
            if here == place:
                np.zeros(3).reshape(2)  # whose own frames are NumPy's

    line = Broken.trip.__code__.co_firstlineno + 2
    with pytest.raises(DataError) as raised:  # noqa: PT012
        environments = Environments(registered(Broken), 1, vectorized=False, render=True)
        environments.reset([0])
        environments.step(np.array([0]))
        environments.render()
    assert f"ValueError: cannot reshape array of size 3 into shape (2,) ({__file__}, line {line})" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def unlicensed() -> Any:
    raise PermissionError("no\nlicense")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda size: Counting("steps"), "missing 1 required positional argument: 'size'; fix"),
        (dict, "must inherit from the gymnasium.Env class"),
        (unlicensed, f"PermissionError: no license ({__file__}, line {unlicensed.__code__.co_firstlineno + 1}); fix"),
        ("no_such_module:Environment", "cannot be made: No module named 'no_such_module'"),
    ],
    ids=["argument", "class", "error", "module"],
)
def test_an_environment_that_cannot_be_made_says_why(made: Any, said: str) -> None:
    with pytest.raises(DlrefError) as raised:
        Environments(registered(made))
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert "truncated" not in str(raised.value), "the API of reset and step is not at fault"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Counting("steps"), "takes no render_mode"),
        (lambda render_mode: Counting("steps"), "has no render"),
        (lambda render_mode: Rendered(None), "its render returns NoneType"),
        (lambda render_mode: Rendered("+---+"), "its render returns str"),
        (lambda render_mode: Rendered(np.zeros((4, 5, 3))), r"its render returns float64 \(4, 5, 3\)"),
        (lambda render_mode: Rendered(ImportError("pygame is not there")), "pygame is not there; pip install"),
    ],
)
def test_an_environment_that_cannot_be_rendered_is_refused(made: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):  # noqa: PT012
        environments = Environments(registered(made), render=True)
        environments.reset([0])
        environments.render()


@pytest.mark.faults
@pytest.mark.parametrize(("end", "said"), [("raises", "out of coffee"), ("nan", "reward nan"), ("shape", "shape")])
def test_fault_26_an_environment_that_breaks_is_named_with_its_step(end: str, said: str) -> None:
    environments: Any = Environments(f"Corridor-{end}-v0", 2)
    environments.reset([0, 1])
    with pytest.raises(DataError, match=said) as raised:
        environments.step(np.array([0, 1]))
    assert f"Corridor-{end}-v0" in str(raised.value)
    assert "step 0" in str(raised.value)


@pytest.mark.faults
def test_fault_26_a_nan_observation_is_not_reported_as_divergence(
    train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    name = scripted(BOX, *[np.zeros(2, np.float32)] * 7, np.full(2, np.nan, np.float32))
    code, said = train(*SMALL["dqn"], f"data.env={name}", "trainer.max_steps=5", f"run_dir={tmp_path / 'run'}")
    assert code == 3
    last = f"dlref: {name} gave nan at [0] of an observation at step 7, which is not finite; fix the environment"
    assert said.splitlines()[-1] == last
