"""Gymnasium environments: several that step together, without reset steps, and with a state that can be restored.

E environments, of which M take a step.
"""

import contextlib
import os
import random
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

from dlref.data.rl.observations import InvalidObservation, ObservationConverter
from dlref.data.rl.snapshots import Fingerprint, restore, set_generators, snapshot, spaces_of, variables_restored
from dlref.errors import ConfigError, DataError, DlrefError, brief

API = (
    "in gymnasium reset(seed=…, options=…) returns (observation, info) and step(action) returns (observation, reward, "
    "terminated, truncated, info)"
)
TRIAL_STEPS = 10  # before and after a state, to find out whether it can be restored


class Step(NamedTuple):
    """Transitions of one step of M environments."""

    env_ids: np.ndarray  # [M] int64: indices of the environments
    rewards: np.ndarray  # [M] float32
    observations: (
        np.ndarray
    )  # [M, ...]: after the step; at the end of an episode its last one, not the next one's first
    terminated: np.ndarray  # [M] bool: the environment reached a terminal state
    truncated: np.ndarray  # [M] bool: a time limit cut the episode off


class Environments:
    """`count` environments of one kind, each in its own episode; one whose episode ended is reset.

    `observations` [E, ...] are the current ones, converted by `ObservationConverter`. With `vectorized` gymnasium's vector
    environment is used if it has one (CartPole), else a list, which can be rendered (`render`). Atari games (`ALE/Pong-v5`)
    always use the vector environment: every fourth frame, 84 × 84 and gray, the last four stacked, without sticky actions;
    with `vectorized` rewards are clipped to -1, 0 and 1 (Mnih et al. 2015).
    Raises ConfigError for an environment that is not registered or is named by its module, and for actions that are not
    Discrete or observations that are neither Box nor Discrete; DataError, with environment, step and line, for an
    environment that fails or breaks gymnasium's API.
    """

    def __init__(self, name: str, count: int = 1, vectorized: bool = True, render: bool = False) -> None:
        from gymnasium import spaces

        if ":" in name:  # gymnasium would import the module before the colon
            raise ConfigError(
                f"data.env={brief(name)} names a module; import it in a file that plugins= names, and leave it out here"
            )
        self.name, self.count, self.steps, self.is_seeded = name, count, 0, False
        self.is_atari = name.startswith("ALE/")
        self.vector_env: Any = None
        self.envs: list[Any] = []  # where there is no vector environment
        self.make(vectorized, render)
        first, prefix = self.made()[0], "" if self.envs else "single_"
        space, actions = (getattr(first, f"{prefix}{kind}_space", None) for kind in ("observation", "action"))
        try:
            if not isinstance(actions, spaces.Discrete):
                raise ValueError
            # LunarLander leaves its bounds, so they are not checked for gymnasium's own environments.
            is_own = type(first.unwrapped).__module__.partition(".")[0] == "gymnasium"
            self.converter = ObservationConverter(space, bounded=not is_own)
        except ValueError:
            raise ConfigError(
                f"data.env={name} has actions {brief(actions)} and observations {brief(space)}; actions must be numbered "
                "(Discrete), observations an array (Box) or numbered: wrap it, as by gymnasium's FlattenObservation"
            ) from None
        self.actions, self.first_action = int(actions.n), int(actions.start)
        self.shape, self.dtype = self.converter.shape, self.converter.dtype
        self.observations = np.zeros((count, *self.shape), self.dtype)
        self.all_ids = np.arange(count)
        self.is_resetting = np.zeros(count, bool)  # whether the vector environment's next step only resets
        self.restorable: bool | None = None  # None until it was tried

    def describe(self) -> dict[str, str]:
        """The plain values for a checkpoint; the layout of observations only if it was changed."""
        return {"env": self.name} | ({"layout": "channels first"} if self.converter.is_channels_last else {})

    def make(self, vectorized: bool, render: bool) -> None:
        """Set `vector_env` or fill `envs`."""
        import gymnasium

        try:
            if self.is_atari:
                import ale_py

                gymnasium.register_envs(ale_py)
            if self.is_atari or (vectorized and self.count > 1 and has_vectorized_form(self.name)):
                game: dict[str, Any] = {"reward_clipping": vectorized, "repeat_action_probability": 0.0}
                self.vector_env = gymnasium.make_vec(
                    self.name,
                    self.count,
                    vectorization_mode="vector_entry_point",
                    **(game if self.is_atari else {}),
                )
                if self.vector_env.metadata.get("autoreset_mode") != gymnasium.vector.AutoresetMode.NEXT_STEP:
                    self.vector_env = None
            if self.vector_env is None:
                # gymnasium's checker takes as long as a step of CartPole, and its warnings are errors here.
                rendering: Any = {"render_mode": "rgb_array"} if render else {}
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".*not in the possible render_modes")  # `render` raises
                    for _ in range(self.count):
                        self.envs.append(gymnasium.make(self.name, disable_env_checker=True, **rendering))
        except (gymnasium.error.Error, ImportError) as error:
            remedy = (
                "" if self.name in gymnasium.registry else "; plugins=FILE.py names a file of yours that registers it"
            )
            if self.is_atari and isinstance(error, ImportError):
                remedy = "; pip install 'dlref[atari]'"
            said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".?")
            raise ConfigError(f"data.env={self.name} cannot be made: {said}{origin(error)}{remedy}") from None
        except Exception as error:
            if render and "'render_mode'" in str(error):
                raise ConfigError(
                    f"{self.name} cannot be rendered: it takes no render_mode; leave out --video"
                ) from None
            self.fail(error, "while it was made", "fix the environment or what it is registered with")

    def reset(self, seeds: Sequence[int]) -> None:
        """Start new episodes from `count` seeds; the first call also seeds the environments' spaces."""
        try:
            for env, seed in zip(self.made() if not self.is_seeded else (), seeds, strict=False):
                for space in spaces_of(env.unwrapped).values():
                    space.seed(seed)
            self.is_seeded = True
            if self.vector_env is not None:
                vector_seed: Any = np.array(seeds) if self.is_atari else seeds[0]
                self.observations = self.converter.convert_batch(self.vector_env.reset(seed=vector_seed)[0])
                self.is_resetting = np.zeros(self.count, bool)
            else:
                for env_id, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
                    self.observations[env_id] = self.first_observation(env.reset(seed=seed))
            self.converter.check(self.observations)
        except Exception as error:
            self.fail(error, f"in the reset before step {self.steps}")

    def first_observation(self, result: Any) -> Any:
        """The converted observation of what an environment's reset returned."""
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping | None)):
            raise DataError(f"{self.name}'s reset returned {brief(result, 60)}, and {API}; adapt the environment")
        return self.converter.convert(result[0])

    def step(self, actions: np.ndarray, env_ids: np.ndarray | None = None) -> Step:
        """Step all environments, or those with ids [M], by their actions [M] int64."""
        self.steps += 1
        try:
            return (
                self.step_vector(actions, env_ids) if self.vector_env is not None else self.step_each(actions, env_ids)
            )
        except Exception as error:  # any environment's own
            self.fail(error, f"at step {self.steps - 1}")

    def step_vector(self, actions: np.ndarray, env_ids: np.ndarray | None) -> Step:
        """Step the vector environment, which resets in a step of its own (NEXT_STEP autoreset): those are left out.

        Environments without an id in `env_ids` take a step too, which is not returned.
        """
        if env_ids is not None:
            chosen, actions = actions, np.zeros(self.count, np.int64)
            actions[env_ids] = chosen
        observations, rewards, terminated, truncated, _ = self.vector_env.step(actions + self.first_action)
        observations, rewards = self.converter.convert_batch(observations), np.asarray(rewards, np.float32)
        self.converter.check(observations, rewards)
        if env_ids is None:
            env_ids = np.flatnonzero(~self.is_resetting) if np.count_nonzero(self.is_resetting) else self.all_ids
        self.observations, self.is_resetting = observations, terminated | truncated
        if len(env_ids) == self.count:
            return Step(env_ids, rewards, observations, terminated, truncated)
        return Step(env_ids, rewards[env_ids], observations[env_ids], terminated[env_ids], truncated[env_ids])

    def step_each(self, actions: np.ndarray, env_ids: np.ndarray | None) -> Step:
        env_ids = self.all_ids if env_ids is None else env_ids
        count, convert = len(env_ids), self.converter.convert
        observations, rewards = np.empty((count, *self.shape), self.dtype), np.empty(count, np.float32)
        terminated, truncated = np.empty(count, bool), np.empty(count, bool)
        self.observations = self.observations.copy()  # the caller may hold the previous ones
        for row, (env_id, action) in enumerate(zip(env_ids.tolist(), actions.tolist(), strict=True)):
            observation, reward, is_terminal, is_cut, _ = self.envs[env_id].step(action + self.first_action)
            observation = convert(observation)
            observations[row], rewards[row], terminated[row], truncated[row] = observation, reward, is_terminal, is_cut
            self.observations[env_id] = self.reset_one(env_id) if is_terminal or is_cut else observation
        self.converter.check(observations, rewards)
        return Step(env_ids, rewards, observations, terminated, truncated)

    def reset_one(self, env_id: int) -> Any:
        """The first observation of an environment's next episode."""
        observation = self.first_observation(self.envs[env_id].reset())
        self.converter.check(np.asarray(observation, self.dtype)[None])
        return observation

    def render(self) -> np.ndarray:
        """An image [rows, columns, 3] uint8 of the first environment; of an Atari game its newest frame [rows, columns]."""
        if self.is_atari:
            return self.observations[0, -1]
        refused = f"{self.name} cannot be rendered: "
        try:
            image = self.envs[0].render()
        except ImportError as error:
            raise ConfigError(f"{refused}{brief(error)}; pip install 'dlref[video]' brings pygame") from None
        except NotImplementedError:
            raise ConfigError(f"{refused}it has no render; leave out --video") from None
        except Exception as error:
            self.fail(error, f"while it was rendered before step {self.steps}")
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] not in ((3,), (4,)):
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ConfigError(
                f"{refused}with render_mode rgb_array its render returns {got}, not an image [rows, columns, 3] uint8; "
                "leave out --video"
            )
        return image

    def fail(self, error: Exception, when: str, remedy: str | None = None) -> NoReturn:
        """Raise an error of an environment as a DataError that says when and in which line."""
        if isinstance(error, DlrefError | MemoryError):
            raise error
        if isinstance(error, InvalidObservation):
            what, why = error.args
            raise DataError(f"{self.name} gave {what} {when}, {why}; fix the environment") from None
        cause: BaseException = error
        while cause.__cause__ is not None and not own_frames(cause):  # gymnasium wraps some errors
            cause = cause.__cause__
        said = f"{type(cause).__name__}: {brief(cause, 240).rstrip('.')}{origin(cause)}"
        if remedy is None:
            is_api = not own_frames(cause) and ("unpack" in said or " argument" in said)
            remedy = f"{API}; adapt the environment" if is_api else "fix the environment"
        raise DataError(f"{self.name} failed {when}: {said}; {remedy}") from error

    def close(self) -> None:
        """Close all environments, which may hold windows, simulators and files."""
        try:
            for env in self.made():
                env.close()
        except Exception as error:
            self.fail(error, "while it was closed")

    def made(self) -> list[Any]:
        """What gymnasium made: the vector environment alone, or each environment."""
        return self.envs if self.vector_env is None else [self.vector_env]

    def state_dict(self, check: bool = True) -> dict[str, Any]:
        """The environments' states; None for each if they cannot be restored, which `check` finds out once."""
        snapshots: Any = [snapshot(env) for env in self.made()]
        if check and self.restorable is None and None not in snapshots:
            self.restorable = self.is_restorable()
            for env, state in zip(self.made(), snapshots, strict=True):
                set_generators(env, state["random"])  # a class of environments may share one
        return {
            "envs": [None] * len(snapshots) if self.restorable is False else snapshots,
            "observations": torch.from_numpy(self.observations.copy()),
            "is_resetting": self.is_resetting.tolist(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restore the state and return True, or return False if that is impossible; then `reset` has to follow."""
        self.steps = state["steps"]
        for env, saved in zip(self.made(), state["envs"], strict=True):
            try:
                if saved is not None:
                    env.reset()
            except Exception as error:
                self.fail(error, "in the reset before its state was restored")
            if saved is None or not restore(env, saved):
                return False
        self.observations, self.is_resetting = (
            state["observations"].numpy().copy(),
            np.array(state["is_resetting"], bool),
        )
        self.is_seeded = True  # the state has the spaces' generators
        return True

    @torch.random.fork_rng(devices=[])
    def is_restorable(self) -> bool:
        """Whether another environment, restored to a state of one like these, then takes the same steps.

        Tried with two new ones; class and module variables are put back afterwards. State that is kept outside of
        attributes (a simulator, another module) is not in the fingerprint, and the process's own random numbers are not
        in a checkpoint: only the trial finds these.
        """
        before = random.getstate(), np.random.get_state(legacy=False), torch.random.get_rng_state()
        try:
            with variables_restored(self.made()[0]), contextlib.ExitStack() as stack:
                one, other = (self.new_like_this(stack) for _ in range(2))
                is_same = continues_identically(one, other)
            after = random.getstate(), np.random.get_state(legacy=False), torch.random.get_rng_state()
            return is_same and Fingerprint()(before) == Fingerprint()(after)
        except DlrefError:  # there may be only one at a time
            return False
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])

    def new_like_this(self, stack: contextlib.ExitStack) -> "Environments":
        """One or two new environments of the same kind, closed at the end of the stack."""
        made = Environments(self.name, min(self.count, 2), self.vector_env is not None)
        return stack.enter_context(contextlib.closing(made))


def continues_identically(one: Environments, other: Environments) -> bool:
    """Whether `other`, restored to a state of `one`, then takes the same steps."""
    actions = np.arange(TRIAL_STEPS)[:, None] * np.ones(one.count, np.int64) % one.actions
    one.reset(range(one.count))
    for row in actions:
        one.step(row)
    state = one.state_dict(check=False)
    steps = [one.step(row) for row in actions]
    return other.load_state_dict(state) and all(
        np.array_equal(a, b)
        for row, step in zip(actions, steps, strict=True)
        for a, b in zip(step, other.step(row), strict=True)
    )


def has_vectorized_form(name: str) -> bool:
    import gymnasium

    spec = gymnasium.registry.get(name)  # None for a name without a version
    return spec is not None and spec.vector_entry_point is not None


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error in the code of an environment; empty for errors of gymnasium itself."""
    libraries = [sys.modules[name].__file__ or "" for name in ("dlref", "gymnasium", "importlib")]
    others = "<", *(os.path.dirname(file) + os.sep for file in libraries)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return [frame for frame in frames if os.path.dirname(frame.filename) == os.path.dirname(frames[0].filename)]


def origin(error: BaseException) -> str:
    """The line of an environment's code that raised an error, as ` (FILE, line N)`, or nothing."""
    return "".join(f" ({frame.filename}, line {frame.lineno})" for frame in own_frames(error)[-1:])
