"""Environments of gymnasium: several at once, without the step that only resets, and frozen between two of their steps."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from dlref.errors import ConfigError, DataError


class Step(NamedTuple):
    """What one step did in M of the environments."""

    who: np.ndarray  # [M] int64: in which ones
    rewards: np.ndarray  # [M] float32
    observations: np.ndarray  # [M, ...]: after the step; where an episode ended its last, not the first of the next one
    terminated: np.ndarray  # [M] bool: nothing follows
    truncated: np.ndarray  # [M] bool: cut off by a time limit, but the world would go on


class Environments:
    """`count` environments of one kind, each with its own episode; one that ended begins anew.

    `observations` [count, ...] is what to act on next: float32, pictures uint8, discrete ones as one-hot vectors.
    gymnasium's vectorised form is used where there is one (CartPole) and `vectorized`, else a list, which can be `render`ed.
    Atari's games (`ALE/Pong-v5`) always take their vectorised form, whose observations are the last four of the frames,
    every fourth one, 84 × 84 and grey, without sticky actions; where `vectorized` their rewards are -1, 0 and 1 (Mnih et
    al. 2015).
    Raises ConfigError for an environment that cannot be made, or that has neither numbered actions nor observations that
    are an array or numbered; DataError, with environment and step, for one that fails.
    """

    def __init__(self, name: str, count: int = 1, vectorized: bool = True, render: bool = False) -> None:
        import gymnasium
        from gymnasium import spaces

        self.name, self.count, self.steps = name, count, 0
        self.stacked = name.startswith("ALE/")
        self.together: Any = None
        self.each: list[Any] = []
        try:
            if self.stacked:
                import ale_py

                gymnasium.register_envs(ale_py)
            if self.stacked or (vectorized and count > 1 and gymnasium.spec(name).vector_entry_point):
                game: dict[str, Any] = {"reward_clipping": vectorized, "repeat_action_probability": 0.0}
                self.together = gymnasium.make_vec(
                    name, count, vectorization_mode="vector_entry_point", **(game if self.stacked else {})
                )
                if self.together.metadata.get("autoreset_mode") != gymnasium.vector.AutoresetMode.NEXT_STEP:
                    self.together = None
            if self.together is None:
                # The checker takes as long as a step of CartPole, and what it warns of is an error here.
                drawn: Any = {"render_mode": "rgb_array"} if render else {}
                self.each = [gymnasium.make(name, disable_env_checker=True, **drawn) for _ in range(count)]
        except (gymnasium.error.Error, ImportError) as error:
            more = "; pip install 'dlref[atari]'" if self.stacked and isinstance(error, ImportError) else ""
            raise ConfigError(f"data.env={name} cannot be made: {str(error).splitlines()[0]}{more}") from None
        one = self.together or self.each[0]
        observations = one.single_observation_space if self.together else one.observation_space
        actions = one.single_action_space if self.together else one.action_space
        numbered = isinstance(observations, spaces.Discrete)
        if not isinstance(actions, spaces.Discrete) or not (numbered or isinstance(observations, spaces.Box)):
            raise ConfigError(
                f"data.env={name} has actions {actions} and observations {observations}; actions must be numbered, "
                "observations an array or numbered"
            )
        self.actions, self.first_action = int(actions.n), int(actions.start)
        self.first_observation = int(observations.start) if numbered else None
        self.shape: tuple[int, ...] = (int(observations.n),) if numbered else tuple(observations.shape)
        self.dtype: Any = np.uint8 if observations.dtype == np.uint8 and not numbered else np.float32
        self.observations = np.zeros((count, *self.shape), self.dtype)
        self.resetting = np.zeros(count, bool)  # in their next step

    def begin(self, seeds: Sequence[int]) -> None:
        """New episodes, from `count` seeds."""
        if self.together is not None:
            self.observations = self.together.reset(seed=np.array(seeds) if self.stacked else seeds[0])[0]
            self.resetting = np.zeros(self.count, bool)
        for number, (env, seed) in enumerate(zip(self.each, seeds, strict=False)):
            self.observations[number] = self.seen(env.reset(seed=seed)[0])

    def step(self, actions: np.ndarray, who: np.ndarray | None = None) -> Step:
        """One step of all, or of those in a list that `who` [M] names, with their actions [M] int64."""
        self.steps += 1
        try:
            return self.step_together(actions, who) if self.together is not None else self.step_each(actions, who)
        except DataError:
            raise
        except Exception as error:  # any environment's own
            raise DataError(f"{self.name} failed at step {self.steps - 1}: {type(error).__name__}: {error}") from error

    def step_together(self, actions: np.ndarray, asked: np.ndarray | None) -> Step:
        """gymnasium begins an episode in a step of its own, which is no step of the environment and left out here.

        Those that are not asked for take a step too, of which nothing is told.
        """
        if asked is not None:
            given, actions = actions, np.zeros(self.count, np.int64)
            actions[asked] = given
        observations, rewards, terminated, truncated, _ = self.together.step(actions + self.first_action)
        rewards = rewards.astype(np.float32, copy=False)
        who = np.flatnonzero(~self.resetting) if asked is None else asked
        self.observations, self.resetting = observations, terminated | truncated
        if len(who) == self.count:
            return Step(who, rewards, observations, terminated, truncated)
        return Step(who, rewards[who], observations[who], terminated[who], truncated[who])

    def step_each(self, actions: np.ndarray, who: np.ndarray | None) -> Step:
        who = np.arange(self.count) if who is None else who
        observations = np.empty((len(who), *self.shape), self.dtype)
        rewards, ends = np.empty(len(who), np.float32), np.empty((2, len(who)), bool)
        self.observations = self.observations.copy()  # the caller may hold those before the step
        for place, (number, action) in enumerate(zip(who.tolist(), actions.tolist(), strict=True)):
            observation, reward, *over, _ = self.each[number].step(action + self.first_action)
            observation = self.seen(observation)
            if observation.shape != self.shape or not math.isfinite(reward):
                what = f"observation shape {observation.shape} and reward {reward}"
                raise DataError(f"{self.name} gave {what} at step {self.steps - 1}")
            observations[place], rewards[place], ends[:, place] = observation, reward, over
            self.observations[number] = self.seen(self.each[number].reset()[0]) if any(over) else observation
        return Step(who, rewards, observations, *ends)

    def seen(self, observation: Any) -> np.ndarray:
        if self.first_observation is not None:
            return np.eye(self.shape[0], dtype=np.float32)[int(observation) - self.first_observation]
        return np.asarray(observation, self.dtype)

    def held(self) -> list[Any]:
        """What gymnasium made: one environment of them all, or each."""
        return self.each if self.together is None else [self.together]

    def state_dict(self) -> dict[str, Any]:
        return {
            "envs": [freeze(env) for env in self.held()],
            "observations": torch.from_numpy(self.observations.copy()),
            "resetting": self.resetting.tolist(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Whether they go on where they stood; where their state is hidden, new episodes have to begin."""
        self.steps = state["steps"]
        if None in state["envs"]:
            return False
        for env, frozen in zip(self.held(), state["envs"], strict=True):
            env.reset()
            thaw(env, frozen)
        self.observations, self.resetting = state["observations"].numpy().copy(), np.array(state["resetting"], bool)
        return True


def freeze(env: Any) -> dict[str, Any] | None:
    """The state of an environment, where it is plain numbers (classic control, tables); else None."""
    inner = env.unwrapped
    state = getattr(inner, "state", getattr(inner, "s", None))  # as gymnasium's own environments call it
    if state is None or not np.issubdtype(np.asarray(state).dtype, np.number):
        return None
    wrappers, layer = [], env
    while layer is not inner:
        wrappers.append({name: value for name, value in vars(layer).items() if isinstance(value, bool | int | float)})
        layer = layer.env
    values = {name: packed(value) for name, value in vars(inner).items() if is_plain(value)}
    return {"values": values, "wrappers": wrappers, "random": inner.np_random.bit_generator.state}


def thaw(env: Any, frozen: dict[str, Any]) -> None:
    """Put an environment of the same kind where the frozen one stood."""
    inner, layer = env.unwrapped, env
    for wrapper in frozen["wrappers"]:
        vars(layer).update(wrapper)
        layer = layer.env
    vars(inner).update({name: unpacked(value) for name, value in frozen["values"].items()})
    inner.np_random.bit_generator.state = frozen["random"]


def is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype == bool or np.issubdtype(value.dtype, np.number)
    return isinstance(value, bool | int | float | None)


def packed(value: Any) -> Any:
    """As a checkpoint may hold it: NumPy's arrays and numbers become tensors."""
    if isinstance(value, tuple):
        return tuple(map(packed, value))
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value


def unpacked(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(unpacked, value))
    return value.numpy().copy()[()] if isinstance(value, torch.Tensor) else value  # [()] is a number where it was one
