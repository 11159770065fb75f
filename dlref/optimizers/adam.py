"""Adam and AdamW for small networks, with the steps of torch.optim: Kingma & Ba 2015, Loshchilov & Hutter 2019."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlref import operators


class GroupTensors(NamedTuple):
    """The tensors of a parameter group, as the fused operator takes them."""

    params: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    step_counts: list[Tensor]


class CachedFusedStep:
    """torch's fused Adam step, bit for bit, with its tensors collected once instead of at every step.

    Collecting them takes torch several times as long as the step of a small network itself. Settings other than the usual
    ones, parameters without a gradient, and a torch without the fused operators take the plain step: `super().step()`.
    Hooks on steps are not called.
    """

    cache: list[GroupTensors] | None = None  # one for each parameter group
    distinct_counts: tuple[Tensor, ...] = ()  # parameters that are updated together share one step count

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        optimizer: Any = self
        gradients = [[p.grad for p in group["params"]] for group in optimizer.param_groups]
        if (
            self.cache is None
            or closure is not None
            or any(g is None or g.is_sparse for group in gradients for g in group)
        ):
            self.write_step_counts()
            loss = super().step(closure)  # type: ignore[misc]
            self.cache = self.collect()
            return loss
        for count in self.distinct_counts:
            count += 1
        for group, grads, tensors in zip(optimizer.param_groups, gradients, self.cache, strict=True):
            if not tensors.params:
                continue
            operators.fused_adam(group["decoupled_weight_decay"])(  # type: ignore[misc] # `collect` saw that it is there
                tensors.params,
                grads,
                tensors.exp_avgs,
                tensors.exp_avg_sqs,
                [],
                tensors.step_counts,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=group["maximize"],
            )
        return None

    # torch would wrap it for its profiler, which takes time in small steps too; one that ignores this wraps it, no more.
    step.hooked = True  # type: ignore[attr-defined]

    def collect(self) -> list[GroupTensors] | None:
        """The tensors of all groups, or None where the fused operator cannot take them."""
        cache = []
        counts: dict[float, Tensor] = {}
        for group in self.param_groups:  # type: ignore[attr-defined]
            states = [self.state.get(p, {}) for p in group["params"]]  # type: ignore[attr-defined]
            has_operator = operators.fused_adam(group["decoupled_weight_decay"]) is not None
            has_moments = all("exp_avg" in state for state in states)
            if not (has_operator and has_moments and group["fused"]) or group["amsgrad"]:
                return None
            step_counts = [counts.setdefault(float(state["step"]), state["step"].clone()) for state in states]
            exp_avgs, exp_avg_sqs = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
            cache.append(GroupTensors(group["params"], exp_avgs, exp_avg_sqs, step_counts))
        self.distinct_counts = tuple(counts.values())
        return cache

    def write_step_counts(self) -> None:
        """Copy the step counts to where torch keeps them."""
        for tensors in self.cache or []:
            for parameter, count in zip(tensors.params, tensors.step_counts, strict=True):
                self.state[parameter]["step"].copy_(count)  # type: ignore[attr-defined]

    def state_dict(self) -> Any:
        self.write_step_counts()
        return super().state_dict()  # type: ignore[misc]

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)  # type: ignore[misc]
        self.cache = None  # the moments are other tensors now


class Adam(CachedFusedStep, torch.optim.Adam):
    """torch.optim.Adam with cached tensors."""


class AdamW(CachedFusedStep, torch.optim.AdamW):
    """torch.optim.AdamW with cached tensors."""
