"""SciPy's solvers and distributions: values of decision processes, draws by priority, and expected wins of bandits."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from scipy import optimize, signal, sparse, stats
from scipy.sparse import linalg

from dlref.data.rl.episodes import GreedyPolicy
from dlref.data.rl.experience import Experience
from dlref.data.rl.replay import Priorities
from dlref.models.mlp import MLP
from dlref.studies import bandits, monte_carlo
from dlref.studies._mdp import MDP, Transition, grid, problems, two_cells
from tests.crosschecks.rows import crosscheck

Agree = Callable[..., None]
ALL_PROBLEMS = "a grid of two cells, one of 3 × 4, FrozenLake, CliffWalking, Taxi"
PROBLEMS = {"two cells": two_cells(), **problems()}
each_problem = pytest.mark.parametrize("mdp", PROBLEMS.values(), ids=PROBLEMS)


def bellman(mdp: MDP) -> tuple[sparse.csr_array, np.ndarray]:
    """The rows V(s) - γ Σ P(s' | s, a) V(s') [S · A, S] and the expected rewards R(s, a) [S · A]."""
    rows, columns, entries, rewards = [], [], [], np.zeros(mdp.states * mdp.actions)
    for row, (s, a) in enumerate(itertools.product(range(mdp.states), range(mdp.actions))):
        outcomes = [(after, -mdp.discount * p) for p, after, _, over in mdp.outcomes[s][a] if not over]
        for column, entry in [(s, 1.0), *outcomes]:
            rows.append(row)
            columns.append(column)
            entries.append(entry)
        rewards[row] = sum(p * reward for p, _, reward, _ in mdp.outcomes[s][a])
    return sparse.csr_array((entries, (rows, columns)), shape=(len(rewards), mdp.states)), rewards


def averaged(policy: np.ndarray) -> sparse.csr_array:
    """The mean over a policy's actions [S, S · A]."""
    return sparse.csr_array(sparse.block_diag(list(policy[:, None])))


def values_of(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """The values [S] of a policy [S, A]."""
    matrix, rewards = bellman(mdp)
    return linalg.spsolve((averaged(policy) @ matrix).tocsc(), averaged(policy) @ rewards)


@crosscheck(
    "state values of the uniform random policy",
    "scipy, gymnasium",
    f"a sparse linear system of the outcomes; {ALL_PROBLEMS}",
)
@each_problem
def test_policy_values(mdp: MDP, agree: Agree) -> None:
    agree(mdp.evaluate_exactly(mdp.random_policy), values_of(mdp, mdp.random_policy), rtol=1e-12)


def optimum(mdp: MDP) -> np.ndarray:
    """The least values [S] that no action improves: a linear program."""
    matrix, rewards = bellman(mdp)
    found = optimize.linprog(np.ones(mdp.states), A_ub=-matrix, b_ub=-rewards, bounds=(None, None))
    assert found.success
    return found.x


@crosscheck(
    "optimal values",
    "scipy, gymnasium",
    f"a linear program: the least V with V ≥ R + γ P V for all actions; {ALL_PROBLEMS}",
)
@each_problem
def test_optimal_values(mdp: MDP, agree: Agree) -> None:
    agree(mdp.solve(), optimum(mdp), rtol=1e-9)


@crosscheck(
    "Monte Carlo prediction: state values of the uniform random policy",
    "scipy",
    "3 × 4 grid; `lfilter` discounts the rewards of the same episodes",
)
def test_monte_carlo(agree: Agree) -> None:
    mdp, draws = grid(), [np.random.default_rng(1) for _ in range(2)]
    values = monte_carlo.predict(mdp, mdp.random_policy, 500, 1000, draws[0])
    returns: dict[int, list[float]] = {s: [] for s in range(mdp.states)}
    for _ in range(500):
        moves = list(mdp.episode(mdp.random_policy, 1000, draws[1]))
        gains = signal.lfilter([1.0], [1.0, -mdp.discount], [move[2] for move in reversed(moves)])[::-1]
        for (state, *_), gain in zip(moves, gains, strict=True):
            returns[state].append(gain)
    agree(values, [np.mean(gains or [0.0]) for gains in returns.values()], atol=1e-12)


class Scripted(MDP):
    """A process that never visits a state twice; its next episodes are those of `script`."""

    script: Sequence[Sequence[Transition]]

    def __init__(self) -> None:
        random = np.random.default_rng(2)

        def outcomes(state: int) -> list[tuple[float, int, float, bool]]:
            """Two later states, or the end."""
            later = [state + 1, state + 2]
            return [(p, s % 4, float(random.normal()), s >= 4) for p, s in zip((0.3, 0.7), later, strict=True)]

        everything = {s: {a: outcomes(s) for a in range(2)} for s in range(4)}
        super().__init__(everything, [1.0, 0.0, 0.0, 0.0], 0.75)

    def episode(self, policy: np.ndarray, max_steps: int, rng: np.random.Generator) -> Iterator[Transition]:
        self.behavior = policy
        first, *self.script = self.script
        return iter(first)

    def episodes(self, policy: np.ndarray, state: int = 0) -> Iterator[tuple[float, list[Transition]]]:
        """All of them, with their probabilities."""
        for action in range(self.actions):
            for p, after, reward, over in self.outcomes[state][action]:
                for rest, moves in [(1.0, [])] if over else self.episodes(policy, after):
                    yield policy[state, action] * p * rest, [(state, action, reward, after, over), *moves]


@crosscheck(
    "on-policy and off-policy Monte Carlo control: expected action values after two episodes",
    "scipy",
    "all episodes of four states with their probabilities; values and visits by sparse linear systems; ε is 0.3",
)
@pytest.mark.parametrize("off", [False, True], ids=["on-policy", "off-policy"])
def test_monte_carlo_control(off: bool, agree: Agree) -> None:
    mdp, rate, epsilon = Scripted(), 0.2, 0.3
    matrix, rewards = bellman(mdp)
    flow = bellman(MDP(mdp.outcomes, mdp.initial_distribution, 1.0))[0]
    for _, first in mdp.episodes(mdp.random_policy):
        values, target = np.zeros((4, 2)), mdp.random_policy.copy()
        gains = signal.lfilter([1.0], [1.0, -mdp.discount], [move[2] for move in reversed(first)])[::-1]
        for (state, action, *_), gain in zip(first, gains, strict=True):
            values[state, action] = rate * gain
            target[state] = np.eye(2)[action if gain > 0 else 1 - action]
        behavior = (1 - epsilon) * target + epsilon / 2
        expected = np.zeros((4, 2))
        for probability, second in mdp.episodes(behavior):
            mdp.script = [first, second]
            found = monte_carlo.control(mdp, 2, rate, epsilon, off, 1000, np.random.default_rng())
            expected += probability * found
            agree(mdp.behavior, behavior, atol=1e-15)
        state_values = values_of(mdp, target if off else behavior)
        exact = (rewards - matrix @ state_values).reshape(4, 2) + state_values[:, None]
        visits = linalg.spsolve((averaged(behavior) @ flow).T.tocsc(), mdp.initial_distribution)[:, None] * behavior
        agree(expected, values + rate * visits * (exact - values), atol=1e-12)


@crosscheck(
    "sampling in proportion to priority", "scipy", "`rv_discrete.ppf` of the same uniform numbers, `pmf` of the samples"
)
@pytest.mark.parametrize("rows", [7, 300])
def test_draws_by_priority(rows: int, agree: Agree) -> None:
    random = np.random.default_rng(rows)
    values = random.random(rows) * (random.random(rows) < 0.8)
    priorities = Priorities(rows)
    priorities.set(np.arange(rows), values)
    law, uniform = stats.rv_discrete(values=(np.arange(rows), values / values.sum())), random.random(2000)
    drawn = priorities.sample(uniform)
    agree(drawn, law.ppf(uniform))
    agree(priorities.probabilities(drawn), law.pmf(drawn), atol=1e-14)


@crosscheck(
    "prioritized replay: draws, importance weights, and new transitions",
    "scipy",
    "`rv_discrete` of p ∝ (abs δ + 10⁻⁶)^0.6, the highest so far, at least 1, for new ones; "
    "(N p)^-β over its maximum; χ² of 40,000 draws",
)
@pytest.mark.parametrize("scale", [0.1, 1.0], ids=["small errors", "large errors"])
def test_prioritized_replay(scale: float, agree: Agree) -> None:
    rows, count = 100, 400
    errors = np.random.default_rng(3).normal(scale=scale, size=rows)
    play = Experience("CartPole-v1", prioritized=True, batch_size=count, buffer_size=rows, exploration_steps=50)
    play.generator = torch.Generator().manual_seed(4)
    play.replay.written = rows
    play.priorities.update(np.arange(rows), errors)
    probabilities = (np.abs(errors) + 1e-6) ** 0.6
    law = stats.rv_discrete(values=(np.arange(rows), probabilities / probabilities.sum()))
    drawn = []
    for env_steps in range(100):
        play.env_steps = env_steps
        sampled = play.sample_rows(1, count)
        weights = law.pmf(sampled) * rows
        weights **= -(0.4 + 0.6 * min(env_steps / 50, 1))
        agree(play.importance_weights(sampled, count), weights / weights.max(), atol=1e-12)
        drawn.append(sampled)
    seen = np.bincount(np.concatenate(drawn), minlength=rows)
    assert stats.chisquare(seen, law.pmf(np.arange(rows)) * seen.sum()).pvalue > 0.01
    play.reset()
    for _ in range(3):
        play.act(GreedyPolicy(MLP(4, 2, (3,))))
    probabilities[:3] = max(1.0, probabilities.max())  # the oldest rows, which are overwritten
    law = stats.rv_discrete(values=(np.arange(rows), probabilities / probabilities.sum()))
    agree(play.priorities.probabilities(np.arange(rows)), law.pmf(np.arange(rows)), atol=1e-14)


@functools.cache
def next_result(win: bool, wins: int, games: int) -> float:
    """The probability of a win, or a loss, of an arm with a win probability uniform in [0, 1] after so many wins and games."""
    return float(stats.betabinom.pmf(win, 1, 1 + wins, 1 + games - wins))


def win_probabilities(games: int, arms: int, epsilon: float, rate: float | None) -> np.ndarray:
    """The probability of each sequence of wins [2 ** games], over all histories."""
    probabilities = np.zeros(2**games)

    def value(own: Sequence[bool]) -> float:
        if rate is None:
            return float(np.mean(own)) if own else 0.0
        return sum(rate * (1 - rate) ** (len(own) - 1 - k) * win for k, win in enumerate(own))

    def play(history: Sequence[tuple[int, bool]], probability: float) -> None:
        if len(history) == games:
            probabilities[sum(win << game for game, (_, win) in enumerate(history))] += probability
            return
        results = [[win for arm, win in history if arm == machine] for machine in range(arms)]
        values = [value(own) for own in results]
        for arm, own in enumerate(results):
            chosen = epsilon / arms + (1 - epsilon) * (arm == values.index(max(values)))
            for win in (False, True):
                play([*history, (arm, win)], probability * chosen * next_result(win, sum(own), len(own)))

    play([], 1.0)
    return probabilities


@crosscheck(
    "ε-greedy agent on Bernoulli bandits: frequencies of reward sequences",
    "scipy",
    "means of the arms uniform on [0, 1]; exact probabilities by `betabinom` over all histories; χ² test of 2,000,000 runs",
)
@pytest.mark.parametrize(
    ("epsilon", "rate", "games"), [(0.0, None, 5), (0.3, None, 5), (0.1, 0.8, 7), (0.1, 0.3, 7), (1.0, None, 5)]
)
def test_bandits(epsilon: float, rate: float | None, games: int, agree: Agree) -> None:
    runs = 2_000_000
    wins = bandits.play(games, runs, 2, epsilon, rate, 0.0, seed=5)
    seen = np.bincount((wins.long() @ (2 ** torch.arange(games))).numpy(), minlength=2**games)
    expected = win_probabilities(games, 2, epsilon, rate)
    assert stats.chisquare(seen, expected * runs).pvalue > 0.01
    agree(seen / runs, expected, atol=5 * (0.25 / runs) ** 0.5)  # five standard errors of the largest that may be
