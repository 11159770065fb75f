"""pymdptoolbox solves the studies' decision processes: the grid and the tables of gymnasium's toy_text."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dlref.studies import dynamic_programming
from dlref.studies._mdp import Decisions, deterministic, problems, two_cells
from tests.crosschecks.rows import crosscheck

mdp: Any = pytest.importorskip("mdptoolbox.mdp")
Agree = Callable[..., None]
ABSORBING = (
    "a grid of two cells, one of 3 × 4, FrozenLake, CliffWalking, Taxi; "
    "one absorbing state without reward stands for the end of all episodes"
)
MEAN = "the Markov reward process that the stochastic policy induces, as an MDP with one action"
HORIZON = "k sweeps are a horizon of k steps"
PROBLEMS = {"two cells": two_cells(), **problems()}
each_problem = pytest.mark.parametrize("decisions", PROBLEMS.values(), ids=PROBLEMS)


def matrices(decisions: Decisions) -> tuple[np.ndarray, np.ndarray]:
    """Transition probabilities [A, S + 1, S + 1] and expected rewards [S + 1, A], from the list of outcomes."""
    states, actions = decisions.states, decisions.actions
    transitions, rewards = np.zeros((actions, states + 1, states + 1)), np.zeros((states + 1, actions))
    transitions[:, states, states] = 1
    for s in range(states):
        for a in range(actions):
            for probability, after, reward, over in decisions.outcomes[s][a]:
                transitions[a, s, states if over else after] += probability
                rewards[s, a] += probability * reward
    return transitions, rewards


def some_policies(decisions: Decisions) -> list[np.ndarray]:
    """The uniform policy [S, A] and three random ones."""
    random = np.random.default_rng(5)
    return [decisions.chance, *random.dirichlet(np.ones(decisions.actions), (3, decisions.states))]


def of_policy(decisions: Decisions, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The process whose one action draws from a policy [S, A]: pymdptoolbox evaluates deterministic policies alone."""
    transitions, rewards = matrices(decisions)
    policy = np.vstack([policy, decisions.chance[:1]])
    return np.einsum("sa,ast->st", policy, transitions)[None], (policy * rewards).sum(1)[:, None]


def evaluated(decisions: Decisions, policy: np.ndarray) -> np.ndarray:
    """The values [S] of a policy by pymdptoolbox's linear solve."""
    solver = mdp.PolicyIteration(*of_policy(decisions, policy), decisions.discount)
    solver.run()
    return np.array(solver.V)[:-1]


@crosscheck("exact values of a policy", "pymdptoolbox, gymnasium", f"{ABSORBING}; {MEAN}")
@each_problem
def test_exact_policy_evaluation(decisions: Decisions, agree: Agree) -> None:
    for policy in some_policies(decisions):
        agree(decisions.evaluate_exactly(policy), evaluated(decisions, policy), rtol=1e-12)


@crosscheck("policy evaluation, sweep by sweep", "pymdptoolbox, gymnasium", f"{ABSORBING}; {MEAN}; {HORIZON}")
@each_problem
def test_policy_evaluation(decisions: Decisions, agree: Agree) -> None:
    for policy in some_policies(decisions):
        solver = mdp.FiniteHorizon(*of_policy(decisions, policy), decisions.discount, 20)
        solver.run()
        values = np.zeros(decisions.states)
        for sweep in range(1, 21):
            values = dynamic_programming.sweep(decisions, values, policy, in_place=False)
            agree(values, solver.V[:-1, 20 - sweep], rtol=1e-13)


@crosscheck(
    "policy iteration",
    "pymdptoolbox, gymnasium",
    f"{ABSORBING}; with iterative evaluation (`iterate_policies`) not on Taxi, with exact evaluation on all",
)
@each_problem
def test_policy_iteration(decisions: Decisions, agree: Agree) -> None:
    solver = mdp.PolicyIteration(*matrices(decisions), decisions.discount)
    solver.run()
    expected = np.array(solver.V)[:-1]
    agree(decisions.solve(), expected, rtol=1e-12)
    if decisions.states < 100:  # Taxi takes 20 seconds
        agree(dynamic_programming.iterate_policies(decisions, 1e-12)[0], expected, rtol=1e-9)
    # Of equally good actions the two may choose different ones, so the policy is compared by its values.
    policy = np.eye(decisions.actions)[np.array(solver.policy)[:-1]]
    agree(decisions.evaluate_exactly(policy), decisions.solve(), rtol=1e-12)
    agree(evaluated(decisions, deterministic(decisions.action_values(decisions.solve()))), expected, rtol=1e-12)


@crosscheck("value iteration, sweep by sweep", "pymdptoolbox, gymnasium", f"{ABSORBING}; {HORIZON}")
@each_problem
def test_value_iteration(decisions: Decisions, agree: Agree) -> None:
    solver = mdp.FiniteHorizon(*matrices(decisions), decisions.discount, 40)
    solver.run()
    values = np.zeros(decisions.states)
    for sweep in range(1, 41):
        values = dynamic_programming.sweep(decisions, values, None, in_place=False)
        agree(values, solver.V[:-1, 40 - sweep], rtol=1e-13)


@crosscheck("value iteration in place, sweep by sweep", "pymdptoolbox, gymnasium", f"{ABSORBING}; Gauss–Seidel")
@each_problem
def test_value_iteration_in_place(decisions: Decisions, agree: Agree) -> None:
    for sweeps in (2, 3, 5, 10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a bound on the sweeps, which is set below
            solver = mdp.ValueIterationGS(*matrices(decisions), decisions.discount)
        solver.thresh, solver.max_iter = 0, sweeps - 1  # the policy is read off in one more sweep
        solver.run()
        values = np.zeros(decisions.states)
        for _ in range(sweeps):
            values = dynamic_programming.sweep(decisions, values, None, in_place=True)
        agree(values, np.array(solver.V)[:-1], rtol=1e-13)
