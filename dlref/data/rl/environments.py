"""Environments of gymnasium: several at once, without the step that only resets, and frozen between two of their steps."""

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

from dlref.data.rl.observations import Observations, WrongObservation
from dlref.data.rl.snapshots import Fingerprint, freeze, set_generators, spaces_of, thaw, variables_kept
from dlref.errors import ConfigError, DataError, DlrefError, brief

API = (
    "in gymnasium reset(seed=…, options=…) returns (observation, info) and step(action) returns (observation, reward, "
    "terminated, truncated, info)"
)
REPLAYED = 10  # steps before and after a state by which it is seen whether it can be restored


class Step(NamedTuple):
    """What one step did in M of the environments."""

    who: np.ndarray  # [M] int64: in which ones
    rewards: np.ndarray  # [M] float32
    observations: np.ndarray  # [M, ...]: after the step; where an episode ended its last, not the first of the next one
    terminated: np.ndarray  # [M] bool: nothing follows
    truncated: np.ndarray  # [M] bool: cut off by a time limit, but the world would go on


class Environments:
    """`count` environments of one kind, each with its own episode; one that ended begins anew.

    `observations` [count, ...] is what to act on next, as `Observations` reads it.
    gymnasium's vectorised form is used where there is one (CartPole) and `vectorized`, else a list, which can be `render`ed.
    Atari's games (`ALE/Pong-v5`) always take their vectorised form, whose observations are the last four of the frames,
    every fourth one, 84 × 84 and grey, without sticky actions; where `vectorized` their rewards are -1, 0 and 1 (Mnih et
    al. 2015).
    Raises ConfigError for an environment that is not registered, or that has neither numbered actions nor observations
    that are an array or numbered; DataError, with environment, step and line, for one that fails or breaks gymnasium's
    API.
    """

    def __init__(self, name: str, count: int = 1, vectorized: bool = True, render: bool = False) -> None:
        from gymnasium import spaces

        self.name, self.count, self.steps, self.is_seeded = name, count, 0, False
        self.stacked = name.startswith("ALE/")
        self.together: Any = None
        self.each: list[Any] = []
        self.make(vectorized, render)
        one, single = self.held()[0], "" if self.each else "single_"
        space, actions = (getattr(one, f"{single}{kind}_space", None) for kind in ("observation", "action"))
        try:
            if not isinstance(actions, spaces.Discrete):
                raise ValueError
            # LunarLander leaves its bounds, so what gymnasium has of its own is not compared with them.
            self.read = Observations(space, bounded=type(one.unwrapped).__module__.partition(".")[0] != "gymnasium")
        except ValueError:
            raise ConfigError(
                f"data.env={name} has actions {brief(actions)} and observations {brief(space)}; actions must be numbered "
                "(Discrete), observations an array (Box) or numbered: wrap it, as by gymnasium's FlattenObservation"
            ) from None
        self.actions, self.first_action = int(actions.n), int(actions.start)
        self.shape, self.dtype = self.read.shape, self.read.dtype
        self.observations = np.zeros((count, *self.shape), self.dtype)
        self.everyone = np.arange(count)
        self.resetting = np.zeros(count, bool)  # in their next step
        self.restorable: bool | None = None  # once it is known

    def describe(self) -> dict[str, str]:
        """What a checkpoint says of them; the layout of observations only where it is not the environment's own."""
        return {"env": self.name} | ({"layout": "channels first"} if self.read.is_channels_last else {})

    def make(self, vectorized: bool, render: bool) -> None:
        """Fill `together`, or else `each`."""
        import gymnasium

        try:
            if self.stacked:
                import ale_py

                gymnasium.register_envs(ale_py)
            if self.stacked or (vectorized and self.count > 1 and has_vectorized_form(self.name)):
                game: dict[str, Any] = {"reward_clipping": vectorized, "repeat_action_probability": 0.0}
                self.together = gymnasium.make_vec(
                    self.name,
                    self.count,
                    vectorization_mode="vector_entry_point",
                    **(game if self.stacked else {}),
                )
                if self.together.metadata.get("autoreset_mode") != gymnasium.vector.AutoresetMode.NEXT_STEP:
                    self.together = None
            if self.together is None:
                # The checker takes as long as a step of CartPole, and what it warns of is an error here.
                drawn: Any = {"render_mode": "rgb_array"} if render else {}
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".*not in the possible render_modes")  # which `render` finds out
                    for _ in range(self.count):
                        self.each.append(gymnasium.make(self.name, disable_env_checker=True, **drawn))
        except (gymnasium.error.Error, ImportError) as error:
            remedy = (
                "" if self.name in gymnasium.registry else "; plugins=FILE.py names a file of yours that registers it"
            )
            if self.stacked and isinstance(error, ImportError):
                remedy = "; pip install 'dlref[atari]'"
            said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".?")
            raise ConfigError(f"data.env={self.name} cannot be made: {said}{origin(error)}{remedy}") from None
        except Exception as error:
            if render and "'render_mode'" in str(error):
                raise ConfigError(f"{self.name} cannot be drawn: it takes no render_mode; leave out --video") from None
            self.fail(error, "while it was made", "fix the environment or what it is registered with")

    def begin(self, seeds: Sequence[int]) -> None:
        """New episodes, from `count` seeds, which at first are also those of the environments' spaces."""
        try:
            for env, seed in zip(self.held() if not self.is_seeded else (), seeds, strict=False):
                for space in spaces_of(env.unwrapped).values():
                    space.seed(seed)
            self.is_seeded = True
            if self.together is not None:
                self.observations = self.read.several(
                    self.together.reset(seed=np.array(seeds) if self.stacked else seeds[0])[0]
                )
                self.resetting = np.zeros(self.count, bool)
            for number, seed in enumerate(seeds if self.each else ()):
                self.observations[number] = self.first(self.each[number].reset(seed=seed))
            self.read.check(self.observations)
        except Exception as error:
            self.fail(error, f"in the reset before step {self.steps}")

    def first(self, result: Any) -> Any:
        """The observation that begins an episode, of what reset returned."""
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping | None)):
            raise DataError(f"{self.name}'s reset returned {brief(result, 60)}, and {API}; adapt the environment")
        return self.read.one(result[0])

    def step(self, actions: np.ndarray, who: np.ndarray | None = None) -> Step:
        """One step of all, or of those in a list that `who` [M] names, with their actions [M] int64."""
        self.steps += 1
        try:
            return self.step_together(actions, who) if self.together is not None else self.step_each(actions, who)
        except Exception as error:  # any environment's own
            self.fail(error, f"at step {self.steps - 1}")

    def step_together(self, actions: np.ndarray, asked: np.ndarray | None) -> Step:
        """gymnasium begins an episode in a step of its own, which is no step of the environment and left out here.

        Those that are not asked for take a step too, of which nothing is told.
        """
        if asked is not None:
            given, actions = actions, np.zeros(self.count, np.int64)
            actions[asked] = given
        observations, rewards, terminated, truncated, _ = self.together.step(actions + self.first_action)
        observations, rewards = self.read.several(observations), np.asarray(rewards, np.float32)
        self.read.check(observations, rewards)
        who = asked
        if who is None:
            who = np.flatnonzero(~self.resetting) if np.count_nonzero(self.resetting) else self.everyone
        self.observations, self.resetting = observations, terminated | truncated
        if len(who) == self.count:
            return Step(who, rewards, observations, terminated, truncated)
        return Step(who, rewards[who], observations[who], terminated[who], truncated[who])

    def step_each(self, actions: np.ndarray, who: np.ndarray | None) -> Step:
        who = self.everyone if who is None else who
        count, read = len(who), self.read.one
        observations, rewards = np.empty((count, *self.shape), self.dtype), np.empty(count, np.float32)
        terminated, truncated = np.empty(count, bool), np.empty(count, bool)
        self.observations = self.observations.copy()  # the caller may hold those before the step
        for place, (number, action) in enumerate(zip(who.tolist(), actions.tolist(), strict=True)):
            observation, reward, terminal, cut, _ = self.each[number].step(action + self.first_action)
            observation = read(observation)
            observations[place], rewards[place], terminated[place], truncated[place] = (
                observation,
                reward,
                terminal,
                cut,
            )
            self.observations[number] = self.begun(number) if terminal or cut else observation
        self.read.check(observations, rewards)
        return Step(who, rewards, observations, terminated, truncated)

    def begun(self, number: int) -> Any:
        """The first observation of this environment's next episode."""
        observation = self.first(self.each[number].reset())
        self.read.check(np.asarray(observation, self.dtype)[None])
        return observation

    def render(self) -> np.ndarray:
        """A picture [rows, columns, 3] uint8 of the first environment; of a game [rows, columns], as its network sees it."""
        if self.stacked:
            return self.observations[0, -1]
        refused = f"{self.name} cannot be drawn: "
        try:
            picture = self.each[0].render()
        except ImportError as error:
            raise ConfigError(f"{refused}{brief(error)}; pip install 'dlref[video]' brings pygame") from None
        except NotImplementedError:
            raise ConfigError(f"{refused}it has no render; leave out --video") from None
        except Exception as error:
            self.fail(error, f"while it was drawn before step {self.steps}")
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] not in ((3,), (4,)):
            got = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
            raise ConfigError(
                f"{refused}with render_mode rgb_array its render gives {got}, no picture [rows, columns, 3] uint8; "
                "leave out --video"
            )
        return picture

    def fail(self, error: Exception, when: str, remedy: str | None = None) -> NoReturn:
        """Raise what an environment did wrong as a DataError with its place."""
        if isinstance(error, DlrefError | MemoryError):
            raise error
        if isinstance(error, WrongObservation):
            what, why = error.args
            raise DataError(f"{self.name} gave {what} {when}, {why}; fix the environment") from None
        cause: BaseException = error
        while cause.__cause__ is not None and not own_frames(cause):  # gymnasium raises some errors again
            cause = cause.__cause__
        said = f"{type(cause).__name__}: {brief(cause, 240).rstrip('.')}{origin(cause)}"
        if remedy is None:
            is_api = not own_frames(cause) and ("unpack" in said or " argument" in said)
            remedy = f"{API}; adapt the environment" if is_api else "fix the environment"
        raise DataError(f"{self.name} failed {when}: {said}; {remedy}") from error

    def close(self) -> None:
        """Have them give back what they hold: windows, simulators, files."""
        try:
            for env in self.held():
                env.close()
        except Exception as error:
            self.fail(error, "while it was closed")

    def held(self) -> list[Any]:
        """What gymnasium made: one environment of them all, or each."""
        return self.each if self.together is None else [self.together]

    def state_dict(self, prove: bool = True) -> dict[str, Any]:
        """`prove` that it is all that there is, once, or not."""
        frozen: Any = [freeze(env) for env in self.held()]
        if prove and self.restorable is None and None not in frozen:
            self.restorable = self.is_restorable()
            for env, state in zip(self.held(), frozen, strict=True):
                set_generators(env, state["random"])  # which a class of environments may share
        return {
            "envs": [None] * len(frozen) if self.restorable is False else frozen,
            "observations": torch.from_numpy(self.observations.copy()),
            "resetting": self.resetting.tolist(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Whether they go on where they stood; where that cannot be proven, new episodes have to begin."""
        self.steps = state["steps"]
        for env, frozen in zip(self.held(), state["envs"], strict=True):
            try:
                if frozen is not None:
                    env.reset()
            except Exception as error:
                self.fail(error, "in the reset before its state was restored")
            if frozen is None or not thaw(env, frozen):
                return False
        self.observations, self.resetting = state["observations"].numpy().copy(), np.array(state["resetting"], bool)
        self.is_seeded = True  # the spaces' generators go on
        return True

    @torch.random.fork_rng(devices=[])
    def is_restorable(self) -> bool:
        """Whether two others, which are closed afterwards, do the same from a state of one of them on.

        The variables of classes and modules are then as before. What an environment keeps outside of its attributes (a
        simulator, another module) has no fingerprint, and a checkpoint does not hold the process's own random numbers.
        """
        before = random.getstate(), np.random.get_state(legacy=False), torch.random.get_rng_state()
        try:
            with variables_kept(self.held()[0]), contextlib.ExitStack() as stack:
                one, other = (self.another(stack) for _ in range(2))
                alike = goes_on_alike(one, other)
            after = random.getstate(), np.random.get_state(legacy=False), torch.random.get_rng_state()
            return alike and Fingerprint()(before) == Fingerprint()(after)
        except DlrefError:  # of one that there may be no second of
            return False
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])

    def another(self, stack: contextlib.ExitStack) -> "Environments":
        """One or two more of the same kind, closed at the end of the stack."""
        made = Environments(self.name, min(self.count, 2), self.together is not None)
        return stack.enter_context(contextlib.closing(made))


def goes_on_alike(one: Environments, other: Environments) -> bool:
    """Whether `other`, restored to a state of `one`, then does the same."""
    actions = np.arange(REPLAYED)[:, None] * np.ones(one.count, np.int64) % one.actions
    one.begin(range(one.count))
    for row in actions:
        one.step(row)
    state = one.state_dict(prove=False)
    steps = [one.step(row) for row in actions]
    return other.load_state_dict(state) and all(
        np.array_equal(a, b)
        for row, step in zip(actions, steps, strict=True)
        for a, b in zip(step, other.step(row), strict=True)
    )


def has_vectorized_form(name: str) -> bool:
    import gymnasium

    spec = gymnasium.registry.get(name)  # none for a name without a version, whose newest `make` takes
    return spec is not None and spec.vector_entry_point is not None


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where an error came through in the code of an environment, from its first line on; empty for gymnasium's own."""
    libraries = [sys.modules[name].__file__ or "" for name in ("dlref", "gymnasium", "importlib")]
    others = "<", *(os.path.dirname(file) + os.sep for file in libraries)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return [frame for frame in frames if os.path.dirname(frame.filename) == os.path.dirname(frames[0].filename)]


def origin(error: BaseException) -> str:
    """Where in an environment's code an error was raised, as ` (FILE, line N)`, if in any."""
    return "".join(f" ({frame.filename}, line {frame.lineno})" for frame in own_frames(error)[-1:])
