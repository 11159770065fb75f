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
    """4 inputs, 3 actions, and a target network with other weights."""
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
    next_q, next_target_q = objective.net(after), objective.target(after)
    assert (next_q.argmax(1) != next_target_q.argmax(1)).any()
    single = [equation(rewards[t], bool(ENDS[t]), next_q[t], next_target_q[t], GAMMA) for t in range(6)]
    torch.testing.assert_close(
        objective.targets(transitions(random(6, 4), rewards, after, ENDS)), torch.stack(single), **EXACT
    )


@proves(reinforcement.n_step)
def n_step(equation: Any) -> None:
    """Two environments in one replay buffer; episodes that terminate, are truncated, or continue after the last transition."""
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
    for delta in (1.0, 0.6):
        objective = QLearning(nn.Identity(), huber_delta=delta)

        def fast(errors: Tensor, objective: QLearning = objective) -> Tensor:
            nothing, first = torch.zeros_like(errors), torch.zeros(len(errors)).long()
            batch = transitions(errors[:, None], nothing, nothing[:, None], nothing == 0, actions=first)
            return torch.as_tensor(objective(batch)["loss"].total)

        errors = torch.tensor([-3.0, -0.7, 0.2, 0.9, 1.4], dtype=torch.float64)
        agree(lambda e, delta=delta: equation(e, delta), fast, errors)


@proves(reinforcement.dueling)
def dueling(equation: Any) -> None:
    layer = Dueling(4, 3).double()
    with torch.no_grad():
        layer.both.weight.copy_(torch.eye(4))
        layer.both.bias.zero_()
    agree(equation, lambda v, a: layer(torch.cat([v[None], a])[None])[0], random(), random(3))


def prioritized() -> tuple[Experience, Tensor]:
    """13 transitions with priorities from TD errors, and these errors."""
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
    probabilities = data.priorities.probabilities(rows)
    expected = equation(errors, 0.6, 1e-6)
    torch.testing.assert_close(torch.from_numpy(probabilities), expected[torch.from_numpy(rows)], **EXACT)
    frequencies = torch.bincount(torch.from_numpy(rows), minlength=len(errors)) / 4000
    torch.testing.assert_close(frequencies.double(), expected, rtol=0, atol=1 / 2000)


@proves(reinforcement.importance_weights)
def importance_weights(equation: Any) -> None:
    data, _ = prioritized()
    assert data.priorities is not None
    rows = data.sample_rows(2, 7)
    weights = torch.from_numpy(data.importance_weights(rows, 7))  # each batch by itself
    beta = 0.4 + 0.6 * len(data.replay) / data.exploration_steps
    for part in (slice(7), slice(7, 14)):
        probabilities = torch.from_numpy(data.priorities.probabilities(rows[part]))
        torch.testing.assert_close(weights[part], equation(probabilities, len(data.replay), beta), **EXACT)


class Given(nn.Module, ActorCritic):
    """A network whose outputs are its inputs: states are the logits of 3 actions and the value."""

    def forward(self, states: Tensor) -> Tensor:
        return states[:, :3]

    def policy_and_value(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return states[:, :3], states[:, 3]


# Two environments over 7 steps. The first has an episode that terminates at 2, a reset step, and an episode truncated at 6;
# the second has an episode that terminates at 4 and one that continues after the rollout. Environment, start, stop, terminated:
SEGMENTS = [(0, 0, 3, True), (0, 4, 7, False), (1, 0, 5, True), (1, 5, 7, False)]


def rollout() -> Rollout:
    valid, terminated, ended = torch.ones(7, 2).bool(), torch.zeros(7, 2).bool(), torch.zeros(7, 2).bool()
    valid[3, 0] = False
    terminated[2, 0] = terminated[4, 1] = True
    ended[2, 0] = ended[6, 0] = ended[4, 1] = True
    actions = torch.arange(14).view(7, 2) % 3
    fields = (random(7, 2, 4), actions, random(7, 2), random(7, 2, 4, seed=1), terminated, ended, valid)
    return Rollout(*fields, finished=EpisodeTotals(), env_steps=0)


@proves(reinforcement.returns)
def returns(equation: Any) -> None:
    batch, nothing = rollout(), torch.zeros(7, 2, dtype=torch.float64)
    found = PolicyGradient(nn.Identity(), GAMMA).advantages(batch, nothing, nothing)
    for env, start, stop, _ in SEGMENTS:
        torch.testing.assert_close(found[start:stop, env], equation(batch.rewards[start:stop, env], GAMMA), **EXACT)


@proves(reinforcement.advantages)
def advantages(equation: Any) -> None:
    batch = rollout()
    values, after = batch.states[..., 3], batch.next_states[..., 3]
    for gae_lambda in (0.0, 0.6, 1.0):
        found = PolicyGradient(Given(), GAMMA, gae_lambda, value_coef=1.0).advantages(batch, values, after)
        for env, start, stop, terminated in SEGMENTS:
            segment = [x[start:stop, env] for x in (batch.rewards, values, after)]
            torch.testing.assert_close(
                found[start:stop, env], equation(*segment, terminated, GAMMA, gae_lambda), **EXACT
            )


def loss(batch: Rollout, **settings: Any) -> Any:
    """The loss as a function of the states of the valid steps."""

    def fast(states: Tensor) -> Tensor:
        all_states = batch.states.clone()
        all_states[batch.valid] = states
        return torch.as_tensor(
            PolicyGradient(Given(), GAMMA, **settings)(batch._replace(states=all_states))["loss"].total
        )

    return fast


@proves(reinforcement.policy_gradient)
def policy_gradient(equation: Any) -> None:
    """Also with a critic: no gradient flows through its target or through the advantages."""
    batch = rollout()
    valid, nothing = batch.valid, torch.zeros(7, 2, dtype=torch.float64)
    returns_ = PolicyGradient(Given(), GAMMA).advantages(batch, nothing, nothing)[valid]
    actions = batch.actions[valid]
    agree(lambda s: equation(s[:, :3], actions, returns_), loss(batch), batch.states[valid])
    values, after = batch.states[..., 3], batch.next_states[..., 3]
    gae = PolicyGradient(Given(), GAMMA, 0.6, value_coef=1.0).advantages(batch, values, after)[valid]
    agree(
        lambda s: equation(s[:, :3], actions, gae) + 0.4 * ((s[:, 3] - (gae + values[valid])) ** 2).sum(),
        loss(batch, gae_lambda=0.6, value_coef=0.8),
        batch.states[valid],
    )
    standard = (gae - gae.mean()) / (((gae - gae.mean()) ** 2).sum() / (len(gae) - 1)) ** 0.5
    settings = {"gae_lambda": 0.6, "value_coef": 1e-30, "normalize_advantages": True}
    agree(lambda s: equation(s[:, :3], actions, standard), loss(batch, **settings), batch.states[valid])


@proves(reinforcement.entropy)
def entropy(equation: Any) -> None:
    batch = rollout()
    batch = batch._replace(rewards=torch.zeros_like(batch.rewards))
    agree(lambda s: -0.3 * equation(s[:, :3]), loss(batch, entropy_coef=0.3), batch.states[batch.valid])
