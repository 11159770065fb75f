"""pymdptoolbox solves the studies' decision processes: the grid and the tables of gymnasium's toy_text."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dlref.studies import dynamic_programming
from dlref.studies._mdp import MDP, greedy_policy, problems, two_cells
from tests.crosschecks.rows import crosscheck

mdptoolbox: Any = pytest.importorskip("mdptoolbox.mdp")
Agree = Callable[..., None]
ABSORBING = (
    "a grid of two cells, one of 3 × 4, FrozenLake, CliffWalking, Taxi; "
    "one absorbing state without reward stands for the end of all episodes"
)
MEAN = "the Markov reward process that the stochastic policy induces, as an MDP with one action"
HORIZON = "k sweeps are a horizon of k steps"
PROBLEMS = {"two cells": two_cells(), **problems()}
each_problem = pytest.mark.parametrize("mdp", PROBLEMS.values(), ids=PROBLEMS)


def matrices(mdp: MDP) -> tuple[np.ndarray, np.ndarray]:
    """Transition probabilities [A, S + 1, S + 1] and expected rewards [S + 1, A], from the list of outcomes."""
    states, actions = mdp.states, mdp.actions
    transitions, rewards = np.zeros((actions, states + 1, states + 1)), np.zeros((states + 1, actions))
    transitions[:, states, states] = 1
    for s in range(states):
        for a in range(actions):
            for probability, after, reward, over in mdp.outcomes[s][a]:
                transitions[a, s, states if over else after] += probability
                rewards[s, a] += probability * reward
    return transitions, rewards


def some_policies(mdp: MDP) -> list[np.ndarray]:
    """The uniform policy [S, A] and three random ones."""
    random = np.random.default_rng(5)
    return [mdp.random_policy, *random.dirichlet(np.ones(mdp.actions), (3, mdp.states))]


def of_policy(mdp: MDP, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The process whose one action draws from a policy [S, A]: pymdptoolbox evaluates greedy_policy policies alone."""
    transitions, rewards = matrices(mdp)
    policy = np.vstack([policy, mdp.random_policy[:1]])
    return np.einsum("sa,ast->st", policy, transitions)[None], (policy * rewards).sum(1)[:, None]


def evaluated(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """The values [S] of a policy by pymdptoolbox's linear solve."""
    solver = mdptoolbox.PolicyIteration(*of_policy(mdp, policy), mdp.discount)
    solver.run()
    return np.array(solver.V)[:-1]


@crosscheck("exact values of a policy", "pymdptoolbox, gymnasium", f"{ABSORBING}; {MEAN}")
@each_problem
def test_exact_policy_evaluation(mdp: MDP, agree: Agree) -> None:
    for policy in some_policies(mdp):
        agree(mdp.evaluate_exactly(policy), evaluated(mdp, policy), rtol=1e-12)


@crosscheck("policy evaluation, sweep by sweep", "pymdptoolbox, gymnasium", f"{ABSORBING}; {MEAN}; {HORIZON}")
@each_problem
def test_policy_evaluation(mdp: MDP, agree: Agree) -> None:
    for policy in some_policies(mdp):
        solver = mdptoolbox.FiniteHorizon(*of_policy(mdp, policy), mdp.discount, 20)
        solver.run()
        values = np.zeros(mdp.states)
        for sweep in range(1, 21):
            values = dynamic_programming.sweep(mdp, values, policy, in_place=False)
            agree(values, solver.V[:-1, 20 - sweep], rtol=1e-13)


@crosscheck(
    "policy iteration",
    "pymdptoolbox, gymnasium",
    f"{ABSORBING}; with iterative evaluation (`iterate_policies`) not on Taxi, with exact evaluation on all",
)
@each_problem
def test_policy_iteration(mdp: MDP, agree: Agree) -> None:
    solver = mdptoolbox.PolicyIteration(*matrices(mdp), mdp.discount)
    solver.run()
    expected = np.array(solver.V)[:-1]
    agree(mdp.solve(), expected, rtol=1e-12)
    if mdp.states < 100:  # Taxi takes 20 seconds
        agree(dynamic_programming.iterate_policies(mdp, 1e-12)[0], expected, rtol=1e-9)
    # Of equally good actions the two may choose different ones, so the policy is compared by its values.
    policy = np.eye(mdp.actions)[np.array(solver.policy)[:-1]]
    agree(mdp.evaluate_exactly(policy), mdp.solve(), rtol=1e-12)
    agree(evaluated(mdp, greedy_policy(mdp.action_values(mdp.solve()))), expected, rtol=1e-12)


@crosscheck("value iteration, sweep by sweep", "pymdptoolbox, gymnasium", f"{ABSORBING}; {HORIZON}")
@each_problem
def test_value_iteration(mdp: MDP, agree: Agree) -> None:
    solver = mdptoolbox.FiniteHorizon(*matrices(mdp), mdp.discount, 40)
    solver.run()
    values = np.zeros(mdp.states)
    for sweep in range(1, 41):
        values = dynamic_programming.sweep(mdp, values, None, in_place=False)
        agree(values, solver.V[:-1, 40 - sweep], rtol=1e-13)


@crosscheck("value iteration in place, sweep by sweep", "pymdptoolbox, gymnasium", f"{ABSORBING}; Gauss–Seidel")
@each_problem
def test_value_iteration_in_place(mdp: MDP, agree: Agree) -> None:
    for sweeps in (2, 3, 5, 10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a bound on the sweeps, which is set below
            solver = mdptoolbox.ValueIterationGS(*matrices(mdp), mdp.discount)
        solver.thresh, solver.max_iter = 0, sweeps - 1  # the policy is read off in one more sweep
        solver.run()
        values = np.zeros(mdp.states)
        for _ in range(sweeps):
            values = dynamic_programming.sweep(mdp, values, None, in_place=True)
        agree(values, np.array(solver.V)[:-1], rtol=1e-13)
