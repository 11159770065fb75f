"""Transitions from play: an agent acts in an environment, a replay memory keeps what happened (Mnih et al. 2015)."""

import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data import Shard, generator, place_of
from dlref.errors import ConfigError, DataError

logger = logging.getLogger("dlref")

TRAIN, EVAL, TEST = 0, 1, 2  # the streams of random numbers


class Transitions(NamedTuple):
    """A sample of the replay memory, and what play has seen since the batch before."""

    states: Tensor  # [B, inputs]
    actions: Tensor  # [B] int64
    rewards: Tensor  # [B]
    next_states: Tensor  # [B, inputs]
    terminated: Tensor  # [B] bool: nothing follows next_states; an episode cut off by a time limit goes on
    finished: Tensor  # [E, 2]: return and length of each episode that ended
    epsilon: float  # the share of random actions


class Episode(NamedTuple):
    """A whole greedy episode, for evaluation."""

    returns: float  # sum of the rewards
    length: int


class Play:
    """Any gymnasium environment with discrete actions and a vector to observe, played ε-greedily with the network.

    Every batch plays `play_steps` environment steps and then samples `batch_size` transitions of the last `replay`.
    ε falls linearly from 1 to `epsilon` over the first `explore_steps` environment steps; the first `warmup_steps` are
    played before the first batch. Evaluation plays `episodes` greedy episodes, the same starts each time.
    Each rank plays an environment of its own and learns from its own share of the batch.
    """

    unit = "steps"

    def __init__(
        self,
        env: str = "CartPole-v1",
        play_steps: int = 1,
        batch_size: int = 64,
        replay: int = 10_000,
        warmup_steps: int = 1000,
        explore_steps: int = 5000,
        epsilon: float = 0.05,
        episodes: int = 20,
        seed: int = 0,
    ) -> None:
        if min(play_steps, batch_size, replay, warmup_steps, explore_steps, episodes) < 1 or not 0 <= epsilon <= 1:
            raise ConfigError(
                f"data.play_steps {play_steps}, batch_size {batch_size}, replay {replay}, warmup_steps {warmup_steps}, "
                f"explore_steps {explore_steps} and episodes {episodes} take 1 or more, epsilon {epsilon} from 0 to 1"
            )
        import gymnasium

        self.env_name, self.play_steps, self.batch_size, self.capacity = env, play_steps, batch_size, replay
        self.warmup_steps, self.explore_steps, self.epsilon = warmup_steps, explore_steps, epsilon
        self.episodes, self.seed = episodes, seed
        try:
            self.env = gymnasium.make(env)
        except (gymnasium.error.Error, ImportError) as error:
            raise ConfigError(f"data.env={env} cannot be made: {str(error).splitlines()[0]}") from None
        observations, actions = self.env.observation_space, self.env.action_space
        if not isinstance(actions, gymnasium.spaces.Discrete) or len(observations.shape or ()) != 1:
            raise ConfigError(
                f"data.env={env} has actions {actions} and observations {observations}; it takes n and a vector"
            )
        self.inputs, self.outputs = int(observations.shape[0]), int(actions.n)  # type: ignore[index]

        self.states = torch.zeros(replay, self.inputs)
        self.next_states = torch.zeros(replay, self.inputs)
        self.actions = torch.zeros(replay, dtype=torch.int64)
        self.rewards = torch.zeros(replay)
        self.terminated = torch.zeros(replay, dtype=torch.bool)
        self.written = 0  # transitions so far; the oldest are overwritten
        self.random: torch.Generator | None = None
        self.observation: np.ndarray | None = None
        self.running = (0.0, 0)  # return and length of the episode being played

    @property
    def sizes(self) -> dict[str, int]:
        return {"inputs": self.inputs, "outputs": self.outputs}

    @property
    def batches_per_pass(self) -> float:
        raise ConfigError("play has no passes; set trainer.max_steps instead of trainer.passes")

    def units_per_batch(self, ranks: int) -> float:
        return self.play_steps * ranks

    def has(self, split: str) -> bool:
        return split in ("eval", "test")

    def describe(self) -> dict[str, Any]:
        return {"env": self.env_name}

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Transitions]:
        device, dtype = place_of(net)
        rows = shard.share(0, self.batch_size)
        if self.random is None:
            self.random = generator(self.seed, TRAIN, shard.rank)
        if self.observation is None:
            self.begin(int(torch.randint(2**31, (), generator=self.random)))
        while True:
            finished = self.play(net, self.play_steps if self.written else self.warmup_steps + self.play_steps)
            size = min(self.written, self.capacity)
            index = torch.randint(size, (rows.stop - rows.start,), generator=self.random)
            yield Transitions(
                self.states[index].to(device, dtype),
                self.actions[index].to(device),
                self.rewards[index].to(device, dtype),
                self.next_states[index].to(device, dtype),
                self.terminated[index].to(device),
                torch.tensor(finished, dtype=torch.float64).view(-1, 2),
                self.epsilon_now(),
            )

    def begin(self, seed: int | None = None) -> None:
        self.observation = np.asarray(self.env.reset(seed=seed)[0], np.float32)
        self.running = (0.0, 0)

    def epsilon_now(self) -> float:
        return 1 - (1 - self.epsilon) * min(self.written / self.explore_steps, 1)

    def play(self, net: nn.Module, steps: int) -> list[tuple[float, int]]:
        """Act, store; return and length of each episode that ended."""
        assert self.random is not None
        finished = []
        place = place_of(net)
        chances = torch.rand(steps, generator=self.random).tolist()
        guesses = torch.randint(self.outputs, (steps,), generator=self.random).tolist()
        for chance, guess in zip(chances, guesses, strict=True):
            action = guess if chance < self.epsilon_now() else greedy(net, self.observation, place)
            observation, reward, terminated, truncated = take(self.env, self.env_name, action, self.written)
            row = self.written % self.capacity
            self.states[row] = torch.from_numpy(self.observation)
            self.next_states[row] = torch.from_numpy(observation)
            self.actions[row], self.rewards[row], self.terminated[row] = action, reward, terminated
            self.written += 1
            self.observation, self.running = observation, (self.running[0] + reward, self.running[1] + 1)
            if terminated or truncated:
                finished.append(self.running)
                self.begin()
        return finished

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Episode]:
        if not self.has(split):
            raise DataError(f"play has no '{split}' split; it has eval, test")
        import gymnasium

        place = place_of(net)
        env, stream = gymnasium.make(self.env_name), {"eval": EVAL, "test": TEST}[split]
        mine = shard.share(0, self.episodes)
        for number in range(mine.start, mine.stop):
            seed = int(torch.randint(2**31, (), generator=generator(self.seed, stream, number)))
            observation, length, total, over = np.asarray(env.reset(seed=seed)[0], np.float32), 0, 0.0, False
            while not over:
                observation, reward, terminated, truncated = take(
                    env, self.env_name, greedy(net, observation, place), length
                )
                total, length, over = total + reward, length + 1, terminated or truncated
            yield Episode(total, length)

    def state_dict(self) -> dict[str, Any]:
        assert self.random is not None
        kept = slice(0, min(self.written, self.capacity))
        return {
            "written": self.written,
            "replay": [t[kept].clone() for t in self.memory],
            "random": self.random.get_state(),
            "env": freeze(self.env),
            "observation": None if self.observation is None else self.observation.tolist(),
            "running": list(self.running),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.written = state["written"]
        kept = slice(0, min(self.written, self.capacity))
        for memory, saved in zip(self.memory, state["replay"], strict=True):
            memory[kept] = saved
        self.random = torch.Generator()
        self.random.set_state(state["random"])
        if state["env"] is None:
            logger.warning("the state of %s cannot be restored, so a new episode begins", self.env_name)
        else:
            self.env.reset()
            thaw(self.env, state["env"])
            self.observation, self.running = np.array(state["observation"], np.float32), tuple(state["running"])

    @property
    def memory(self) -> list[Tensor]:
        return [self.states, self.next_states, self.actions, self.rewards, self.terminated]


def greedy(net: nn.Module, observation: np.ndarray | None, place: tuple[torch.device, torch.dtype]) -> int:
    with torch.no_grad():
        return int(net(torch.as_tensor(observation)[None].to(*place)).argmax())


def take(env: Any, name: str, action: int, step: int) -> tuple[np.ndarray, float, bool, bool]:
    """One step; raises DataError, with environment and step, for what cannot be learned from."""
    try:
        observation, reward, terminated, truncated, _ = env.step(action)
    except Exception as error:  # any environment's own
        raise DataError(f"{name} failed at step {step}: {type(error).__name__}: {error}") from error
    observation, reward = np.asarray(observation, np.float32), float(reward)
    if observation.shape != env.observation_space.shape or not math.isfinite(reward):
        raise DataError(f"{name} gave observation shape {observation.shape} and reward {reward} at step {step}")
    return observation, reward, bool(terminated), bool(truncated)


def freeze(env: Any) -> dict[str, Any] | None:
    """The state of an environment, where it is plain numbers (classic control); else None."""
    inner = env.unwrapped
    state = getattr(inner, "state", None)
    if state is None or not all(isinstance(x, (int, float, np.floating, np.integer)) for x in np.ravel(state).tolist()):
        return None
    wrappers, layer = [], env
    while layer is not inner:
        wrappers.append({k: v for k, v in vars(layer).items() if isinstance(v, (bool, int, float))})
        layer = layer.env
    plain = {k: v for k, v in vars(inner).items() if isinstance(v, (bool, int, float)) or v is None}
    return {
        "state": np.asarray(state, np.float64).tolist(),
        "array": isinstance(state, np.ndarray),
        "plain": {k: v for k, v in plain.items() if k != "state"},
        "wrappers": wrappers,
        "random": inner.np_random.bit_generator.state,
    }


def thaw(env: Any, frozen: dict[str, Any]) -> None:
    inner, layer = env.unwrapped, env
    for wrapper in frozen["wrappers"]:
        vars(layer).update(wrapper)
        layer = layer.env
    vars(inner).update(frozen["plain"])
    inner.state = np.array(frozen["state"]) if frozen["array"] else tuple(frozen["state"])
    inner.np_random.bit_generator.state = frozen["random"]
