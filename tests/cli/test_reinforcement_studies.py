"""The third book's tables: what planning and learning find, beside the exact optimum."""

import numpy as np
import pytest

from dlref.studies import bandits, dynamic_programming, monte_carlo, temporal_difference
from dlref.studies._mdp import Decisions, deterministic, grid, problems, toy_text, two_cells

Rows = dict[tuple[str, str], dict[str, float | str]]


def rows(table: list[dict[str, float | str]]) -> Rows:
    return {(str(row["problem"]), str(row["method"])): row for row in table}


def test_the_exact_values_solve_bellmans_equation() -> None:
    for decisions in (two_cells(), *problems().values()):
        best = decisions.solve()
        np.testing.assert_allclose(decisions.action_values(best).max(1), best, atol=1e-10)
        chance = np.full((decisions.states, decisions.actions), 1 / decisions.actions)
        values = decisions.evaluate_exactly(chance)
        np.testing.assert_allclose((chance * decisions.action_values(values)).sum(1), values, atol=1e-10)


@pytest.mark.slow
def test_planning_takes_the_books_sweeps_and_finds_the_optimum() -> None:
    found = rows(dynamic_programming.study().table)
    assert found["two cells", "evaluation of chance, two arrays"]["sweeps"] == 76
    assert found["two cells", "evaluation of chance, in place"]["sweeps"] == 60
    assert found["3 × 4 grid", "value iteration"]["sweeps"] == 4
    assert found["3 × 4 grid", "value iteration"]["value at the start"] == pytest.approx(0.9**4)
    assert found["3 × 4 grid", "value iteration"]["error"] == 0
    for (_, method), row in found.items():  # what is left after sweeps that move nothing by 0.001 more, at γ = 0.99
        assert float(row["error"]) < 0.001 * 0.99 / 0.01, method


def test_sweeps_that_go_on_come_to_the_optimum() -> None:
    for decisions in (grid(), toy_text("FrozenLake-v1", 0.99)):
        values, _ = dynamic_programming.iterate_policies(decisions, 1e-12)
        np.testing.assert_allclose(values, decisions.solve(), atol=1e-9)


def test_planning_in_two_arrays_comes_to_the_same() -> None:
    for decisions in (two_cells(), grid()):
        chance = np.full((decisions.states, decisions.actions), 1 / decisions.actions)
        for policy in (chance, None):
            one, other = np.zeros(decisions.states), np.zeros(decisions.states)
            dynamic_programming.settle(decisions, policy, 1e-12, True, one)
            dynamic_programming.settle(decisions, policy, 1e-12, False, other)
            np.testing.assert_allclose(one, other, atol=1e-10)


def test_bandits_win_as_in_the_book() -> None:
    found = {(row["machines"], row["play"]): row for row in bandits.study().table}
    for key, book in ((("stay", "ε = 0.1"), 0.82), (("drift", "sample mean"), 0.895), (("drift", "α = 0.8"), 0.925)):
        assert float(found[key]["wins"]) == pytest.approx(book, abs=4 * float(found[key]["± of the mean"]))
    assert float(found["drift", "α = 0.8"]["wins"]) > float(found["drift", "sample mean"]["wins"])


def test_monte_carlo_finds_the_values_of_chance_and_the_best_way() -> None:
    found = rows(monte_carlo.study(episodes=3000, prediction_episodes=3000).table)
    assert float(found["3 × 4 grid", "prediction"]["error"]) < 0.1
    for way in ("control on the policy", "control off the policy"):
        assert float(found["3 × 4 grid", way]["of its policy"]) == pytest.approx(0.9**4)


def test_off_policy_values_are_those_of_the_greedy_policy() -> None:
    """A corridor of 12 in which both actions lead on, and the last one wins 1: every action is worth 1 by every policy."""
    length, draw = 12, np.random.default_rng(0)
    outcomes = {s: {a: [(1.0, s + 1, 0.0, False)] for a in (0, 1)} for s in range(length - 1)}
    outcomes[length - 1] = {a: [(1.0, length - 1, 1.0, True)] for a in (0, 1)}
    corridor = Decisions(outcomes, np.eye(length)[0], discount=1.0)
    q = monte_carlo.control(corridor, 2000, 0.01, 0.1, True, 100, draw)
    # Of the action that is taken more often: the other's average has not settled.
    np.testing.assert_allclose(q.max(1), 1, atol=0.2)


@pytest.mark.slow
def test_off_policy_monte_carlo_comes_to_the_optimal_values() -> None:
    draw, best = np.random.default_rng(0), grid().solve()[grid().start]
    values = [monte_carlo.control(grid(), 2000, 0.02, 0.1, True, 1000, draw)[grid().start].max() for _ in range(5)]
    assert np.mean(values) == pytest.approx(best, abs=0.05)


def test_single_steps_find_the_values_of_chance_and_the_best_way() -> None:
    found = rows(temporal_difference.study(episodes=2000, prediction_episodes=3000).table)
    assert float(found["3 × 4 grid", "TD(0), chance"]["error"]) < 0.1
    for way in ("SARSA", "SARSA off the policy", "Q-learning"):
        assert float(found["3 × 4 grid", way]["of its policy"]) == pytest.approx(0.9**4)


def test_q_learning_walks_along_the_cliff_and_sarsa_keeps_away() -> None:
    """Sutton & Barto 2018, example 6.6: 13 steps along the edge, more by the policy that knows it stumbles."""
    cliff, draw = toy_text("CliffWalking-v1", 0.99), np.random.default_rng(0)
    start = int(cliff.starts.argmax())
    edge, safe = (
        cliff.evaluate_exactly(deterministic(temporal_difference.control(cliff, way, 1500, 0.5, 0.1, 1000, draw)))[
            start
        ]
        for way in ("Q-learning", "SARSA")
    )
    assert edge == pytest.approx(cliff.solve()[start])
    assert safe < edge


def test_what_happens_in_a_table_has_its_chances() -> None:
    lake, draw = toy_text("FrozenLake-v1", 0.99), np.random.default_rng(1)
    assert isinstance(lake, Decisions)
    after = np.bincount([lake.act(9, 1, draw)[0] for _ in range(3000)], minlength=16) / 3000
    expected = np.zeros(16)
    for chance, state, *_ in lake.outcomes[9][1]:
        expected[state] += chance
    np.testing.assert_allclose(after, expected, atol=0.03)
    assert {lake.begin(draw) for _ in range(20)} == {0}
    assert grid().begin(draw) == 8
