"""SciPy's solvers and distributions: values of decision processes, draws by priority, and expected wins of bandits."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy import optimize, signal, sparse, stats
from scipy.sparse import linalg

from dlref.data.play import Play
from dlref.data.replay import Priorities
from dlref.studies import bandits, monte_carlo
from dlref.studies._decisions import Decisions, grid, problems, two_cells
from tests.crosschecks.rows import crosscheck

Agree = Callable[..., None]
PROBLEMS = {"two cells": two_cells(), **problems()}
each_problem = pytest.mark.parametrize("decisions", PROBLEMS.values(), ids=PROBLEMS)


def bellman(decisions: Decisions) -> tuple[sparse.csr_array, np.ndarray]:
    """The rows V(s) - γ Σ P(s' | s, a) V(s') [S · A, S] and the expected rewards R(s, a) [S · A]."""
    rows, columns, entries, rewards = [], [], [], np.zeros(decisions.states * decisions.actions)
    for row, (s, a) in enumerate(itertools.product(range(decisions.states), range(decisions.actions))):
        outcomes = [(after, -decisions.discount * p) for p, after, _, over in decisions.outcomes[s][a] if not over]
        for column, entry in [(s, 1.0), *outcomes]:
            rows.append(row)
            columns.append(column)
            entries.append(entry)
        rewards[row] = sum(p * reward for p, _, reward, _ in decisions.outcomes[s][a])
    return sparse.csr_array((entries, (rows, columns)), shape=(len(rewards), decisions.states)), rewards


@crosscheck("values of the uniform policy", "scipy, gymnasium", "a sparse linear system of the lists of outcomes")
@each_problem
def test_policy_values(decisions: Decisions, agree: Agree) -> None:
    matrix, rewards = bellman(decisions)
    mean = sparse.kron(sparse.eye_array(decisions.states), np.full((1, decisions.actions), 1 / decisions.actions))
    agree(
        decisions.evaluate_exactly(decisions.chance),
        linalg.spsolve((mean @ matrix).tocsc(), mean @ rewards),
        rtol=1e-12,
    )


def optimum(decisions: Decisions) -> np.ndarray:
    """The least values [S] that no action improves: a linear program."""
    matrix, rewards = bellman(decisions)
    found = optimize.linprog(np.ones(decisions.states), A_ub=-matrix, b_ub=-rewards, bounds=(None, None))
    assert found.success
    return found.x


@crosscheck("optimal values", "scipy, gymnasium", "a linear program: the least V with V ≥ R + γ P V for all actions")
@each_problem
def test_optimal_values(decisions: Decisions, agree: Agree) -> None:
    agree(decisions.solve(), optimum(decisions), rtol=1e-9)


@crosscheck("Monte Carlo values of the uniform policy", "scipy", "the same episodes; `lfilter` discounts their rewards")
def test_monte_carlo(agree: Agree) -> None:
    decisions, draws = grid(), [np.random.default_rng(1) for _ in range(2)]
    values = monte_carlo.predict(decisions, decisions.chance, 500, 1000, draws[0])
    returns: dict[int, list[float]] = {s: [] for s in range(decisions.states)}
    for _ in range(500):
        moves = list(decisions.episode(decisions.chance, 1000, draws[1]))
        gains = signal.lfilter([1.0], [1.0, -decisions.discount], [move[2] for move in reversed(moves)])[::-1]
        for (state, *_), gain in zip(moves, gains, strict=True):
            returns[state].append(gain)
    agree(values, [np.mean(gains or [0.0]) for gains in returns.values()], atol=1e-12)


@crosscheck("draws by priority", "scipy", "`rv_discrete.ppf` of the same uniform numbers, `pmf` of the rows drawn")
@pytest.mark.parametrize("rows", [7, 300])
def test_draws_by_priority(rows: int, agree: Agree) -> None:
    random = np.random.default_rng(rows)
    values = random.random(rows) * (random.random(rows) < 0.8)
    priorities = Priorities(rows)
    priorities.set(np.arange(rows), values)
    law, uniform = stats.rv_discrete(values=(np.arange(rows), values / values.sum())), random.random(2000)
    drawn = priorities.draw(uniform)
    agree(drawn, law.ppf(uniform))
    agree(priorities.chances(drawn), law.pmf(drawn), atol=1e-14)


@crosscheck(
    "prioritized replay: draws and importance weights",
    "scipy",
    "p ∝ (|δ| + 10⁻⁶)^0.6; (N p)^-β over the largest; χ² of 40,000 draws",
)
def test_prioritized_replay(agree: Agree) -> None:
    rows, count = 100, 400
    errors = np.random.default_rng(3).normal(size=rows)
    play = Play("CartPole-v1", prioritised=True, batch_size=count, replay=rows, explore_steps=50)
    play.random = torch.Generator().manual_seed(4)
    play.replay.written = rows
    play.rows, play.errors = np.arange(rows), torch.from_numpy(errors)
    play.learn_priorities()
    probabilities = (np.abs(errors) + 1e-6) ** 0.6
    law = stats.rv_discrete(values=(np.arange(rows), probabilities / probabilities.sum()))
    drawn = []
    for played in range(100):
        play.played = played
        play.rows = play.draw(count)
        weights = law.pmf(play.rows) * rows
        weights **= -(0.4 + 0.6 * min(played / 50, 1))
        agree(
            play.look_up(count, torch.device("cpu"), torch.float64).whole.weights, weights / weights.max(), atol=1e-12
        )
        drawn.append(play.rows)
    seen = np.bincount(np.concatenate(drawn), minlength=rows)
    assert stats.chisquare(seen, law.pmf(np.arange(rows)) * seen.sum()).pvalue > 0.01
    agree(play.highest, max(1.0, probabilities.max()), atol=1e-14)


def expected_wins(games: int, arms: int, epsilon: float, rate: float | None) -> list[float]:
    """The probability of a win in each game, over all histories and machines whose chances are uniform on [0, 1].

    A machine that won w of n games wins the next one with the mean of a beta distribution.
    """
    wins = [0.0] * games

    def play(history: Sequence[tuple[int, bool]], probability: float) -> None:
        if len(history) == games:
            return
        results = [[float(win) for arm, win in history if arm == machine] for machine in range(arms)]
        values = [
            float(np.mean(own or [0.0]))
            if rate is None
            else sum(rate * (1 - rate) ** (len(own) - 1 - k) * win for k, win in enumerate(own))
            for own in results
        ]
        for arm in range(arms):
            chosen = epsilon / arms + (1 - epsilon) * (arm == values.index(max(values)))
            chance = stats.betabinom.mean(1, 1 + sum(results[arm]), 1 + len(results[arm]) - sum(results[arm]))
            wins[len(history)] += probability * chosen * chance
            for win, factor in ((True, chance), (False, 1 - chance)):
                play([*history, (arm, win)], probability * chosen * factor)

    play([], 1.0)
    return wins


@crosscheck(
    "wins of ε-greedy bandits",
    "scipy",
    "betabinom's means over all histories; 400,000 runs, within five standard errors",
)
@pytest.mark.parametrize(("epsilon", "rate"), [(0.0, None), (0.3, None), (0.3, 0.8), (1.0, None)])
def test_bandits(epsilon: float, rate: float | None, agree: Agree) -> None:
    runs = 400_000
    wins = bandits.play(5, runs, 2, epsilon, rate, 0.0, seed=5)
    agree(wins.mean(0), expected_wins(5, 2, epsilon, rate), atol=5 * 0.5 / runs**0.5)
