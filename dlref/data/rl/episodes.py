"""What all data from play have in common: environments, random numbers, and whole greedy episodes for evaluation."""

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

TRAIN, EVAL, TEST = 0, 1, 2  # the streams of random numbers
LONGEST = 10_000  # steps of an episode played whole: a policy may go round for ever where there is no time limit


class Episode(NamedTuple):
    """A whole greedy episode, for evaluation."""

    returns: float  # sum of the rewards
    length: int


class Finished(NamedTuple):
    """Sums over the episodes that ended in play."""

    returns: float = 0.0
    length: float = 0.0
    episodes: int = 0


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
        self.finished = Finished()  # since the batch before

    @property
    def sizes(self) -> dict[str, int]:
        shape = self.environments.shape
        pictures = dict(zip(("in_channels", "rows", "columns"), shape, strict=True)) if len(shape) == 3 else {}
        return {"inputs": math.prod(shape), "outputs": self.environments.actions} | pictures

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
        """Begin, unless a restored state is to be gone on with."""
        if self.random is None:
            self.random = generator(self.seed, TRAIN, shard.rank)
            self.begin()

    def begin(self) -> None:
        """New episodes in all environments."""
        assert self.random is not None
        self.environments.begin(torch.randint(2**31, (self.environments.count,), generator=self.random).tolist())
        self.running[:] = 0

    def step(self, actions: np.ndarray, who: np.ndarray | None = None) -> Step:
        """A step of the environments; the episodes that end with it are counted."""
        step = self.environments.step(actions, who)
        self.played += len(step.who)
        self.running[step.who, 0] += step.rewards
        self.running[step.who, 1] += 1
        ended = step.terminated | step.truncated
        if ended.any():
            self.end(step.who[ended])
        return step

    def end(self, over: np.ndarray) -> None:
        """Count the episodes of these environments [M], which have ended."""
        returns, length = self.running[over].sum(0).tolist()
        so_far = self.finished
        self.finished = Finished(so_far.returns + returns, so_far.length + length, so_far.episodes + len(over))
        self.running[over] = 0

    def take_finished(self) -> Finished:
        """The episodes that ended since this was asked last."""
        finished, self.finished = self.finished, Finished()
        return finished

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Episode]:
        """This rank's share of `episodes` greedy episodes, which begin the same each time."""
        if not self.has(split):
            raise DataError(f"play has no '{split}' split; it has eval, test")
        stream, mine = {"eval": EVAL, "test": TEST}[split], shard.share(0, self.episodes)
        numbers = range(mine.start, mine.stop)
        starts = [int(torch.randint(2**31, (), generator=generator(self.seed, stream, number))) for number in numbers]
        if starts:  # a rank's share of few episodes may be none
            with contextlib.closing(
                Environments(self.environments.name, len(starts), vectorized=False)
            ) as environments:
                yield from greedy_episodes(net, environments, starts)

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


class Greedy:
    """The actions of highest value, or of highest chance, by a network as it is in evaluation.

    Its weights are those of the network that is trained, at any time: only the modules, which know whether they are in
    training, are others. Telling the network itself before and after each step takes as long as a small one thinks.
    """

    def __init__(self, net: nn.Module) -> None:
        shared = {id(tensor): tensor for tensor in itertools.chain(net.parameters(), net.buffers())}
        self.net, self.place = copy.deepcopy(net, shared).eval(), device_and_dtype(net)

    @torch.no_grad()
    def __call__(self, observations: np.ndarray) -> np.ndarray:  # [E, ...] -> [E]
        return self.net(as_input(observations, *self.place)).argmax(1).cpu().numpy()


def as_input(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What a network and its objective are given: of bytes, which are pictures, numbers from 0 to 1.

    Actions, counts and truths stay whole numbers and truths.
    """
    there = torch.from_numpy(array).to(device)
    if there.dtype == torch.uint8:
        return there.to(dtype).div_(255)
    return there.to(dtype) if there.is_floating_point() else there


def greedy_episodes(
    net: nn.Module, environments: Environments, starts: Sequence[int], watch: Callable[[], None] | None = None
) -> list[Episode]:
    """A whole episode of each environment from its start, a seed, or its first 10,000 steps; `watch` is called before each."""
    greedy = Greedy(net)
    environments.begin(starts)
    totals, lengths, playing = np.zeros(len(starts)), np.zeros(len(starts), int), np.arange(len(starts))
    while len(playing):
        if watch is not None:
            watch()
        step = environments.step(greedy(environments.observations[playing]), playing)
        totals[playing] += step.rewards
        lengths[playing] += 1
        playing = playing[~(step.terminated | step.truncated) & (lengths[playing] < LONGEST)]
    return [Episode(total, length) for total, length in zip(totals.tolist(), lengths.tolist(), strict=True)]
