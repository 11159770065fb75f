"""Transitions from play: an agent acts in environments, a replay memory keeps what happened (Mnih et al. 2015)."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data import Shard, place_of
from dlref.data.playing import Playing, greedy
from dlref.data.replay import Priorities, Replay
from dlref.errors import ConfigError


class Transitions(NamedTuple):
    """A sample of the replay memory, and what play has seen since the batch before."""

    states: Tensor  # [B, ...]
    actions: Tensor  # [B] int64
    rewards: Tensor  # [B, n]: from here on, 0 after the end of the episode
    steps: Tensor  # [B] int64: how many there are, 1 to n
    next_states: Tensor  # [B, ...]: after them
    terminated: Tensor  # [B] bool: nothing follows next_states; an episode cut off by a time limit goes on
    weights: Tensor | None  # [B]: how often a transition would be drawn without priorities, over how often it is
    errors: Tensor | None  # [B]: into which the learner writes how wrong it was
    finished: Tensor  # [E, 2] float64: return and length of each episode that ended
    epsilon: float  # the share of random actions
    played: int  # environment steps so far, over all ranks
    fresh: int  # those of this rank since the batch before


class Play(Playing):
    """Any gymnasium environment with numbered actions, played ε-greedily with the network.

    Each batch is `batch_size` transitions of the last `replay`, and comes after `play_steps` more environment steps; the
    `envs` environments take theirs together, ahead of the batches if they are more. ε falls linearly from 1 to `epsilon`
    over the first `explore_steps` environment steps; `warmup_steps` are played before the first batch. A transition
    carries the rewards of `n_step` steps. With `prioritised` it is drawn by the error that the learner last had there, to
    the power 0.6; the weights that make up for it have an exponent that rises from 0.4 to 1 over `explore_steps` (Schaul
    et al. 2016). Evaluation plays `episodes` greedy episodes, the same starts each time.
    Each rank plays environments of its own and learns from its own share of the batch.
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
        shape, dtype = self.environments.shape, torch.from_numpy(self.environments.observations).dtype
        self.replay = Replay(replay, shape, dtype, envs)
        self.priorities = Priorities(replay) if prioritised else None
        self.highest = 1.0  # priority so far, which new transitions are given
        self.play_steps, self.batch_size, self.n_step = play_steps, batch_size, n_step
        self.warmup_steps, self.explore_steps, self.epsilon = warmup_steps, explore_steps, epsilon
        self.batches_drawn = 0
        self.drawn: tuple[Tensor, Tensor] | None = None  # rows and errors of the last batch

    def units_per_batch(self, ranks: int) -> float:
        return self.play_steps * ranks

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Transitions]:
        rows = shard.share(0, self.batch_size)
        self.prepare(shard)
        while True:
            self.learn_priorities()
            finished: list[np.ndarray] = []
            before = self.played
            while self.played < self.warmup_steps + self.play_steps * (self.batches_drawn + 1):
                finished += self.play(net)
            self.batches_drawn += 1
            yield self.sample(net, rows.stop - rows.start)._replace(
                finished=torch.from_numpy(np.array(finished).reshape(-1, 2)),
                played=self.played * shard.ranks,
                fresh=self.played - before,
            )

    def begin(self) -> None:
        super().begin()
        self.replay.newest[:] = -1  # of episodes that are not gone on with

    def epsilon_now(self) -> float:
        return 1 - (1 - self.epsilon) * min(self.played / self.explore_steps, 1)

    def play(self, net: nn.Module) -> list[np.ndarray]:
        """One step of every environment, stored; return and length of each episode that ended."""
        count, states = self.environments.count, self.environments.observations
        actions = torch.randint(self.environments.actions, (count,), generator=self.random).numpy()
        chosen = torch.rand(count, generator=self.random).numpy() >= self.epsilon_now()
        if chosen.any():
            actions = np.where(chosen, greedy(net, states), actions)
        step, finished = self.step(actions)
        rows = self.replay.write(states[step.who], actions[step.who], step)
        if self.priorities is not None:
            self.priorities.set(rows, self.highest)
        return finished

    def sample(self, net: nn.Module, count: int) -> Transitions:
        device, dtype = place_of(net)
        weights = errors = None
        if self.priorities is None:
            rows = torch.randint(len(self.replay), (count,), generator=self.random)
        else:
            # One share from each of `count` equal ranges of chance, as in the paper.
            shares = (np.arange(count) + torch.rand(count, generator=self.random, dtype=torch.float64).numpy()) / count
            drawn, chances = self.priorities.draw(shares)
            exponent = 0.4 + 0.6 * min(self.played / self.explore_steps, 1)
            made_up = (len(self.replay) * chances) ** -exponent
            rows, weights = torch.from_numpy(drawn), torch.from_numpy(made_up / made_up.max()).to(device, dtype)
            errors = torch.zeros(count, device=device, dtype=dtype)
            self.drawn = rows, errors
        sample = self.replay.sample(rows, self.n_step)
        return Transitions(
            sample.states.to(device, dtype),
            sample.actions.to(device),
            sample.rewards.to(device, dtype),
            sample.steps.to(device),
            sample.next_states.to(device, dtype),
            sample.terminated.to(device),
            weights,
            errors,
            finished=torch.zeros(0, 2),
            epsilon=self.epsilon_now(),
            played=0,
            fresh=0,
        )

    def learn_priorities(self) -> None:
        """Take over the errors that the learner has written into its last batch."""
        if self.priorities is not None and self.drawn is not None:
            rows, errors = self.drawn
            values = (errors.abs().double().cpu().numpy() + 1e-6) ** 0.6  # never 0, so that all remain possible
            self.priorities.set(rows.numpy(), values)
            self.highest, self.drawn = max(self.highest, float(values.max())), None

    def state_dict(self) -> dict[str, Any]:
        self.learn_priorities()
        return super().state_dict() | {
            "replay": self.replay.state_dict(),
            "priorities": None if self.priorities is None else torch.from_numpy(self.priorities.values.copy()),
            "highest": self.highest,
            "batches": self.batches_drawn,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state["replay"])
        if self.priorities is not None:
            self.priorities.set(np.arange(len(self.replay)), state["priorities"].flatten()[: len(self.replay)].numpy())
        self.highest, self.batches_drawn = state["highest"], state["batches"]
        super().load_state_dict(state)
