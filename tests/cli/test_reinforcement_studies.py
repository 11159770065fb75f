"""Studies of reinforcement learning: dynamic programming, Monte Carlo and TD methods against the exact optimum."""

import numpy as np
import pytest

from dlref.studies import bandits, dynamic_programming, monte_carlo, temporal_difference
from dlref.studies._mdp import MDP, greedy_policy, grid, problems, toy_text, two_cells

Rows = dict[tuple[str, str], dict[str, float | str]]


def rows(table: list[dict[str, float | str]]) -> Rows:
    return {(str(row["problem"]), str(row["method"])): row for row in table}


def test_the_exact_values_solve_bellmans_equation() -> None:
    for mdp in (two_cells(), *problems().values()):
        best = mdp.solve()
        np.testing.assert_allclose(mdp.action_values(best).max(1), best, atol=1e-10)
        uniform = np.full((mdp.states, mdp.actions), 1 / mdp.actions)
        values = mdp.evaluate_exactly(uniform)
        np.testing.assert_allclose((uniform * mdp.action_values(values)).sum(1), values, atol=1e-10)


@pytest.mark.slow
def test_dynamic_programming_takes_as_many_sweeps_as_in_the_book_and_finds_the_optimum() -> None:
    found = rows(dynamic_programming.study().table)
    assert found["two cells", "evaluation of the random policy, two arrays"]["sweeps"] == 76
    assert found["two cells", "evaluation of the random policy, in place"]["sweeps"] == 60
    assert found["3 × 4 grid", "value iteration"]["sweeps"] == 4
    assert found["3 × 4 grid", "value iteration"]["value at the start"] == pytest.approx(0.9**4)
    assert found["3 × 4 grid", "value iteration"]["error"] == 0
    for (_, method), row in found.items():  # the bound after a sweep that changes no value by 0.001, at γ = 0.99
        assert float(row["error"]) < 0.001 * 0.99 / 0.01, method


def test_policy_iteration_converges_to_the_optimum() -> None:
    for mdp in (grid(), toy_text("FrozenLake-v1", 0.99)):
        values, _ = dynamic_programming.iterate_policies(mdp, 1e-12)
        np.testing.assert_allclose(values, mdp.solve(), atol=1e-9)


def test_sweeps_in_place_and_in_two_arrays_converge_to_the_same_values() -> None:
    for mdp in (two_cells(), grid()):
        for policy in (mdp.random_policy, None):
            in_place, in_two_arrays = np.zeros(mdp.states), np.zeros(mdp.states)
            dynamic_programming.iterate(mdp, policy, 1e-12, True, in_place)
            dynamic_programming.iterate(mdp, policy, 1e-12, False, in_two_arrays)
            np.testing.assert_allclose(in_place, in_two_arrays, atol=1e-10)


def test_bandits_win_as_in_the_book() -> None:
    found = {(row["bandit"], row["agent"]): row for row in bandits.study().table}
    for key, book in (
        (("stationary", "ε = 0.1"), 0.82),
        (("nonstationary", "sample mean"), 0.895),
        (("nonstationary", "α = 0.8"), 0.925),
    ):
        assert float(found[key]["win rate"]) == pytest.approx(book, abs=4 * float(found[key]["standard error"]))
    assert float(found["nonstationary", "α = 0.8"]["win rate"]) > float(
        found["nonstationary", "sample mean"]["win rate"]
    )


def test_monte_carlo_finds_the_random_policys_values_and_an_optimal_policy() -> None:
    found = rows(monte_carlo.study(episodes=3000, prediction_episodes=3000).table)
    assert float(found["3 × 4 grid", "prediction"]["error"]) < 0.1
    for method in ("on-policy control", "off-policy control"):
        assert float(found["3 × 4 grid", method]["exact value"]) == pytest.approx(0.9**4)


def test_off_policy_values_are_those_of_the_greedy_policy() -> None:
    """In a corridor of 12 cells both actions move right, with reward 1 at the end: all action values are 1 for all policies."""
    length, rng = 12, np.random.default_rng(0)
    outcomes = {s: {a: [(1.0, s + 1, 0.0, False)] for a in (0, 1)} for s in range(length - 1)}
    outcomes[length - 1] = {a: [(1.0, length - 1, 1.0, True)] for a in (0, 1)}
    corridor = MDP(outcomes, np.eye(length)[0], discount=1.0)
    q = monte_carlo.control(corridor, 2000, 0.01, 0.1, True, 100, rng)
    # Only of the more frequent action: the other's average has not converged.
    np.testing.assert_allclose(q.max(1), 1, atol=0.2)


@pytest.mark.slow
def test_off_policy_monte_carlo_converges_to_the_optimal_values() -> None:
    rng, best = np.random.default_rng(0), grid().solve()[grid().start]
    values = [monte_carlo.control(grid(), 2000, 0.02, 0.1, True, 1000, rng)[grid().start].max() for _ in range(5)]
    assert np.mean(values) == pytest.approx(best, abs=0.05)


def test_td_methods_find_the_random_policys_values_and_an_optimal_policy() -> None:
    found = rows(temporal_difference.study(episodes=2000, prediction_episodes=3000).table)
    assert float(found["3 × 4 grid", "TD(0), random policy"]["error"]) < 0.1
    for method in ("SARSA", "off-policy SARSA", "Q-learning"):
        assert float(found["3 × 4 grid", method]["exact value"]) == pytest.approx(0.9**4)


def test_q_learning_walks_along_the_cliff_and_sarsa_keeps_away() -> None:
    """Sutton & Barto 2018, example 6.6: Q-learning takes 13 steps along the edge, SARSA more at a distance from it."""
    cliff, rng = toy_text("CliffWalking-v1", 0.99), np.random.default_rng(0)
    start = int(cliff.initial_distribution.argmax())
    edge, safe = (
        cliff.evaluate_exactly(greedy_policy(temporal_difference.control(cliff, method, 1500, 0.5, 0.1, 1000, rng)))[
            start
        ]
        for method in ("Q-learning", "SARSA")
    )
    assert edge == pytest.approx(cliff.solve()[start])
    assert safe < edge


def test_next_states_have_the_probabilities_of_the_table() -> None:
    lake, rng = toy_text("FrozenLake-v1", 0.99), np.random.default_rng(1)
    assert isinstance(lake, MDP)
    frequencies = np.bincount([lake.step(9, 1, rng)[0] for _ in range(3000)], minlength=16) / 3000
    expected = np.zeros(16)
    for probability, state, *_ in lake.outcomes[9][1]:
        expected[state] += probability
    np.testing.assert_allclose(frequencies, expected, atol=0.03)
    assert {lake.reset(rng) for _ in range(20)} == {0}
    assert grid().reset(rng) == 8
