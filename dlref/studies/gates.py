"""AND, NAND, OR and XOR with one unit and with two layers (*Deep Learning from Scratch*, chapter 2)."""

import torch

from dlref.data.supervised.gates import OUTPUTS, Gate
from dlref.models.mlp import MLP
from dlref.objectives.supervised import MultiLabel, Perceptron, Supervised
from dlref.studies import Result


def study(steps: int = 200, seed: int = 0) -> Result:
    """One unit by Rosenblatt's rule; two layers, with four hidden units, by Adam on the binary cross-entropy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    grid = figure.subplots(2, 4, sharex=True, sharey=True)
    table: list[dict[str, float | str]] = []
    coordinates = torch.linspace(-0.4, 1.4, 150)
    plane = torch.cartesian_prod(coordinates, coordinates)
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
                correct = int(((net(inputs) > 0) == (targets > 0.5)).sum())
                is_one = (net(plane) > 0).view(len(coordinates), len(coordinates)).T
            row[kind] = f"{correct} of 4"
            axes.contourf(coordinates, coordinates, is_one, levels=[-0.5, 0.5, 1.5], colors=["C0", "C1"], alpha=0.25)
            axes.scatter(inputs[:, 0], inputs[:, 1], c=[f"C{int(t)}" for t in targets.flatten()], s=50, edgecolors="k")
            axes.set(title=f"{name.upper()}, {kind}: {correct} of 4", aspect="equal", xticks=[0, 1], yticks=[0, 1])
        table.append(row)
    return Result(table, {"gates": figure})
