"""SciPy's solvers and distributions: values of decision processes, draws by priority, and expected wins of bandits."""

import functools
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
    "`rv_discrete` of p ∝ (abs δ + 10⁻⁶)^0.6; (N p)^-β over its maximum; χ² of 40,000 draws",
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


@functools.cache
def next_result(win: bool, wins: int, games: int) -> float:
    """The probability of a win, or a loss, of a machine with a chance from [0, 1] that has won so many games."""
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


@crosscheck("sequences of wins of ε-greedy bandits", "scipy", "betabinom over all histories; χ² of 2,000,000 runs")
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
