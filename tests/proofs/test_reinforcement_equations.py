"""Deep Q-learning and policy gradients."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlref.data.rl.environments import Step
from dlref.data.rl.episodes import EpisodeTotals
from dlref.data.rl.experience import Experience, Transitions
from dlref.data.rl.replay import ReplayBuffer
from dlref.data.rl.rollouts import Rollout
from dlref.equations import reinforcement
from dlref.interfaces import ActorCritic, Shard
from dlref.models.layers import Dueling
from dlref.objectives.policy_gradient import PolicyGradient
from dlref.objectives.q_learning import QLearning
from dlref.studies import monte_carlo
from tests.proofs.harness import EXACT, agree, proves, random

GAMMA = 0.9


def transitions(states: Tensor, rewards: Tensor, next_states: Tensor, terminated: Tensor, **fields: Any) -> Transitions:
    count = len(rewards)
    sample = {"actions": torch.arange(count) % 3, "rewards": rewards[:, None], "steps": torch.ones(count).long()}
    batch = {"states": states, "next_states": next_states, "terminated": terminated}
    return Transitions(**sample | batch | fields)


def learner(**settings: Any) -> QLearning:
    """4 inputs, 3 actions, and a target network that has not been renewed for long."""
    torch.manual_seed(3)
    objective = QLearning(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), GAMMA, **settings).double()
    with torch.no_grad():
        for p in objective.target.parameters():
            p.copy_(torch.randn_like(p))
    return objective


ENDS = torch.tensor([False, True, False, False, True, False])


@proves(reinforcement.per_decision_returns)
def per_decision_returns(equation: Any) -> None:
    rewards, ratios = random(6), random(6, seed=1).abs()
    found = monte_carlo.returns(rewards.numpy(), ratios.numpy(), GAMMA)
    torch.testing.assert_close(torch.from_numpy(found), equation(rewards, ratios, GAMMA), **EXACT)


@proves(reinforcement.bellman_target)
def bellman_target(equation: Any) -> None:
    objective, rewards, after = learner(), random(6), random(6, 4)
    values = objective.target(after)
    single = [equation(rewards[t], bool(ENDS[t]), values[t], GAMMA) for t in range(6)]
    torch.testing.assert_close(
        objective.targets(transitions(random(6, 4), rewards, after, ENDS)), torch.stack(single), **EXACT
    )


@proves(reinforcement.double_target)
def double_target(equation: Any) -> None:
    objective, rewards, after = learner(double=True), random(6), random(6, 4)
    own, others = objective.net(after), objective.target(after)
    assert (own.argmax(1) != others.argmax(1)).any()
    single = [equation(rewards[t], bool(ENDS[t]), own[t], others[t], GAMMA) for t in range(6)]
    torch.testing.assert_close(
        objective.targets(transitions(random(6, 4), rewards, after, ENDS)), torch.stack(single), **EXACT
    )


@proves(reinforcement.n_step)
def n_step(equation: Any) -> None:
    """Two environments in one replay; windows with an end inside, cut off inside, and up to what is known."""
    objective, count = learner(), 12
    states, after, rewards = random(2, count, 4), random(2, count, 4, seed=1), random(2, count)
    terminated = torch.zeros(2, count).bool()
    truncated = terminated.clone()
    terminated[0, 4] = terminated[1, 0] = truncated[0, 7] = truncated[1, 9] = terminated[1, 9] = True
    replay = ReplayBuffer(2 * count, (4,), np.float64, envs=2)
    replay.rewards = replay.rewards.astype(np.float64)
    for t in range(count):
        step = Step(np.arange(2), *(x[:, t].numpy() for x in (rewards, after, terminated, truncated)))
        replay.add(states[:, t].numpy(), np.array([0, 1]), step)
    for steps in (1, 2, 4):
        sample = Transitions(*map(torch.from_numpy, replay.sample(np.arange(2 * count), steps)))
        targets = objective.targets(sample)
        for env in range(2):
            for t in range(count):
                total, last, factor = equation(
                    rewards[env], terminated[env].tolist(), truncated[env].tolist(), t, steps, GAMMA
                )
                expected = total + factor * objective.target(after[env, last]).max()
                torch.testing.assert_close(targets[2 * t + env], expected, **EXACT)


@proves(reinforcement.huber)
def huber(equation: Any) -> None:
    for limit in (1.0, 0.6):
        objective = QLearning(nn.Identity(), huber_delta=limit)

        def fast(errors: Tensor, objective: QLearning = objective) -> Tensor:
            nothing, first = torch.zeros_like(errors), torch.zeros(len(errors)).long()
            batch = transitions(errors[:, None], nothing, nothing[:, None], nothing == 0, actions=first)
            return torch.as_tensor(objective(batch)["loss"].total)

        errors = torch.tensor([-3.0, -0.7, 0.2, 0.9, 1.4], dtype=torch.float64)
        agree(lambda e, limit=limit: equation(e, limit), fast, errors)


@proves(reinforcement.dueling)
def dueling(equation: Any) -> None:
    layer = Dueling(4, 3).double()
    with torch.no_grad():
        layer.both.weight.copy_(torch.eye(4))
        layer.both.bias.zero_()
    agree(equation, lambda v, a: layer(torch.cat([v[None], a])[None])[0], random(), random(3))


def prioritized() -> tuple[Experience, Tensor]:
    """13 transitions with the errors that the learner had there."""
    data = Experience(prioritized=True, learning_starts=13, batch_size=7, buffer_size=20)
    next(data.train_batches(nn.Linear(4, 2).double(), Shard(), 0))
    count, errors = len(data.replay), random(len(data.replay))
    assert data.priorities is not None
    data.priorities.update(np.arange(count), errors.numpy())
    return data, errors


@proves(reinforcement.priorities)
def priorities(equation: Any) -> None:
    data, errors = prioritized()
    assert data.priorities is not None
    rows = data.priorities.sample((np.arange(4000) + 0.5) / 4000)
    chances = data.priorities.probabilities(rows)
    expected = equation(errors, 0.6, 1e-6)
    torch.testing.assert_close(torch.from_numpy(chances), expected[torch.from_numpy(rows)], **EXACT)
    drawn = torch.bincount(torch.from_numpy(rows), minlength=len(errors)) / 4000
    torch.testing.assert_close(drawn.double(), expected, rtol=0, atol=1 / 2000)


@proves(reinforcement.importance_weights)
def importance_weights(equation: Any) -> None:
    data, _ = prioritized()
    assert data.priorities is not None
    rows = data.sample_rows(2, 7)
    weights = torch.from_numpy(data.importance_weights(rows, 7))  # each batch by itself
    exponent = 0.4 + 0.6 * len(data.replay) / data.exploration_steps
    for part in (slice(7), slice(7, 14)):
        chances = torch.from_numpy(data.priorities.probabilities(rows[part]))
        torch.testing.assert_close(weights[part], equation(chances, len(data.replay), exponent), **EXACT)


class Told(nn.Module, ActorCritic):
    """A network that is told its outputs: states hold the logits of 3 actions and the value."""

    def forward(self, states: Tensor) -> Tensor:
        return states[:, :3]

    def policy_and_value(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return states[:, :3], states[:, 3]


# Two environments over 7 steps: an episode that terminates at 2, a step that only resets, one cut off at 6; and one that
# terminates at 4, and one that goes on after the rollout.
PIECES = [(0, 0, 3, True), (0, 4, 7, False), (1, 0, 5, True), (1, 5, 7, False)]


def rollout() -> Rollout:
    taken, terminated, ended = torch.ones(7, 2).bool(), torch.zeros(7, 2).bool(), torch.zeros(7, 2).bool()
    taken[3, 0] = False
    terminated[2, 0] = terminated[4, 1] = True
    ended[2, 0] = ended[6, 0] = ended[4, 1] = True
    actions = torch.arange(14).view(7, 2) % 3
    fields = (random(7, 2, 4), actions, random(7, 2), random(7, 2, 4, seed=1), terminated, ended, taken)
    return Rollout(*fields, finished=EpisodeTotals(), env_steps=0)


@proves(reinforcement.returns)
def returns(equation: Any) -> None:
    batch, nothing = rollout(), torch.zeros(7, 2, dtype=torch.float64)
    found = PolicyGradient(nn.Identity(), GAMMA).advantages(batch, nothing, nothing)
    for env, start, stop, _ in PIECES:
        torch.testing.assert_close(found[start:stop, env], equation(batch.rewards[start:stop, env], GAMMA), **EXACT)


@proves(reinforcement.advantages)
def advantages(equation: Any) -> None:
    batch = rollout()
    values, after = batch.states[..., 3], batch.next_states[..., 3]
    for trace in (0.0, 0.6, 1.0):
        found = PolicyGradient(Told(), GAMMA, trace, value_coef=1.0).advantages(batch, values, after)
        for env, start, stop, terminated in PIECES:
            piece = [x[start:stop, env] for x in (batch.rewards, values, after)]
            torch.testing.assert_close(found[start:stop, env], equation(*piece, terminated, GAMMA, trace), **EXACT)


def loss(batch: Rollout, **settings: Any) -> Any:
    """As a function of the states, of those steps that were taken."""

    def fast(states: Tensor) -> Tensor:
        whole = batch.states.clone()
        whole[batch.valid] = states
        return torch.as_tensor(PolicyGradient(Told(), GAMMA, **settings)(batch._replace(states=whole))["loss"].total)

    return fast


@proves(reinforcement.policy_gradient)
def policy_gradient(equation: Any) -> None:
    """And with a critic, which is drawn to its target, while nothing is learned through either."""
    batch = rollout()
    taken, nothing = batch.valid, torch.zeros(7, 2, dtype=torch.float64)
    weights = PolicyGradient(Told(), GAMMA).advantages(batch, nothing, nothing)[taken]
    actions = batch.actions[taken]
    agree(lambda s: equation(s[:, :3], actions, weights), loss(batch), batch.states[taken])
    values, after = batch.states[..., 3], batch.next_states[..., 3]
    judged = PolicyGradient(Told(), GAMMA, 0.6, value_coef=1.0).advantages(batch, values, after)[taken]
    agree(
        lambda s: equation(s[:, :3], actions, judged) + 0.4 * ((s[:, 3] - (judged + values[taken])) ** 2).sum(),
        loss(batch, gae_lambda=0.6, value_coef=0.8),
        batch.states[taken],
    )
    standard = (judged - judged.mean()) / (((judged - judged.mean()) ** 2).sum() / (len(judged) - 1)) ** 0.5
    settings = {"gae_lambda": 0.6, "value_coef": 1e-30, "normalize_advantages": True}
    agree(lambda s: equation(s[:, :3], actions, standard), loss(batch, **settings), batch.states[taken])


@proves(reinforcement.entropy)
def entropy(equation: Any) -> None:
    batch = rollout()
    batch = batch._replace(rewards=torch.zeros_like(batch.rewards))
    agree(lambda s: -0.3 * equation(s[:, :3]), loss(batch, entropy_coef=0.3), batch.states[batch.valid])
