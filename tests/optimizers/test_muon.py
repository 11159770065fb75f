"""Muon: what it makes of matrices is torch's and the equation's, what it makes of all else is AdamW's, and it resumes."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.equations import optimizers
from dlref.errors import CheckpointError
from dlref.optimizers.muon import MatrixMuon, Muon, orthogonalized
from dlref.training.state import load_optimizer
from tests.proofs.harness import EXACT
from tests.proofs.test_optimizer_equations import exact_muon

SHAPES = [(16, 16), (8, 40), (40, 8), (24, 96), (96, 24), (7, 5), (1, 6), (6, 1)]  # square, wide, tall, a row, a column
ROUNDED = 0.05  # what bfloat16 adds up to within five rounds of numbers of about 1


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_matrices_become_nearly_orthogonal_and_keep_their_singular_vectors(shape: tuple[int, int]) -> None:
    """Those of a two hundredth of its length and more become about 1; smaller ones grow too, but not all the way."""
    matrices = normal(4, *shape)
    u, sizes, v = torch.linalg.svd(matrices, full_matrices=False)
    rotated = u.mT @ orthogonalized(matrices).float() @ v.mT
    made = rotated.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(rotated, torch.diag_embed(made), rtol=0, atol=ROUNDED)
    found = made[sizes > sizes.norm(dim=1, keepdim=True) / 200]
    assert found.min() > 0.65
    assert found.max() < 1.25
    assert len(found) > 0.9 * made.numel()


@pytest.mark.parametrize("shape", SHAPES)
def test_many_matrices_at_once_are_each_by_itself(shape: tuple[int, int]) -> None:
    """Whatever their lengths are, and if one is 0."""
    matrices = normal(4, *shape) * torch.tensor([1.0, 1e-3, 0.0, 1e3])[:, None, None]
    together = orthogonalized(matrices).float()
    alone = [orthogonalized(matrix[None])[0].float() for matrix in matrices]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=ROUNDED)
    assert not together[2].any()


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2), (1, 4), (4, 1)])
@pytest.mark.parametrize("steps", [1, 5])
def test_orthogonalization_equals_its_equation_up_to_rounding(shape: tuple[int, int], steps: int) -> None:
    matrices = normal(2, *shape).double()
    expected = torch.stack([optimizers.orthogonal(matrix, steps) for matrix in matrices])
    torch.testing.assert_close(orthogonalized(matrices, steps).double(), expected, rtol=0, atol=ROUNDED)
    with exact_muon():
        torch.testing.assert_close(orthogonalized(matrices, steps), expected, **EXACT)


def moved(make: Any, dtype: torch.dtype) -> list[Tensor]:
    """MatrixMuon of some shapes, of which two are alike, after several steps; one goes without a gradient in one of them."""
    parameters = [
        nn.Parameter(normal(*shape, seed=n).to(dtype)) for n, shape in enumerate([(4, 6), (6, 4), (4, 6), (5, 5)])
    ]
    optimizer = make(parameters)
    for step in range(6):
        for number, p in enumerate(parameters):
            p.grad = None if (number, step) == (0, 2) else normal(*p.shape, seed=10 * step + number).to(dtype)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.step()
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"momentum": 0.8, "weight_decay": 0.3}])
def test_the_steps_of_matrices_are_those_of_torch(settings: dict[str, Any]) -> None:
    with exact_muon():
        mine, theirs = (
            moved(lambda p, make=make: make(p, lr=0.1, **settings), torch.float64)
            for make in (MatrixMuon, torch.optim.Muon)
        )
        torch.testing.assert_close(mine, theirs, **EXACT)
    mine, theirs = (
        moved(lambda p, make=make: make(p, lr=0.1, **settings), torch.float32)
        for make in (MatrixMuon, torch.optim.Muon)
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0.1 * ROUNDED)


class Net(nn.Module):
    """A table that is looked up, hidden matrices with biases, and an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 5)
        self.hidden = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 5))
        self.out = nn.Linear(5, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.hidden(self.table(tokens)))

    @property
    def tables(self) -> list[nn.Parameter]:
        return [self.table.weight, self.out.weight]

    @property
    def matrices(self) -> list[nn.Parameter]:
        return [self.hidden[0].weight, self.hidden[2].weight]

    @property
    def others(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.ndim == 1]


def network() -> Net:
    torch.manual_seed(0)
    return Net()


def backward(net: Net, step: int) -> None:
    net.zero_grad()
    tokens = torch.randint(9, (8,), generator=torch.Generator().manual_seed(step))
    nn.functional.cross_entropy(net(tokens), tokens.roll(1)).backward()


def muon(net: Net) -> Muon:
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1]},
        {"params": net.others, "weight_decay": 0.0},
    ]
    return Muon(groups, net.tables, lr=0.03, adamw_lr=0.02, weight_decay=0.4)


def test_tables_and_vectors_are_moved_by_adamw_and_matrices_as_matrices() -> None:
    """Bit for bit, with the weight decay of the groups."""
    mine, theirs = network(), network()
    optimizer = muon(mine)
    others = torch.optim.AdamW(
        [{"params": theirs.tables}, {"params": theirs.others, "weight_decay": 0.0}],
        lr=0.02,
        betas=(0.9, 0.95),
        weight_decay=0.4,
        fused=True,
    )
    matrices = MatrixMuon(theirs.matrices, lr=0.03, momentum=0.95, weight_decay=0.4)
    for step in range(5):
        for net in (mine, theirs):
            backward(net, step)
        for each in (optimizer, others, matrices):
            each.step()
    assert_same(mine, theirs)


def assert_same(mine: Net, theirs: Net) -> None:
    for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_parameters_may_be_given_one_by_one_and_of_one_kind_alone() -> None:
    for chosen in (lambda net: net.matrices, lambda net: net.others):
        net, before = network(), network()
        optimizer = Muon(iter(chosen(net)), net.tables)
        backward(net, 0)
        optimizer.step()
        moved = {id(p) for p in chosen(net)}
        for p, old in zip(net.parameters(), before.parameters(), strict=True):
            assert torch.equal(p, old) != (id(p) in moved)


def saved(optimizer: Muon) -> Any:
    """Its state as a checkpoint keeps it: written, and read as data."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_resumed_optimizer_goes_on_bit_for_bit() -> None:
    net = network()
    optimizer = muon(net)
    for step in range(6):
        if step == 3:
            resumed = copy.deepcopy(net)
            other = muon(resumed)
            load_optimizer(other, saved(optimizer), "the checkpoint")
        backward(net, step)
        optimizer.step()
    for step in range(3, 6):
        backward(resumed, step)
        other.step()
    assert_same(resumed, net)
    for mine, theirs in zip(saved(other)["parts"], saved(optimizer)["parts"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_rates_that_are_written_into_its_groups_hold() -> None:
    """Of each group by itself, also after it has been resumed."""
    for number, group in enumerate(muon(network()).param_groups):
        assert group["lr"] == (0.02 if number else 0.03)
        for resumed in (False, True):
            net = network()
            optimizer = muon(net)
            backward(net, 0)
            optimizer.step()
            if resumed:
                load_optimizer(optimizer, saved(optimizer), "the checkpoint")
            before = [p.detach().clone() for p in net.parameters()]
            for other, each in enumerate(optimizer.param_groups):
                each["lr"] *= other == number
            moving = {id(p) for p in optimizer.param_groups[number]["params"]}
            optimizer.step()
            for p, old in zip(net.parameters(), before, strict=True):
                assert torch.equal(p, old) != (id(p) in moving)


def test_gradients_are_forgotten() -> None:
    net = network()
    backward(net, 0)
    muon(net).zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_a_state_that_is_another_optimizers_is_refused() -> None:
    net = network()
    adamw = torch.optim.AdamW(net.parameters())
    with pytest.raises(ValueError, match="Muon"):
        muon(net).load_state_dict(adamw.state_dict())
    for other in (adamw, Muon(net.matrices), torch.optim.SGD(net.parameters())):
        with pytest.raises(CheckpointError, match="step-5 is of another optimizer"):
            load_optimizer(muon(net), other.state_dict(), "step-5")
    with pytest.raises(CheckpointError, match="step-5 is of another optimizer"):
        load_optimizer(adamw, muon(net).state_dict(), "step-5")
