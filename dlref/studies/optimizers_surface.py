"""Four optimizers on f(x, y) = x²/20 + y², a long valley (*Deep Learning from Scratch*, section 6.1)."""

import torch

from dlref.studies import Result


def study(steps: int = 30) -> Result:
    """Paths from (-7, 2) at the book's learning rates; the table has their ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    table: list[dict[str, float | str]] = []
    x, y = torch.meshgrid(torch.linspace(-10, 10, 200), torch.linspace(-5, 5, 200), indexing="xy")
    for axes, name in zip(figure.subplots(2, 2).flat, ("SGD", "momentum", "AdaGrad", "Adam"), strict=True):
        point = torch.tensor([-7.0, 2.0], requires_grad=True)
        optimizer: torch.optim.Optimizer = {
            "SGD": lambda p: torch.optim.SGD(p, lr=0.95),
            "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            "AdaGrad": lambda p: torch.optim.Adagrad(p, lr=1.5),
            "Adam": lambda p: torch.optim.Adam(p, lr=0.3),
        }[name]([point])
        path = [point.detach().clone()]
        for _ in range(steps):
            optimizer.zero_grad()
            height(*point).backward()
            optimizer.step()
            path.append(point.detach().clone())
        points = torch.stack(path)
        axes.contour(x, y, height(x, y), levels=torch.linspace(0.2, 12, 14).tolist(), colors="0.8", linewidths=0.8)
        axes.plot(points[:, 0], points[:, 1], "o-", color="C0", markersize=3, linewidth=1)
        axes.plot(0, 0, "+", color="C3", markersize=10)
        axes.set(title=f"{name}: f = {height(*points[-1]):.2g} after {steps} steps", xlim=(-10, 10), ylim=(-5, 5))
        length = float((points[1:] - points[:-1]).norm(dim=1).sum())
        end = height(*points[-1])
        table.append(
            {
                "optimizer": name,
                "x": float(points[-1, 0]),
                "y": float(points[-1, 1]),
                "f": float(end),
                "path length": length,
            }
        )
    return Result(table, {"optimizers_surface": figure})


def height(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x**2 / 20 + y**2
