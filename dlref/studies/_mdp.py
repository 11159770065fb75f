"""Markov decision processes as tables, and what is exactly known of them (Sutton & Barto 2018, chapters 3 and 4)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlref.data.rl.environments import Environments
from dlref.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Outcome = tuple[float, int, float, bool]  # chance, next state, reward, whether the episode is over
Move = tuple[int, int, float, int, bool]  # state, action, reward, next state, whether the episode is over


class Decisions:
    """S states, A actions; `outcomes[s][a]` lists what may happen, as in gymnasium's environments of `toy_text`."""

    def __init__(
        self,
        outcomes: Mapping[int, Mapping[int, Sequence[Outcome]]],
        starts: Sequence[float],
        discount: float,
        shape: tuple[int, int] | None = None,
        arrows: str = "",
    ) -> None:
        self.outcomes, self.starts, self.discount = outcomes, np.asarray(starts), discount
        self.shape, self.arrows = shape, arrows  # of a map, and of the actions on it
        self.states, self.actions = len(outcomes), len(outcomes[0])
        self.start = int(self.starts.argmax())  # where episodes begin most often
        self.chance = np.full((self.states, self.actions), 1 / self.actions)  # the policy that draws
        self.rewards = np.zeros((self.states, self.actions))  # expected
        self.going_on = np.zeros((self.states, self.actions, self.states))  # chance of each next state, if not over
        for s, actions in outcomes.items():
            for a, list_ in actions.items():
                for chance, after, reward, over in list_:
                    self.rewards[s, a] += chance * reward
                    self.going_on[s, a, after] += 0.0 if over else chance

    def action_values(self, values: np.ndarray) -> np.ndarray:  # [S] -> [S, A]
        return self.rewards + self.discount * self.going_on @ values

    def evaluate_exactly(self, policy: np.ndarray) -> np.ndarray:  # [S, A] -> [S]
        """The solution of V = R + γ P V, one linear equation for each state."""
        rewards = (policy * self.rewards).sum(1)
        chances = np.einsum("sa,sat->st", policy, self.going_on)
        return np.linalg.solve(np.eye(self.states) - self.discount * chances, rewards)

    def solve(self) -> np.ndarray:  # [S]
        """The optimal values: policies improved by exact evaluation until none is better (Howard 1960)."""
        values = self.evaluate_exactly(self.chance)
        while True:
            better = self.evaluate_exactly(deterministic(self.action_values(values)))
            if np.allclose(better, values, rtol=0, atol=1e-12):
                return better
            values = better

    def act(self, state: int, action: int, draw: np.random.Generator) -> tuple[int, float, bool]:
        """Next state, reward, and whether the episode is over."""
        *possible, last = self.outcomes[state][action]
        place = draw.random() if possible else 0.0
        for outcome in possible:
            place -= outcome[0]
            if place < 0:
                return outcome[1:]
        return last[1:]

    def episode(self, policy: np.ndarray, longest: int, draw: np.random.Generator) -> Iterator[Move]:
        """The moves of an episode by a policy [S, A], at most `longest`."""
        state, sums = self.begin(draw), policy.cumsum(1)
        for _ in range(longest):
            action = min(int(np.searchsorted(sums[state], draw.random(), side="right")), self.actions - 1)
            after, reward, over = self.act(state, action, draw)
            yield state, action, reward, after, over
            if over:
                return
            state = after

    def visited(self) -> np.ndarray:  # [S] bool
        """The states in which an episode may begin or go on: not its ends, nor walls, holes and cliffs."""
        found, steps = self.starts > 0, self.going_on.sum(1) > 0
        while (more := found | (found @ steps)).sum() > found.sum():
            found = more
        return found

    def begin(self, draw: np.random.Generator) -> int:
        return int(np.searchsorted(self.starts.cumsum(), draw.random(), side="right"))


def deterministic(values: np.ndarray) -> np.ndarray:  # [S, A] -> [S, A]
    """The policy that takes an action of highest value; of equal ones the first."""
    return np.eye(values.shape[1])[(values > values.max(1, keepdims=True) - 1e-9).argmax(1)]


def two_cells() -> Decisions:
    """The book's smallest example: right of the left cell lies an apple that grows again, walls cost 1."""
    left, right = 0, 1
    outcomes = {
        left: {0: [(1.0, left, -1.0, False)], 1: [(1.0, right, 1.0, False)]},
        right: {0: [(1.0, left, 0.0, False)], 1: [(1.0, right, -1.0, False)]},
    }
    return Decisions(outcomes, [1.0, 0.0], 0.9)


def grid() -> Decisions:
    """The book's 3 × 4 cells: an apple (+1) ends the episode, a bomb (-1) below it does not, one cell is a wall."""
    rows, columns, apple, bomb, wall = 3, 4, (0, 3), (1, 3), (1, 1)
    outcomes: dict[int, dict[int, list[Outcome]]] = {}
    for row in range(rows):
        for column in range(columns):
            outcomes[row * columns + column] = {}
            for number, (down, along) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
                there = (row + down, column + along)
                if not (0 <= there[0] < rows and 0 <= there[1] < columns) or there == wall:
                    there = (row, column)
                over = (row, column) in (apple, wall)  # where nobody is, or nothing happens any more
                reward = 0.0 if over else {apple: 1.0, bomb: -1.0}.get(there, 0.0)
                after = there[0] * columns + there[1]
                outcomes[row * columns + column][number] = [(1.0, after, reward, over or there == apple)]
    starts = np.eye(rows * columns)[(rows - 1) * columns]
    return Decisions(outcomes, starts, 0.9, (rows, columns), "↑↓←→")


def toy_text(name: str, discount: float) -> Decisions:
    """An environment of gymnasium's toy_text; raises ConfigError for one without tables."""
    env: Any = Environments(name).envs[0].unwrapped
    if not hasattr(env, "P"):
        raise ConfigError(f"{name} has no tables of what may happen; choose one of gymnasium's toy_text")
    shape = (env.nrow, env.ncol) if hasattr(env, "ncol") else getattr(env, "shape", None)
    arrows = {"FrozenLake": "←↓→↑", "CliffWalking": "↑→↓←"}.get(name.partition("-")[0], "")
    return Decisions(env.P, env.initial_state_distrib, discount, shape, arrows)


def problems() -> dict[str, Decisions]:
    return {
        "3 × 4 grid": grid(),
        "FrozenLake-v1": toy_text("FrozenLake-v1", 0.99),
        "CliffWalking-v1": toy_text("CliffWalking-v1", 0.99),
        "Taxi-v4": toy_text("Taxi-v4", 0.99),
    }


def line(problem: str, method: str, value: float, reached: float, error: float) -> dict[str, float | str]:
    """A row of the table: what a method says the start is worth, what its policy makes of it, and how wrong it is."""
    return {
        "problem": problem,
        "method": method,
        "value at the start": float(value),
        "of its policy": float(reached),
        "error": float(error),
    }


def draw_map(axes: "Axes", decisions: Decisions, values: np.ndarray, policy: np.ndarray | None = None) -> None:
    """Values [S] as colours and numbers, and the actions of a policy [S, A] as arrows, where one may be."""
    assert decisions.shape is not None
    rows, columns = decisions.shape
    shown = values.reshape(rows, columns)
    alive = decisions.visited()
    limit = max(float(np.abs(values[alive]).max()), 1e-9)
    axes.set_facecolor("0.8")
    axes.imshow(np.ma.masked_where(~alive.reshape(rows, columns), shown), cmap="RdYlGn", vmin=-limit, vmax=limit)
    for s in np.flatnonzero(alive).tolist():
        row, column = divmod(s, columns)
        arrow = "" if policy is None else decisions.arrows[int(policy[s].argmax())]
        number = f"{values[s]:.2f}" if limit < 10 else f"{values[s]:.1f}" if limit < 100 else f"{values[s]:.0f}"
        axes.text(column, row, f"{arrow}\n{number}".strip(), ha="center", va="center", fontsize=9 if columns < 6 else 7)
    axes.set(xticks=[], yticks=[])
