"""Experience for Q-learning: act ε-greedily, store transitions in a replay buffer, sample batches (Mnih et al. 2015)."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data.rl.episodes import EnvironmentData, EpisodeTotals, GreedyPolicy, as_input
from dlref.data.rl.prefetch import PrefetchedBatches
from dlref.data.rl.replay import Priorities, ReplayBuffer
from dlref.errors import ConfigError
from dlref.interfaces import Shard


class Transitions(NamedTuple):
    """B n-step transitions, and statistics of the environment steps since the previous batch."""

    states: Tensor  # [B, ...]
    actions: Tensor  # [B] int64
    rewards: Tensor  # [B, n], 0 after the end of the episode
    steps: Tensor  # [B] int64: number of steps, 1 to n
    next_states: Tensor  # [B, ...], after the last step
    terminated: Tensor  # [B] bool: next_states is terminal; false where a time limit truncated the episode
    weights: Tensor | None = None  # [B]: importance weights of prioritized replay
    td_errors: Tensor | None = None  # [B]: the objective writes its TD errors here; they become priorities
    prefetched: PrefetchedBatches | None = None  # the batches that were read together with this one,
    part: slice = slice(None)  # and its rows among theirs
    finished: EpisodeTotals = EpisodeTotals()  # episodes that ended since the previous batch
    epsilon: float = 0.0  # probability of a random action
    env_steps: int = 0  # so far, of all ranks
    new_env_steps: int = 0  # of this rank since the previous batch


class Experience(EnvironmentData):
    """A gymnasium environment with Discrete actions, in which the network acts ε-greedily.

    Each batch is `batch_size` transitions sampled from the last `buffer_size`, after `env_steps_per_update` more environment
    steps; the `envs` environments step together, and so may be ahead of the batches. The first batch comes after
    `learning_starts` steps. ε falls linearly from 1 to `final_epsilon` over the first `exploration_steps` environment
    steps. Transitions have the rewards of `n_step` steps.

    With `prioritized` they are sampled with probabilities in proportion to (|δ| + 10⁻⁶)^0.6 of their last TD error, as known
    at the last environment step, and have importance weights whose exponent β rises from 0.4 to 1 over
    `exploration_steps` (Schaul et al. 2016). Each rank samples its own part of each batch from its own buffer.
    """

    def __init__(
        self,
        env: str = "CartPole-v1",
        envs: int = 1,
        env_steps_per_update: float = 1,
        batch_size: int = 64,
        buffer_size: int = 10_000,
        learning_starts: int = 1000,
        exploration_steps: int = 5000,
        final_epsilon: float = 0.05,
        n_step: int = 1,
        prioritized: bool = False,
        episodes: int = 20,
        seed: int = 0,
    ) -> None:
        counts = min(batch_size, buffer_size, learning_starts, exploration_steps, n_step)
        if counts < 1 or env_steps_per_update <= 0 or not 0 <= final_epsilon <= 1:
            raise ConfigError(
                f"data.batch_size {batch_size}, buffer_size {buffer_size}, learning_starts {learning_starts}, "
                f"exploration_steps {exploration_steps} and n_step {n_step} take 1 or more, env_steps_per_update "
                f"{env_steps_per_update} more than 0, final_epsilon {final_epsilon} from 0 to 1"
            )
        super().__init__(env, envs, True, episodes, seed)
        made = self.environments
        self.replay = ReplayBuffer(buffer_size, made.shape, made.dtype, envs, made.is_atari)
        self.priorities = Priorities(buffer_size) if prioritized else None
        self.prefetched = PrefetchedBatches(np.zeros(0, np.int64))
        self.env_steps_per_update, self.batch_size, self.n_step = env_steps_per_update, batch_size, n_step
        self.learning_starts, self.exploration_steps = learning_starts, exploration_steps
        self.final_epsilon, self.updates = final_epsilon, 0

    def units_per_batch(self, ranks: int) -> float:
        return self.env_steps_per_update * ranks

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Transitions]:
        part, policy = shard.share(0, self.batch_size), GreedyPolicy(net)
        if self.batch_size < shard.ranks:
            raise ConfigError(
                f"data.batch_size is {self.batch_size}; it takes one or more for each of {shard.ranks} processes"
            )
        self.prepare(shard)
        while True:
            before = self.env_steps
            while self.env_steps < self.env_steps_due(1):
                self.act(policy)
            statistics = self.take_finished(), self.epsilon(), self.env_steps * shard.ranks, self.env_steps - before
            batch = self.sample(part.stop - part.start, policy.device, policy.dtype, statistics)
            self.updates += 1
            yield batch

    def env_steps_due(self, updates: int) -> float:
        """The environment steps that precede so many more updates."""
        return self.learning_starts + self.env_steps_per_update * (self.updates + updates)

    def epsilon(self) -> float:
        """The probability of a random action."""
        return 1 - (1 - self.final_epsilon) * self.explored()

    def explored(self) -> float:
        """The fraction of `exploration_steps` that is over."""
        return min(self.env_steps / self.exploration_steps, 1)

    def act(self, policy: GreedyPolicy) -> None:
        """Take one ε-greedy step in every environment and store the transitions."""
        self.update_priorities()
        count, states = self.environments.count, self.environments.observations
        actions = torch.randint(self.environments.actions, (count,), generator=self.generator).numpy()
        is_greedy = torch.rand(count, generator=self.generator).numpy() >= self.epsilon()
        if is_greedy.any():
            actions = np.where(is_greedy, policy(states), actions)
        step = self.step(actions)
        rows = self.replay.add(states[step.env_ids], actions[step.env_ids], step)
        if self.priorities is not None:
            self.priorities.add(rows)

    def sample(self, count: int, device: torch.device, dtype: torch.dtype, statistics: tuple[Any, ...]) -> Transitions:
        """A batch of `count` transitions. Equals `self.transitions(self.sample_rows(1, count), count, device, dtype)`."""
        if self.prefetched.is_used_up():
            batches = 1
            while self.env_steps_due(batches + 1) <= self.env_steps:
                batches += 1
            self.prefetched = PrefetchedBatches(self.sample_rows(batches, count))
        return self.prefetched.take(count, lambda rows: self.transitions(rows, count, device, dtype), *statistics)

    def sample_rows(self, batches: int, count: int) -> np.ndarray:
        """Rows of the replay buffer [batches · count]: uniform with replacement, or by priority."""
        if self.priorities is None:
            return torch.randint(len(self.replay), (batches * count,), generator=self.generator).numpy()
        # Stratified: one row from each of `count` equal intervals of probability, as in the paper.
        uniform = torch.rand(batches, count, generator=self.generator, dtype=torch.float64).numpy()
        return self.priorities.sample(((np.arange(count) + uniform) / count).ravel())

    def transitions(self, rows: np.ndarray, count: int, device: torch.device, dtype: torch.dtype) -> Transitions:
        """The transitions at rows of the replay buffer, in batches of `count`."""
        sample: list[Any] = [as_input(column, device, dtype) for column in self.replay.sample(rows, self.n_step)]
        if self.priorities is not None:
            sample.append(torch.from_numpy(self.importance_weights(rows, count)).to(device, dtype))
        return Transitions(*sample)

    def importance_weights(self, rows: np.ndarray, count: int) -> np.ndarray:
        """(N P)^-β of rows, divided by the largest of their batch of `count` (Schaul et al. 2016, section 3.4)."""
        assert self.priorities is not None
        beta = 0.4 + 0.6 * self.explored()
        weights = ((len(self.replay) * self.priorities.probabilities(rows)) ** -beta).reshape(-1, count)
        return (weights / weights.max(1, keepdims=True)).ravel()

    def update_priorities(self) -> None:
        """Replace the priorities of the batches of the last updates by their TD errors."""
        batches = self.prefetched
        if self.priorities is not None and batches.td_errors is not None:
            self.priorities.update(batches.rows, batches.td_errors.cpu().double().numpy())
            batches.td_errors = None

    def reset(self) -> None:
        super().reset()
        self.replay.end_episodes()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "replay": self.replay.state_dict(),
            "priorities": None if self.priorities is None else self.priorities.state_dict(),
            "prefetched": self.prefetched.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state["replay"])
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])
        self.prefetched, self.updates = PrefetchedBatches(**state["prefetched"]), state["updates"]
        super().load_state_dict(state)
