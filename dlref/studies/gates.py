"""What one unit can learn and what takes two layers: AND, NAND, OR, XOR (*Deep Learning from Scratch*, chapter 2)."""

import torch

from dlref.data.supervised.gates import OUTPUTS, Gate
from dlref.models.mlp import MLP
from dlref.objectives.supervised import MultiLabel, Perceptron, Supervised
from dlref.studies import Result


def study(steps: int = 200, seed: int = 0) -> Result:
    """Rosenblatt's rule for one unit; for two layers (four hidden units) Adam on the cross-entropy of a sigmoid."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    grid = figure.subplots(2, 4, sharex=True, sharey=True)
    table: list[dict[str, float | str]] = []
    side = torch.linspace(-0.4, 1.4, 150)
    plane = torch.cartesian_prod(side, side)
    for column, name in enumerate(OUTPUTS):
        inputs, targets = Gate(name).split("train")
        torch.manual_seed(seed)
        nets = {"one unit": MLP(2, 1, [], init=0.0), "two layers": MLP(2, 1, [4], activation="tanh", init=1.0)}
        row: dict[str, float | str] = {"gate": name.upper()}
        for axes, (kind, net) in zip(grid[:, column], nets.items(), strict=True):
            objective: Supervised
            optimizer: torch.optim.Optimizer
            if kind == "one unit":
                objective, optimizer, size = Perceptron(net), torch.optim.SGD(net.parameters(), lr=1.0), 1
            else:
                objective, optimizer, size = MultiLabel(net), torch.optim.Adam(net.parameters(), lr=0.1), 4
            for step in range(steps):
                rows = slice(step % 4, step % 4 + 1) if size == 1 else slice(4)
                loss = objective.totals(net(inputs[rows]), targets[rows])["loss"].total
                optimizer.zero_grad()
                (torch.as_tensor(loss) / size).backward()
                optimizer.step()
            with torch.no_grad():
                right = int(((net(inputs) > 0) == (targets > 0.5)).sum())
                above = (net(plane) > 0).view(len(side), len(side)).T
            row[kind] = f"{right} of 4"
            axes.contourf(side, side, above, levels=[-0.5, 0.5, 1.5], colors=["C0", "C1"], alpha=0.25)
            axes.scatter(inputs[:, 0], inputs[:, 1], c=[f"C{int(t)}" for t in targets.flatten()], s=50, edgecolors="k")
            axes.set(title=f"{name.upper()}, {kind}: {right} of 4", aspect="equal", xticks=[0, 1], yticks=[0, 1])
        table.append(row)
    return Result(table, {"gates": figure})
