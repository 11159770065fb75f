"""The optimizers as the command builds them take the steps of torch.optim; the CNN is plain torch.nn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.data.supervised.in_memory import Examples
from dlref.metrics import Mean, Totals
from dlref.models.cnn import CNN
from dlref.models.strided_cnn import StridedCNN
from dlref.models.transformer_lm import TransformerLM
from dlref.objectives import Objective
from dlref.objectives.supervised import Classification
from dlref.optimizers import muon
from tests.crosschecks.conftest import Agree
from tests.crosschecks.rows import crosscheck
from tests.crosschecks.trained import train
from tests.proofs.test_optimizer_equations import exact_muon

STEPS = 8
PLAIN = {"foreach": False, "fused": False}  # torch's slow path, one tensor at a time


class Products(Objective):
    """Its gradient at each weight is what the batch holds, and a pull towards 0.3 that depends on the weights."""

    def forward(self, batch: list[Tensor]) -> Totals:
        weights = list(self.net.parameters())
        pull = sum(((p - 0.3) ** 2).sum() for p in weights)
        return {"loss": Mean(pull + sum((p * g).sum() for p, g in zip(weights, batch, strict=True)), 1)}


class Shapes(nn.Module):
    """Tensors of several shapes: a number, vectors, matrices, a kernel of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(), (1,), (5,), (4, 6), (6, 4), (1, 3), (3, 2, 3, 3)]
        self.tensors = nn.ParameterList(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def batches(net: nn.Module) -> list[list[Tensor]]:
    """What is added to the gradients, smaller and larger; in one step nothing."""
    return [[torch.randn_like(p) * scale for p in net.parameters()] for scale in (1, 1e-3, 10, 0, 1, 1, 1e-6, 3)]


def step_by_step(optimizer: Any, objective: Objective, given: list[Any]) -> None:
    for batch in given:
        optimizer.zero_grad()
        loss = objective(batch)["loss"]
        (loss.total / loss.count).backward()
        optimizer.step()


def both(
    make: Callable[[Any], Any],
    typed: list[str],
    agree: Agree,
    net: Callable[[], nn.Module] = Shapes,
    atol: float = 1e-10,
) -> None:
    """The trainer with these settings, and torch's optimizer, from the same weights."""
    ours, theirs = Products(net()), Products(net())
    theirs.load_state_dict(ours.state_dict())
    given = batches(ours.net)
    train(ours, given, *typed)
    step_by_step(make(theirs), theirs, given)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        agree(one, other, atol=atol)


def decayed(objective: Objective, decay: float) -> list[dict[str, Any]]:
    """Weight decay of matrices and kernels, none of vectors and numbers."""
    return [
        {"params": [p for p in objective.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in objective.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]


OPTIMIZERS: dict[str, tuple[list[str], Callable[[Objective], Any]]] = {
    "sgd": (["optimizer=sgd"], lambda o: torch.optim.SGD(o.parameters(), lr=0.1, **PLAIN)),
    "momentum": (
        ["optimizer=sgd", "optimizer.momentum=0.9"],
        lambda o: torch.optim.SGD(o.parameters(), lr=0.1, momentum=0.9, **PLAIN),
    ),
    "nesterov": (
        ["optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true", "optimizer.weight_decay=0.1"],
        lambda o: torch.optim.SGD(decayed(o, 0.1), lr=0.1, momentum=0.9, nesterov=True, **PLAIN),
    ),
    "adagrad": (["optimizer=adagrad"], lambda o: torch.optim.Adagrad(o.parameters(), lr=0.01, **PLAIN)),
    "rmsprop": (["optimizer=rmsprop"], lambda o: torch.optim.RMSprop(o.parameters(), lr=0.001, foreach=False)),
    "adam": (["optimizer=adam"], lambda o: torch.optim.Adam(o.parameters(), lr=0.002, **PLAIN)),
    "adam with L2": (
        ["optimizer=adam", "optimizer.weight_decay=0.1", "optimizer.betas=[0.8,0.95]"],
        lambda o: torch.optim.Adam(decayed(o, 0.1), lr=0.002, betas=(0.8, 0.95), **PLAIN),
    ),
    "adamw": (["optimizer=adamw"], lambda o: torch.optim.AdamW(decayed(o, 0.01), lr=0.001, **PLAIN)),
    "adamw_recurrent": (
        ["optimizer=adamw_recurrent"],
        lambda o: torch.optim.AdamW(decayed(o, 0.01), lr=0.004, **PLAIN),
    ),
}


@crosscheck(
    "SGD, momentum, Nesterov, Adagrad, RMSprop, Adam and AdamW: eight steps",
    "torch",
    "the trainer with `optimizer=` of each config against torch.optim on single tensors; seven shapes",
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str, agree: Agree) -> None:
    typed, make = OPTIMIZERS[name]
    both(make, typed, agree)


WARMUP = 3


def warmed_up(optimizer: Any, fall: Callable[[Any], Any]) -> Any:
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARMUP, 1.0, WARMUP - 1)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall(optimizer)], [WARMUP])


def cosine(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - WARMUP, eta_min=0.2 * 0.001)


def linear(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, STEPS - WARMUP)


def inverse_square_root(optimizer: Any) -> Any:
    """Vaswani et al. 2017, equation 3, over its largest value; dlref is one step later after the warm-up."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / WARMUP, (WARMUP / max(done, 1)) ** 0.5)
    )


SCHEDULES: dict[str, tuple[list[str], Callable[[Any], Any]]] = {
    "cosine": (["schedule=cosine", "+schedule.final=0.2"], lambda optimizer: warmed_up(optimizer, cosine)),
    "linear": (["schedule=linear", "+schedule.final=0.2"], lambda optimizer: warmed_up(optimizer, linear)),
    "inverse square root": (["schedule=inverse_square_root"], inverse_square_root),
}


@crosscheck(
    "learning rates that warm up and fall: eight steps of AdamW",
    "torch",
    "`LinearLR` for three steps, then `CosineAnnealingLR` or `LinearLR` to a fifth for five; the inverse square root as "
    "`LambdaLR`",
)
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str, agree: Agree) -> None:
    typed, schedule = SCHEDULES[name]

    def make(objective: Objective) -> Any:
        optimizer = torch.optim.AdamW(decayed(objective, 0.01), lr=0.001, **PLAIN)
        rates = schedule(optimizer)
        optimizer.register_step_post_hook(lambda *_: rates.step())
        return optimizer

    both(make, ["optimizer=adamw", f"+schedule.warmup={WARMUP / STEPS}", *typed], agree)


@crosscheck("clipped gradients: eight steps of SGD", "torch", "`trainer.clip_norm` is `clip_grad_norm_`")
def test_clipping(agree: Agree) -> None:
    def make(objective: Objective) -> Any:
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, **PLAIN)
        optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(objective.parameters(), 20.0) and None)
        return optimizer

    # torch adds 1e-6 to the norm, which is above 20 where it is clipped.
    both(make, ["optimizer=sgd", "trainer.clip_norm=20"], agree, atol=1e-7)


class TwoOptimizers:
    """torch.optim.Muon for some parameters, AdamW for the others."""

    def __init__(self, matrices: list[Tensor], others: list[Tensor], decay: float) -> None:
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.parts = [
            torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=decay),
            torch.optim.AdamW(groups, lr=0.003, betas=(0.9, 0.95), **PLAIN),
        ]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()


def same_muon(decay: float, dtype: torch.dtype, atol: float, agree: Agree) -> None:
    def make(objective: Objective) -> TwoOptimizers:
        net: Any = objective.net
        matrices = [p for p in net.blocks.parameters() if p.ndim == 2]
        others = [*net.embed.parameters(), net.out.weight, *(p for p in net.parameters() if p.ndim < 2)]
        assert len(matrices) + len(others) == len(list(net.parameters())) > len(matrices) > 4
        assert {p.dtype for p in net.parameters()} == {dtype}
        return TwoOptimizers(matrices, others, decay)

    def net() -> nn.Module:
        settings: Any = {"norm": "layer", "positions": "learned", "tied": False, "bias": True}
        return TransformerLM(11, 8, 8, 2, 2, hidden=20, **settings).to(dtype)

    typed = ["optimizer=muon", f"+optimizer.weight_decay={decay}"]
    typed += ["trainer.precision=float32"] if dtype == torch.float32 else []
    with exact_muon():
        both(make, typed, agree, net=net, atol=atol)


@crosscheck(
    "Muon, with AdamW for all but hidden matrices: eight steps of a Transformer's weights",
    "torch",
    "torch.optim.Muon without its rounding to bfloat16; torch.optim.AdamW for embeddings, output layer and vectors",
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon(decay: float, agree: Agree) -> None:
    same_muon(decay, torch.float64, 1e-10, agree)


@crosscheck("Muon in float32: eight steps of a Transformer's weights", "torch", "the same")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_in_float32(decay: float, monkeypatch: pytest.MonkeyPatch, agree: Agree) -> None:
    # Where the processor multiplies bfloat16, dlref would iterate in it.
    monkeypatch.setattr(muon, "iteration_dtype", lambda device: torch.float32)
    same_muon(decay, torch.float32, 1e-6, agree)


class Lookups(Objective):
    """Rows of an embedding [V, D], each times a vector that the batch holds."""

    def forward(self, batch: tuple[Tensor, Tensor]) -> Totals:  # [B], [B, D]
        return {"loss": Mean((self.net(batch[0]) * batch[1]).sum(), 1)}


def looked_up(width: int, make: Callable[[Any], Any], typed: list[str], agree: Agree, atol: float = 1e-10) -> None:
    """The same for an embedding with sparse gradients, in which some rows are looked up, some twice, in each step."""
    ours, theirs = (Lookups(nn.Embedding(9, width, sparse=True, dtype=torch.float64)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    given = [(torch.randint(9, (6,)), torch.randn(6, width, dtype=torch.float64)) for _ in range(STEPS)]
    train(ours, given, *typed)
    step_by_step(make(theirs), theirs, given)
    agree(ours.net.weight, theirs.net.weight, atol=atol)


class PlainRowAdagrad:
    """Adagrad whose sum of squares is one number for each row: the mean of the row's squares is added."""

    def __init__(self, objective: Objective, lr: float, eps: float) -> None:
        self.weight: Any = objective.net.weight
        self.lr, self.eps = lr, eps
        self.sums = torch.zeros(len(self.weight), 1, dtype=torch.float64)

    def zero_grad(self) -> None:
        self.weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        gradient = self.weight.grad.to_dense()
        self.sums += gradient.square().sum(1, keepdim=True) / gradient.shape[1]
        self.weight -= self.lr * gradient / (self.sums.sqrt() + self.eps)


@crosscheck(
    "optimizers of word vectors: eight steps on the rows of an embedding",
    "torch",
    "`row_adagrad` is Adagrad in one dimension, and a plain formula in four; `sgd_rows` is SGD, its updates clipped by "
    "`torch.renorm`",
)
@pytest.mark.parametrize("name", ["row_adagrad", "row_adagrad, four numbers", "sgd_rows", "sgd_rows, cut"])
def test_rows(name: str, agree: Agree) -> None:
    def cut(objective: Objective) -> Any:
        optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)

        def renorm(*_: Any) -> None:
            weight: Any = objective.net.weight
            weight.grad = (0.2 * weight.grad.to_dense()).renorm(2, 0, 0.3)

        optimizer.register_step_pre_hook(renorm)
        return optimizer

    if name == "row_adagrad":
        looked_up(
            1, lambda o: torch.optim.Adagrad(o.parameters(), lr=0.05, eps=1e-10), ["optimizer=row_adagrad"], agree
        )
    elif name == "row_adagrad, four numbers":
        looked_up(4, lambda o: PlainRowAdagrad(o, lr=0.05, eps=1e-10), ["optimizer=row_adagrad"], agree)
    elif name == "sgd_rows":
        typed = ["optimizer=sgd_rows", "optimizer.lr=0.2", "+optimizer.max_row_norm=100"]
        looked_up(4, lambda o: torch.optim.SGD(o.parameters(), lr=0.2), typed, agree)
    else:  # renorm adds 1e-7 to the length
        looked_up(4, cut, ["optimizer=sgd_rows", "optimizer.lr=0.2", "+optimizer.max_row_norm=0.3"], agree, atol=1e-6)


def conv(inputs: int, outputs: int, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **settings)


class Duel(nn.Module):
    """The value of a state and its actions' advantages, whose mean is taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(x)
        return both[:, :1] + both[:, 1:] - both[:, 1:].mean(1)[:, None]


Layers = Callable[[], list[nn.Module]]
# Images of 9 × 12 pixels, three outputs.
CNNS: dict[str, tuple[Callable[[], nn.Module], Layers]] = {
    "padding same": (
        lambda: CNN(9, 12, 3, [[4, 6], [5]], [7]),
        lambda: [
            *(conv(1, 4, padding="same"), nn.ReLU(), conv(4, 6, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
            *(conv(6, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(5 * 2 * 3, 7), nn.ReLU(), nn.Linear(7, 3)),
        ],
    ),
    "padding valid": (
        lambda: CNN(9, 12, 3, [[4]], [7, 5], kernel=4, padding="valid", activation="tanh"),
        lambda: [
            *(conv(1, 4, 4), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(4 * 3 * 4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)),
        ],
    ),
    "batch norm": (
        lambda: CNN(9, 12, 3, [[4], [6]], [7], in_channels=2, norm="batch"),
        lambda: [
            *(conv(2, 4, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            *(conv(4, 6, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(6 * 2 * 3, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)),
        ],
    ),
    "layer norm": (
        lambda: CNN(9, 12, 3, [[4]], [7], norm="layer", activation="gelu", padding="valid"),
        lambda: [
            *(conv(1, 4), nn.GroupNorm(1, 4), nn.GELU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(4 * 3 * 5, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 3)),
        ],
    ),
    "strided and dueling": (
        lambda: StridedCNN(9, 12, 3, [(4, 4, 2), (6, 3, 1)], [7], in_channels=2, dueling=True),
        lambda: [
            *(conv(2, 4, 4, stride=2), nn.ReLU(), conv(4, 6, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(6 * 1 * 3, 7), nn.ReLU(), Duel()),
        ],
    ),
}


@crosscheck(
    "CNN: outputs, loss, gradients and running statistics",
    "torch",
    "a plain `nn.Sequential` written out by hand, weights in the order of the layers",
)
@pytest.mark.parametrize("name", CNNS)
def test_cnn(name: str, agree: Agree) -> None:
    make, layers = CNNS[name]
    ours, theirs = make().double(), nn.Sequential(*layers()).double()
    for p in ours.parameters():
        nn.init.normal_(p, 0.1, 0.4)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(6, getattr(ours, "shape", (1,))[0], 9, 12, dtype=torch.float64)
    images, same = (images.clone().requires_grad_() for _ in range(2))
    classes = torch.randint(3, (6,))
    loss = Classification(ours)(Examples(images, classes))["loss"]
    outputs = theirs(same)
    expected = F.cross_entropy(outputs, classes, reduction="sum")
    agree(loss.total, expected, atol=1e-10)
    loss.total.backward()
    expected.backward()
    agree(images.grad, same.grad, atol=1e-10)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        agree(one.grad, other.grad, atol=1e-10)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        agree(one, other, atol=1e-10)
    agree(ours.eval()(images), theirs.eval()(same), atol=1e-10)
