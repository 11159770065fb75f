"""Muon for the matrices of hidden layers, AdamW for all else: Jordan et al. 2024, *Muon: an optimizer for hidden layers in
neural networks*."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dlref import operators
from dlref.hardware import multiplies_bf16
from dlref.optimizers.adam import AdamW

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the iteration, as published


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:  # [G, N, M] -> [G, N, M]
    """Near U Vᵀ of each U S Vᵀ, with singular values of about 0.7 to 1.2: `equations.optimizers.orthogonal`.

    Computed in bfloat16 where the hardware multiplies it natively, which is accurate enough, else in float32; float64 is kept.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    if x.dtype != torch.float64:
        x = x.to(iteration_dtype(x.device))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def iteration_dtype(device: torch.device) -> torch.dtype:
    """The number format of the iteration. bfloat16 is emulated on CPUs without it, where it takes up to 50 times as long."""
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


class Matrices(torch.optim.Optimizer):
    """The steps of torch.optim.Muon; matrices of one shape are orthogonalized together, which is faster."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        if min(lr, momentum, weight_decay) < 0:
            raise ValueError(f"lr is {lr}, momentum {momentum} and weight_decay {weight_decay}; each must be 0 or more")
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for p in parameters:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            gradients = [p.grad for p in parameters]
            means = [self.state[p]["momentum_buffer"] for p in parameters]
            operators.interpolate_(means, gradients, 1 - group["momentum"])
            updates = operators.interpolated(gradients, means, group["momentum"])
            if group["weight_decay"]:
                operators.multiply_(parameters, 1 - group["lr"] * group["weight_decay"])
            shapes: dict[torch.Size, list[int]] = {}
            for number, p in enumerate(parameters):
                shapes.setdefault(p.shape, []).append(number)
            for (rows, columns), numbers in shapes.items():
                made = orthogonalized(torch.stack([updates[number] for number in numbers]))
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                operators.add_([parameters[number] for number in numbers], list(made.to(updates[0].dtype)), alpha=-rate)


class Muon(torch.optim.Optimizer):
    """One optimizer of both, whose groups and state are theirs: it has none of its own, and is not set up as torch's are.

    `lr` is that of the matrices, whose updates have singular values of about 1; `others_lr` that of AdamW for what `tables`
    names (what is looked up by words, or scores them) and for all that is no matrix. Weight decay is the same for both.
    """

    def __init__(
        self,
        params: Iterable[Any],
        tables: Sequence[Tensor] = (),
        lr: float = 0.02,
        others_lr: float = 3e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        groups = [each if isinstance(each, dict) else {"params": [each]} for each in params]
        given = {id(table) for table in tables}
        matrices = [p for group in groups for p in group["params"] if p.ndim == 2 and id(p) not in given]
        chosen = {id(p) for p in matrices}
        rest = [group | {"params": [p for p in group["params"] if id(p) not in chosen]} for group in groups]
        rest = [group for group in rest if group["params"]]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Matrices(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay))
        if rest:
            self.parts.append(AdamW(rest, lr=others_lr, betas=betas, weight_decay=weight_decay, fused=True))

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        parts = state_dict.get("parts")
        if not isinstance(parts, list) or len(parts) != len(self.parts):
            raise ValueError("it is not a state of Muon")
        for part, saved in zip(self.parts, parts, strict=True):
            part.load_state_dict(saved)
