"""Tabular Markov decision processes and their exact solutions (Sutton & Barto 2018, chapters 3 and 4). S states, A actions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlref.data.rl.environments import Environments
from dlref.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Outcome = tuple[float, int, float, bool]  # probability, next state, reward, terminated
Transition = tuple[int, int, float, int, bool]  # state, action, reward, next state, terminated


class MDP:
    """A Markov decision process; `outcomes[s][a]` lists what may happen, as in gymnasium's `toy_text` environments."""

    def __init__(
        self,
        outcomes: Mapping[int, Mapping[int, Sequence[Outcome]]],
        initial_distribution: Sequence[float],
        discount: float,
        shape: tuple[int, int] | None = None,
        arrows: str = "",
    ) -> None:
        self.outcomes, self.initial_distribution, self.discount = outcomes, np.asarray(initial_distribution), discount
        self.shape, self.arrows = shape, arrows  # rows and columns of a grid world, and its actions as arrows
        self.states, self.actions = len(outcomes), len(outcomes[0])
        self.start = int(self.initial_distribution.argmax())  # the most frequent initial state
        self.random_policy = np.full((self.states, self.actions), 1 / self.actions)
        self.rewards = np.zeros((self.states, self.actions))  # expected
        self.transitions = np.zeros((self.states, self.actions, self.states))  # P(s' | s, a) if s' is not terminal
        for s, actions in outcomes.items():
            for a, list_ in actions.items():
                for probability, next_state, reward, terminated in list_:
                    self.rewards[s, a] += probability * reward
                    self.transitions[s, a, next_state] += 0.0 if terminated else probability

    def action_values(self, values: np.ndarray) -> np.ndarray:  # [S] -> [S, A]
        return self.rewards + self.discount * self.transitions @ values

    def evaluate_exactly(self, policy: np.ndarray) -> np.ndarray:  # [S, A] -> [S]
        """The solution of V = R + γ P V, one linear equation for each state."""
        rewards = (policy * self.rewards).sum(1)
        transitions = np.einsum("sa,sat->st", policy, self.transitions)
        return np.linalg.solve(np.eye(self.states) - self.discount * transitions, rewards)

    def solve(self) -> np.ndarray:  # [S]
        """The optimal values, by policy iteration with exact evaluation (Howard 1960)."""
        values = self.evaluate_exactly(self.random_policy)
        while True:
            improved = self.evaluate_exactly(greedy_policy(self.action_values(values)))
            if np.allclose(improved, values, rtol=0, atol=1e-12):
                return improved
            values = improved

    def reset(self, rng: np.random.Generator) -> int:
        """An initial state."""
        return int(np.searchsorted(self.initial_distribution.cumsum(), rng.random(), side="right"))

    def step(self, state: int, action: int, rng: np.random.Generator) -> tuple[int, float, bool]:
        """Next state, reward, terminated."""
        *others, last = self.outcomes[state][action]
        rest = rng.random() if others else 0.0
        for outcome in others:
            rest -= outcome[0]
            if rest < 0:
                return outcome[1:]
        return last[1:]

    def episode(self, policy: np.ndarray, max_steps: int, rng: np.random.Generator) -> Iterator[Transition]:
        """The transitions of an episode by a policy [S, A], at most `max_steps`."""
        state, cumulative = self.reset(rng), policy.cumsum(1)
        for _ in range(max_steps):
            action = min(int(np.searchsorted(cumulative[state], rng.random(), side="right")), self.actions - 1)
            next_state, reward, terminated = self.step(state, action, rng)
            yield state, action, reward, next_state, terminated
            if terminated:
                return
            state = next_state

    def reachable(self) -> np.ndarray:  # [S] bool
        """Non-terminal states that an episode may visit: no walls, holes and cliffs."""
        found, follows = self.initial_distribution > 0, self.transitions.sum(1) > 0
        while (more := found | (found @ follows)).sum() > found.sum():
            found = more
        return found


def greedy_policy(q: np.ndarray) -> np.ndarray:  # [S, A] -> [S, A]
    """The deterministic policy that takes the first action of highest value."""
    return np.eye(q.shape[1])[(q > q.max(1, keepdims=True) - 1e-9).argmax(1)]


def two_cells() -> MDP:
    """The book's smallest example: right of the left cell lies an apple that grows again, walls cost 1."""
    left, right = 0, 1
    outcomes = {
        left: {0: [(1.0, left, -1.0, False)], 1: [(1.0, right, 1.0, False)]},
        right: {0: [(1.0, left, 0.0, False)], 1: [(1.0, right, -1.0, False)]},
    }
    return MDP(outcomes, [1.0, 0.0], 0.9)


def grid() -> MDP:
    """The book's 3 × 4 grid world: an apple (+1) ends the episode, a bomb (-1) below it does not, one cell is a wall."""
    rows, columns, apple, bomb, wall = 3, 4, (0, 3), (1, 3), (1, 1)
    outcomes: dict[int, dict[int, list[Outcome]]] = {}
    for row in range(rows):
        for column in range(columns):
            outcomes[row * columns + column] = {}
            for action, (down, right) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
                cell = (row + down, column + right)
                if not (0 <= cell[0] < rows and 0 <= cell[1] < columns) or cell == wall:
                    cell = (row, column)
                is_unused = (row, column) in (apple, wall)  # the episode is over there, or never gets there
                reward = 0.0 if is_unused else {apple: 1.0, bomb: -1.0}.get(cell, 0.0)
                next_state = cell[0] * columns + cell[1]
                outcomes[row * columns + column][action] = [(1.0, next_state, reward, is_unused or cell == apple)]
    initial_distribution = np.eye(rows * columns)[(rows - 1) * columns]
    return MDP(outcomes, initial_distribution, 0.9, (rows, columns), "↑↓←→")


def toy_text(name: str, discount: float) -> MDP:
    """An environment of gymnasium's toy_text; raises ConfigError for one without transition tables."""
    env: Any = Environments(name).envs[0].unwrapped
    if not hasattr(env, "P"):
        raise ConfigError(f"{name} has no transition tables; choose one of gymnasium's toy_text")
    shape = (env.nrow, env.ncol) if hasattr(env, "ncol") else getattr(env, "shape", None)
    arrows = {"FrozenLake": "←↓→↑", "CliffWalking": "↑→↓←"}.get(name.partition("-")[0], "")
    return MDP(env.P, env.initial_state_distrib, discount, shape, arrows)


def problems() -> dict[str, MDP]:
    return {
        "3 × 4 grid": grid(),
        "FrozenLake-v1": toy_text("FrozenLake-v1", 0.99),
        "CliffWalking-v1": toy_text("CliffWalking-v1", 0.99),
        "Taxi-v4": toy_text("Taxi-v4", 0.99),
    }


def table_row(problem: str, method: str, estimate: float, exact: float, error: float) -> dict[str, float | str]:
    """A method's estimate of the start's value, the exact value of its policy there, and an error."""
    return {
        "problem": problem,
        "method": method,
        "estimated value": float(estimate),
        "exact value": float(exact),
        "error": float(error),
    }


def draw_map(axes: "Axes", mdp: MDP, values: np.ndarray, policy: np.ndarray | None = None) -> None:
    """Plot values [S] of a grid world as colors and numbers, and the actions of a policy [S, A] as arrows."""
    assert mdp.shape is not None
    rows, columns = mdp.shape
    reachable = mdp.reachable()
    limit = max(float(np.abs(values[reachable]).max()), 1e-9)
    axes.set_facecolor("0.8")
    image = np.ma.masked_where(~reachable.reshape(rows, columns), values.reshape(rows, columns))
    axes.imshow(image, cmap="RdYlGn", vmin=-limit, vmax=limit)
    for s in np.flatnonzero(reachable).tolist():
        row, column = divmod(s, columns)
        arrow = "" if policy is None else mdp.arrows[int(policy[s].argmax())]
        number = f"{values[s]:.2f}" if limit < 10 else f"{values[s]:.1f}" if limit < 100 else f"{values[s]:.0f}"
        axes.text(column, row, f"{arrow}\n{number}".strip(), ha="center", va="center", fontsize=9 if columns < 6 else 7)
    axes.set(xticks=[], yticks=[])
