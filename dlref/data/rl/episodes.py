"""What data from environments have in common: episodes, random numbers, and greedy episodes for evaluation.

E environments, of which M take a step.
"""

import contextlib
import copy
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data import generator
from dlref.data.rl.environments import Environments, Step
from dlref.errors import ConfigError, DataError
from dlref.hardware import device_and_dtype
from dlref.interfaces import Shard

logger = logging.getLogger("dlref")

TRAIN, EVAL, TEST = 0, 1, 2  # streams of random numbers
MAX_EPISODE_STEPS = 10_000  # without a time limit a policy may go round in circles for ever


class Episode(NamedTuple):
    """A complete greedy episode of an evaluation."""

    episode_return: float  # sum of the rewards, not discounted
    length: int


class EpisodeTotals(NamedTuple):
    """Sums over the episodes that ended in training."""

    returns: float = 0.0
    lengths: float = 0.0
    episodes: int = 0


class EnvironmentData:
    """Base of data that come from acting in gymnasium environments. Each rank has its own environments.

    Evaluation runs `episodes` greedy episodes from the same initial states each time.
    """

    unit: str = "steps"

    def __init__(self, env: str, envs: int, vectorized: bool, episodes: int, seed: int) -> None:
        if min(envs, episodes) < 1:
            raise ConfigError(f"data.envs is {envs} and data.episodes {episodes}; they take 1 or more")
        self.environments = Environments(env, envs, vectorized)
        self.episodes, self.seed = episodes, seed
        self.generator: torch.Generator | None = None  # until `prepare` or `load_state_dict`
        self.env_steps = 0  # of all environments of this rank
        self.current = np.zeros((envs, 2))  # return and length so far of each environment's episode
        self.finished = EpisodeTotals()  # since the previous batch

    @property
    def sizes(self) -> dict[str, int]:
        shape = self.environments.shape
        image = dict(zip(("in_channels", "rows", "columns"), shape, strict=True)) if len(shape) == 3 else {}
        return {"inputs": math.prod(shape), "outputs": self.environments.actions} | image

    @property
    def batches_per_epoch(self) -> float:
        raise ConfigError(
            "data from an environment have no epochs; set trainer.max_steps instead of trainer.max_epochs"
        )

    def has(self, split: str) -> bool:
        return split in ("eval", "test")

    def describe(self) -> dict[str, Any]:
        return self.environments.describe()

    def prepare(self, shard: Shard) -> None:
        """Start the first episodes, unless a state was restored."""
        if self.generator is None:
            self.generator = generator(self.seed, TRAIN, shard.rank)
            self.reset()

    def reset(self) -> None:
        """Start new episodes in all environments."""
        assert self.generator is not None
        self.environments.reset(torch.randint(2**31, (self.environments.count,), generator=self.generator).tolist())
        self.current[:] = 0

    def step(self, actions: np.ndarray, env_ids: np.ndarray | None = None) -> Step:
        """Step the environments, and count steps and finished episodes."""
        step = self.environments.step(actions, env_ids)
        self.env_steps += len(step.env_ids)
        self.current[step.env_ids, 0] += step.rewards
        self.current[step.env_ids, 1] += 1
        ended = step.terminated | step.truncated
        if ended.any():
            self.finish(step.env_ids[ended])
        return step

    def finish(self, env_ids: np.ndarray) -> None:
        """Count the episodes of these environments [M], which have ended."""
        returns, lengths = self.current[env_ids].sum(0).tolist()
        before = self.finished
        self.finished = EpisodeTotals(
            before.returns + returns, before.lengths + lengths, before.episodes + len(env_ids)
        )
        self.current[env_ids] = 0

    def take_finished(self) -> EpisodeTotals:
        """The episodes that ended since the last call."""
        finished, self.finished = self.finished, EpisodeTotals()
        return finished

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Episode]:
        """This rank's part of `episodes` greedy episodes."""
        if not self.has(split):
            raise DataError(f"data from environments have no '{split}' split; they have eval and test")
        stream, part = {"eval": EVAL, "test": TEST}[split], shard.share(0, self.episodes)
        numbers = range(part.start, part.stop)
        seeds = [int(torch.randint(2**31, (), generator=generator(self.seed, stream, number))) for number in numbers]
        if seeds:  # there may be fewer episodes than ranks
            with contextlib.closing(Environments(self.environments.name, len(seeds), vectorized=False)) as environments:
                yield from greedy_episodes(net, environments, seeds)

    def state_dict(self) -> dict[str, Any]:
        assert self.generator is not None
        return {
            "generator": self.generator.get_state(),
            "environments": self.environments.state_dict(),
            "current": self.current.tolist(),
            "env_steps": self.env_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator = torch.Generator()
        self.generator.set_state(state["generator"])
        self.current, self.env_steps = np.array(state["current"]), state["env_steps"]
        if not self.environments.load_state_dict(state["environments"]):
            logger.warning("the state of %s cannot be restored, so a new episode begins", self.environments.name)
            self.reset()


class GreedyPolicy:
    """The actions of highest value, or of highest probability, by a network in evaluation mode.

    Its modules are copies, in evaluation mode for good, that share the weights of the trained network: switching the mode
    of a small network for each step takes as long as its forward pass.
    """

    def __init__(self, net: nn.Module) -> None:
        shared = {id(tensor): tensor for tensor in itertools.chain(net.parameters(), net.buffers())}
        self.net = copy.deepcopy(net, shared).eval()
        self.device, self.dtype = device_and_dtype(net)

    @torch.no_grad()
    def __call__(self, observations: np.ndarray) -> np.ndarray:  # [M, ...] -> [M]
        return self.net(as_input(observations, self.device, self.dtype)).argmax(1).cpu().numpy()


def as_input(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """An array as a tensor on the network's device and of its dtype; bytes, which are images, are divided by 255.

    Integers and booleans keep their type.
    """
    tensor = torch.from_numpy(array).to(device)
    if tensor.dtype == torch.uint8:
        return tensor.to(dtype).div_(255)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def greedy_episodes(
    net: nn.Module, environments: Environments, seeds: Sequence[int], before_step: Callable[[], None] | None = None
) -> list[Episode]:
    """One greedy episode of each environment, reset with its seed, of at most 10,000 steps."""
    policy = GreedyPolicy(net)
    environments.reset(seeds)
    returns, lengths, running = np.zeros(len(seeds)), np.zeros(len(seeds), int), np.arange(len(seeds))
    while len(running):
        if before_step is not None:
            before_step()
        step = environments.step(policy(environments.observations[running]), running)
        returns[running] += step.rewards
        lengths[running] += 1
        running = running[~(step.terminated | step.truncated) & (lengths[running] < MAX_EPISODE_STEPS)]
    return [Episode(*episode) for episode in zip(returns.tolist(), lengths.tolist(), strict=True)]
