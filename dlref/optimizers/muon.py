"""Muon for the weight matrices of hidden layers, AdamW for all other parameters.

Jordan et al. 2024, *Muon: an optimizer for hidden layers in neural networks*.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dlref import operators
from dlref.hardware import multiplies_bf16
from dlref.optimizers.adam import AdamW

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the iteration, as published


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:  # [G, N, M] -> [G, N, M]
    """Orthogonalized matrices by five Newton–Schulz steps: approximately U Vᵀ of U S Vᵀ, singular values 0.7 to 1.2.

    The equation is `equations.optimizers.orthogonal`.
    Computed in bfloat16 where the hardware multiplies it natively, else in float32; float64 stays float64.
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


class MatrixMuon(torch.optim.Optimizer):
    """torch.optim.Muon, except that matrices of the same shape are orthogonalized in one batch, which is faster."""

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
            momenta = [self.state[p]["momentum_buffer"] for p in parameters]
            operators.interpolate_(momenta, gradients, 1 - group["momentum"])
            updates = operators.interpolated(gradients, momenta, group["momentum"])
            if group["weight_decay"]:
                operators.multiply_(parameters, 1 - group["lr"] * group["weight_decay"])
            indices_by_shape: dict[torch.Size, list[int]] = {}
            for index, p in enumerate(parameters):
                indices_by_shape.setdefault(p.shape, []).append(index)
            for (rows, columns), indices in indices_by_shape.items():
                directions = orthogonalized(torch.stack([updates[i] for i in indices])).to(updates[0].dtype)
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                operators.add_([parameters[i] for i in indices], list(directions), alpha=-rate)


class Muon(torch.optim.Optimizer):
    """Muon for hidden matrices and AdamW for the rest, as one optimizer with the parameter groups and the state of both.

    `lr` is the learning rate of the matrices, whose updates have singular values of about 1; `adamw_lr` is that of AdamW, for
    `tables` (embeddings and the output layer), biases and norms. Weight decay is the same for both.
    """

    def __init__(
        self,
        params: Iterable[Any],
        tables: Sequence[Tensor] = (),
        lr: float = 0.02,
        adamw_lr: float = 3e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        groups = [each if isinstance(each, dict) else {"params": [each]} for each in params]
        table_ids = {id(table) for table in tables}
        matrices = [p for group in groups for p in group["params"] if p.ndim == 2 and id(p) not in table_ids]
        matrix_ids = {id(p) for p in matrices}
        rest = [group | {"params": [p for p in group["params"] if id(p) not in matrix_ids]} for group in groups]
        rest = [group for group in rest if group["params"]]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(MatrixMuon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay))
        if rest:
            self.parts.append(AdamW(rest, lr=adamw_lr, betas=betas, weight_decay=weight_decay, fused=True))

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
