"""Adam and AdamW, as torch has them, for small networks: Kingma & Ba 2015, Loshchilov & Hutter 2019."""

from typing import Any

import torch
from torch import Tensor

from dlref import operators


class Prompt:
    """torch's fused step, bit for bit, of tensors that are looked up once.

    To look them up anew takes torch several times as long as a small network's step itself. Settings other than the usual
    ones, parameters without a gradient, and a torch without the fused operators take the step of torch.optim. Hooks on its
    steps are not called.
    """

    found: list[tuple[list[Tensor], ...]] | None = None  # parameters, moments and step counts of each group
    counts: tuple[Tensor, ...] = ()  # the step counts, each once: parameters that are updated together share one

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        optimizer: Any = self
        gradients = [[p.grad for p in group["params"]] for group in optimizer.param_groups]
        if (
            self.found is None
            or closure is not None
            or any(g is None or g.is_sparse for some in gradients for g in some)
        ):
            self.tell()
            loss = super().step(closure)  # type: ignore[misc]
            self.found = self.find()
            return loss
        for count in self.counts:
            count += 1
        for group, grads, (params, means, squares, steps) in zip(
            optimizer.param_groups, gradients, self.found, strict=True
        ):
            if not params:
                continue
            operators.fused_adam(group["decoupled_weight_decay"])(  # type: ignore[misc] # `find` saw that it is there
                params,
                grads,
                means,
                squares,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=group["maximize"],
            )
        return None

    # torch would wrap it for its profiler, which small steps notice too; one that ignores this wraps it, no more.
    step.hooked = True  # type: ignore[attr-defined]

    def find(self) -> list[tuple[list[Tensor], ...]] | None:
        found = []
        counts: dict[float, Tensor] = {}
        for group in self.param_groups:  # type: ignore[attr-defined]
            states = [self.state.get(p, {}) for p in group["params"]]  # type: ignore[attr-defined]
            absent = operators.fused_adam(group["decoupled_weight_decay"]) is None
            if absent or not group["fused"] or group["amsgrad"] or any("exp_avg" not in state for state in states):
                return None
            steps = [counts.setdefault(float(state["step"]), state["step"].clone()) for state in states]
            found.append((group["params"], *([s[n] for s in states] for n in ("exp_avg", "exp_avg_sq")), steps))
        self.counts = tuple(counts.values())
        return found

    def tell(self) -> None:
        """torch's own place of the step counts is told them."""
        for params, *_, steps in self.found or []:
            for parameter, count in zip(params, steps, strict=True):
                self.state[parameter]["step"].copy_(count)  # type: ignore[attr-defined]

    def state_dict(self) -> Any:
        self.tell()
        return super().state_dict()  # type: ignore[misc]

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)  # type: ignore[misc]
        self.found = None  # the moments are others now


class Adam(Prompt, torch.optim.Adam):
    """torch.optim.Adam, prompt."""


class AdamW(Prompt, torch.optim.AdamW):
    """torch.optim.AdamW, prompt."""
