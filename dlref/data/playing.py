"""What all data from play have in common: environments, random numbers, and whole greedy episodes for evaluation."""

import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from dlref.data import Shard, generator, place_of
from dlref.data.environments import Environments, Step
from dlref.errors import ConfigError, DataError

logger = logging.getLogger("dlref")

TRAIN, EVAL, TEST = 0, 1, 2  # the streams of random numbers
LONGEST = 10_000  # steps of an episode in evaluation: a policy may go round for ever where there is no time limit


class Episode(NamedTuple):
    """A whole greedy episode, for evaluation."""

    returns: float  # sum of the rewards
    length: int


class Playing:
    """Environments and the episodes that are played in them. Each rank plays environments of its own."""

    unit: str = "steps"

    def __init__(self, env: str, envs: int, vectorized: bool, episodes: int, seed: int) -> None:
        if min(envs, episodes) < 1:
            raise ConfigError(f"data.envs {envs} and data.episodes {episodes} take 1 or more")
        self.environments = Environments(env, envs, vectorized)
        self.episodes, self.seed = episodes, seed
        self.random: torch.Generator | None = None
        self.played = 0  # environment steps so far
        self.running = np.zeros((envs, 2))  # return and length of the episodes being played

    @property
    def sizes(self) -> dict[str, int]:
        return {"inputs": math.prod(self.environments.shape), "outputs": self.environments.actions}

    @property
    def batches_per_pass(self) -> float:
        raise ConfigError("play has no passes; set trainer.max_steps instead of trainer.passes")

    def has(self, split: str) -> bool:
        return split in ("eval", "test")

    def describe(self) -> dict[str, Any]:
        return {"env": self.environments.name}

    def prepare(self, shard: Shard) -> None:
        """Begin, unless a restored state is to be gone on with."""
        if self.random is None:
            self.random = generator(self.seed, TRAIN, shard.rank)
            self.begin()

    def begin(self) -> None:
        """New episodes in all environments."""
        assert self.random is not None
        self.environments.begin(torch.randint(2**31, (self.environments.count,), generator=self.random).tolist())
        self.running[:] = 0

    def step(self, actions: np.ndarray, who: np.ndarray | None = None) -> tuple[Step, list[np.ndarray]]:
        """A step of the environments, and return and length of each episode that ended with it."""
        step = self.environments.step(actions, who)
        self.played += len(step.who)
        self.running[step.who] += np.stack([step.rewards, np.ones(len(step.who))], 1)
        over = step.who[step.terminated | step.truncated]
        finished = list(self.running[over])
        self.running[over] = 0
        return step, finished

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Episode]:
        """This rank's share of `episodes` greedy episodes, which begin the same each time."""
        if not self.has(split):
            raise DataError(f"play has no '{split}' split; it has eval, test")
        stream, mine = {"eval": EVAL, "test": TEST}[split], shard.share(0, self.episodes)
        numbers = range(mine.start, mine.stop)
        starts = [int(torch.randint(2**31, (), generator=generator(self.seed, stream, number))) for number in numbers]
        yield from greedy_episodes(net, self.environments.name, starts)

    def state_dict(self) -> dict[str, Any]:
        assert self.random is not None
        return {
            "random": self.random.get_state(),
            "environments": self.environments.state_dict(),
            "running": self.running.tolist(),
            "played": self.played,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random = torch.Generator()
        self.random.set_state(state["random"])
        self.running, self.played = np.array(state["running"]), state["played"]
        if not self.environments.load_state_dict(state["environments"]):
            logger.warning("the state of %s cannot be restored, so a new episode begins", self.environments.name)
            self.begin()


def greedy(net: nn.Module, observations: np.ndarray) -> np.ndarray:  # [E, ...] -> [E]
    """The actions of highest value, or of highest chance, as the network is in evaluation."""
    device, dtype = place_of(net)
    was_training = net.training
    net.eval()
    with torch.no_grad():
        actions = net(torch.from_numpy(observations).to(device, dtype)).argmax(1)
    net.train(was_training)
    return actions.cpu().numpy()


def greedy_episodes(net: nn.Module, env: str, starts: list[int]) -> list[Episode]:
    """A whole episode from each start, a seed, or its first 10,000 steps."""
    environments = Environments(env, len(starts), vectorized=False)
    environments.begin(starts)
    totals, lengths, playing = np.zeros(len(starts)), np.zeros(len(starts), int), np.arange(len(starts))
    while len(playing):
        step = environments.step(greedy(net, environments.observations[playing]), playing)
        totals[playing] += step.rewards
        lengths[playing] += 1
        playing = playing[~(step.terminated | step.truncated) & (lengths[playing] < LONGEST)]
    return [Episode(total, length) for total, length in zip(totals.tolist(), lengths.tolist(), strict=True)]
