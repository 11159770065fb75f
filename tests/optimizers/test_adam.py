"""Adam and AdamW with cached tensors take torch's steps, to the last bit."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.optimizers.adam import Adam, AdamW


def trained(make: Any, **settings: Any) -> tuple[list[Tensor], dict[str, Any]]:
    """Weights and state of two groups after 12 steps, one without a gradient for one group, and an earlier state loaded."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    weights, biases = ([getattr(layer, name) for layer in net] for name in ("weight", "bias"))
    optimizer = make([{"params": weights}, {"params": biases, "weight_decay": 0.1}], lr=0.01, **settings)
    for number in range(12):
        if number == 3:
            earlier = copy.deepcopy(optimizer.state_dict())
        if number == 5:
            optimizer.load_state_dict(earlier)
        x = torch.randn(7, 5)
        net.zero_grad()
        (x @ weights[0].T @ weights[1].T if number == 8 else net(x)).square().sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + number)
        optimizer.step()
    return [p.detach() for p in net.parameters()], optimizer.state_dict()["state"]


@pytest.mark.parametrize(("mine", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
@pytest.mark.parametrize(
    "settings",
    [{}, {"weight_decay": 0.3, "betas": (0.8, 0.9)}, {"maximize": True}, {"amsgrad": True}, {"fused": False}],
)
def test_its_steps_are_those_of_torch(mine: Any, theirs: Any, settings: dict[str, Any]) -> None:
    settings = {"fused": True} | settings
    (weights, state), (expected, moments) = trained(mine, **settings), trained(theirs, **settings)
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
    for number in range(4):
        assert all(torch.equal(state[number][name], moments[number][name]) for name in moments[number])


def test_a_usual_step_collects_no_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Linear(2, 2)
    optimizer = Adam(net.parameters(), fused=True)
    for _ in range(3):
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        monkeypatch.setattr(torch.optim.Adam, "_init_group", lambda *_: pytest.fail("collected again"))
        assert optimizer.cache is not None
