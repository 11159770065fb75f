"""Transitions from play: an agent acts in environments, a replay memory keeps what happened (Mnih et al. 2015)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data.rl.episodes import Finished, Greedy, Playing, as_input
from dlref.data.rl.replay import Priorities, Replay
from dlref.errors import ConfigError
from dlref.interfaces import Shard


class Transitions(NamedTuple):
    """A sample of the replay memory, and what play has seen since the batch before."""

    states: Tensor  # [B, ...]
    actions: Tensor  # [B] int64
    rewards: Tensor  # [B, n]: from here on, 0 after the end of the episode
    steps: Tensor  # [B] int64: how many there are, 1 to n
    next_states: Tensor  # [B, ...]: after them
    terminated: Tensor  # [B] bool: nothing follows next_states; an episode cut off by a time limit goes on
    weights: Tensor | None = None  # [B]: how often a transition would be drawn without priorities, over how often it is
    errors: Tensor | None = None  # [B]: into which the learner writes how wrong it was
    drawn: "Drawn | None" = None  # together with which other batches,
    part: slice = slice(None)  # and which of their rows these are
    finished: Finished = Finished()  # episodes that ended since the batch before
    epsilon: float = 0.0  # the share of random actions
    played: int = 0  # environment steps so far, over all ranks
    fresh: int = 0  # those of this rank since the batch before


@dataclass
class Drawn:
    """The batches up to the next step of play, looked up at once: a small one alone costs as much as many together."""

    whole: Transitions
    count: int  # rows of a batch
    targets: Tensor | None = None  # of all of them, which a learner may know beforehand

    def __post_init__(self) -> None:
        batches = len(self.whole.states) // self.count
        fields = [[None] * batches if field is None else field.split(self.count) for field in self.whole[:8]]
        self.batches = list(zip(*fields, strict=True))

    def batch(self, start: int, *seen: Any) -> Transitions:
        """The batch that begins with this row, and what play has `seen`."""
        part = slice(start, start + self.count)
        return Transitions(*self.batches[start // self.count], *(self, part, *seen))


class Play(Playing):
    """Any gymnasium environment with numbered actions, played ε-greedily with the network.

    Each batch is `batch_size` transitions of the last `replay`, and comes after `play_steps` more environment steps; the
    `envs` environments take theirs together, ahead of the batches if they are more. ε falls linearly from 1 to `epsilon`
    over the first `explore_steps` environment steps; `warmup_steps` are played before the first batch. A transition
    carries the rewards of `n_step` steps. With `prioritised` it is drawn by the error that the learner last had there, as
    it was known at the last step of play, to the power 0.6; the weights that make up for it have an exponent that rises
    from 0.4 to 1 over `explore_steps` (Schaul et al. 2016). Evaluation plays `episodes` greedy episodes, the same starts
    each time. Each rank plays environments of its own and learns from its own share of the batch.
    """

    def __init__(
        self,
        env: str = "CartPole-v1",
        envs: int = 1,
        play_steps: float = 1,
        batch_size: int = 64,
        replay: int = 10_000,
        warmup_steps: int = 1000,
        explore_steps: int = 5000,
        epsilon: float = 0.05,
        n_step: int = 1,
        prioritised: bool = False,
        episodes: int = 20,
        seed: int = 0,
    ) -> None:
        counts = min(batch_size, replay, warmup_steps, explore_steps, n_step)
        if counts < 1 or play_steps <= 0 or not 0 <= epsilon <= 1:
            raise ConfigError(
                f"data.batch_size {batch_size}, replay {replay}, warmup_steps {warmup_steps}, explore_steps {explore_steps} "
                f"and n_step {n_step} take 1 or more, play_steps {play_steps} more than 0, epsilon {epsilon} from 0 to 1"
            )
        super().__init__(env, envs, True, episodes, seed)
        there = self.environments
        self.replay = Replay(replay, there.shape, there.dtype, envs, there.stacked)
        self.priorities = Priorities(replay) if prioritised else None
        self.highest = 1.0  # priority so far, which new transitions are given
        self.play_steps, self.batch_size, self.n_step = play_steps, batch_size, n_step
        self.warmup_steps, self.explore_steps, self.epsilon = warmup_steps, explore_steps, epsilon
        self.batches_drawn = 0
        self.rows, self.given = np.zeros(0, np.int64), 0  # drawn, and how many of them were given in batches
        self.errors: Tensor | None = None  # that the learner had there

    def units_per_batch(self, ranks: int) -> float:
        return self.play_steps * ranks

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Transitions]:
        share, greedy, drawn = shard.share(0, self.batch_size), Greedy(net), None
        count = share.stop - share.start
        if self.batch_size < shard.ranks:
            raise ConfigError(
                f"data.batch_size is {self.batch_size}; it takes one or more for each of {shard.ranks} processes"
            )
        self.prepare(shard)
        while True:
            before = self.played
            if self.given == len(self.rows):
                self.learn_priorities()
                while self.played < self.due(1):
                    self.play(greedy)
                self.rows, self.given, drawn = self.draw(count), 0, None
            if drawn is None:  # or restored in the midst of them
                drawn = self.look_up(count, *greedy.place)
            start = self.given
            self.given += count
            self.batches_drawn += 1
            played, fresh = self.played * shard.ranks, self.played - before
            yield drawn.batch(start, self.take_finished(), self.epsilon_now(), played, fresh)

    def due(self, batches: int) -> float:
        """Environment steps that are played before so many more batches."""
        return self.warmup_steps + self.play_steps * (self.batches_drawn + batches)

    def begin(self) -> None:
        super().begin()
        self.replay.newest[:] = -1  # of episodes that are not gone on with

    def epsilon_now(self) -> float:
        return 1 - (1 - self.epsilon) * self.explored()

    def explored(self) -> float:
        """The share of `explore_steps` that is over."""
        return min(self.played / self.explore_steps, 1)

    def play(self, greedy: Greedy) -> None:
        """One step of every environment, stored."""
        count, states = self.environments.count, self.environments.observations
        actions = torch.randint(self.environments.actions, (count,), generator=self.random).numpy()
        chosen = torch.rand(count, generator=self.random).numpy() >= self.epsilon_now()
        if chosen.any():
            actions = np.where(chosen, greedy(states), actions)
        step = self.step(actions)
        rows = self.replay.write(states[step.who], actions[step.who], step)
        if self.priorities is not None:
            self.priorities.set(rows, self.highest)

    def draw(self, count: int) -> np.ndarray:
        """The rows of the batches up to the next step of play."""
        batches = 1
        while self.due(batches + 1) <= self.played:
            batches += 1
        if self.priorities is None:
            return torch.randint(len(self.replay), (batches * count,), generator=self.random).numpy()
        # One share from each of `count` equal ranges of chance, as in the paper.
        within = torch.rand(batches, count, generator=self.random, dtype=torch.float64).numpy()
        return self.priorities.draw(((np.arange(count) + within) / count).ravel())

    def look_up(self, count: int, device: torch.device, dtype: torch.dtype) -> Drawn:
        weights = None
        if self.priorities is not None:
            exponent = 0.4 + 0.6 * self.explored()
            made_up = (len(self.replay) * self.priorities.chances(self.rows)) ** -exponent
            batches = made_up.reshape(-1, count)
            weights = torch.from_numpy(batches / batches.max(1, keepdims=True)).to(device, dtype).flatten()
            self.errors = torch.zeros_like(weights) if self.errors is None else self.errors.to(device)
        sample = self.replay.sample(self.rows, self.n_step)
        fields: list[Any] = [*(as_input(column, device, dtype) for column in sample), weights, self.errors]
        return Drawn(Transitions(*fields), count)

    def learn_priorities(self) -> None:
        """All batches that were drawn have been learned from: take over the errors that were written into them."""
        if self.priorities is not None and self.errors is not None:
            values = (self.errors.abs().cpu().double().numpy() + 1e-6) ** 0.6  # never 0, so that all remain possible
            self.priorities.set(self.rows, values)
            self.highest, self.errors = max(self.highest, float(values.max())), None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "replay": self.replay.state_dict(),
            "priorities": None if self.priorities is None else torch.from_numpy(self.priorities.values.copy()),
            "highest": self.highest,
            "batches": self.batches_drawn,
            "rows": torch.from_numpy(self.rows),
            "given": self.given,
            "errors": self.errors,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state["replay"])
        if self.priorities is not None:
            self.priorities.set(np.arange(len(self.replay)), state["priorities"].flatten()[: len(self.replay)].numpy())
        self.highest, self.batches_drawn = state["highest"], state["batches"]
        self.rows, self.given, self.errors = state["rows"].numpy(), state["given"], state["errors"]
        super().load_state_dict(state)
