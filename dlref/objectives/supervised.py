"""What a network is asked to tell of its inputs: a class, several yes-or-no labels, or numbers.

B batch, C classes, L labels, D numbers. The network is the same; the objective decides what its outputs mean.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.errors import ConfigError, DataError
from dlref.interfaces import FitsInputs, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Objective, at_least_float32
from dlref.objectives.fused.linear_cross_entropy import cross_entropy


class Supervised(Objective):
    """Batches of inputs [B, ...] and targets; `judge` turns outputs and targets into totals.

    With `max_norm` the incoming weights of each unit are shrunk to at most that length after each step (Srivastava et
    al. 2014, section 5.1). With `adversarial` half of the loss in training is that of the same inputs moved by that
    length along their own gradient, which is where it hurts most (Goodfellow et al. 2015, section 6; Miyato et al.
    2018, equation 4, for the Euclidean length).
    """

    targets = "targets of another kind"  # in words, for those who combine parts that do not suit each other

    def __init__(self, net: nn.Module, max_norm: float | None = None, adversarial: float = 0.0) -> None:
        super().__init__(net)
        if adversarial < 0:
            raise ConfigError(f"objective.adversarial is {adversarial}; it takes a length from 0 on")
        self.adversarial = adversarial
        if max_norm is not None and max_norm <= 0:
            raise ConfigError(f"objective.max_norm is {max_norm}; it takes a length above 0")
        self.max_norm = max_norm
        self.least = 2 if any(isinstance(layer, nn.BatchNorm1d) for layer in net.modules()) else 0

    def fit(self, batches: Iterable[Any]) -> None:
        if declares(self.net, FitsInputs):
            self.net.fit(batch.inputs for batch in batches)

    def forward(self, batch: Any) -> Totals:
        if self.training and len(batch.inputs) < self.least:
            raise DataError(
                f"a batch of {len(batch.inputs)} has no spread for batch norm; raise data.batch_size to {self.least} or "
                "more for each process, or set network.norm=null"
            )
        attacked = self.training and self.adversarial > 0
        inputs = batch.inputs.detach().requires_grad_() if attacked else batch.inputs
        outputs, beside = self.read(inputs)
        if not self.fits(outputs, batch.targets):
            raise ConfigError(
                f"objective {type(self).__name__} takes {self.targets}; the data give targets {list(batch.targets.shape)} "
                f"of {batch.targets.dtype} for outputs {list(outputs.shape)}: choose an objective that suits the data"
            )
        totals = self.judge(outputs, batch.targets)
        if attacked:
            (slope,) = torch.autograd.grad(torch.as_tensor(totals["loss"].total), inputs, retain_graph=True)
            moved = inputs.detach() + self.adversarial * F.normalize(slope.flatten(1)).view_as(slope)
            worse = self.judge(at_least_float32(self.net(moved)), batch.targets)["loss"]
            totals["loss"] = Mean((totals["loss"].total + worse.total) / 2, worse.count)
        return totals | beside

    def read(self, inputs: Tensor) -> tuple[Tensor, Totals]:
        """The network's outputs, and what else there is to tell of these inputs."""
        return at_least_float32(self.net(inputs)), {}

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        return targets.is_floating_point() and targets.shape == outputs.shape

    def judge(self, outputs: Tensor, targets: Tensor) -> Totals:
        raise NotImplementedError

    def answers(self, outputs: Tensor) -> Tensor:
        """Outputs as people read them: probabilities, or numbers."""
        return outputs

    def after_step(self) -> None:
        if self.max_norm is not None:
            for layer in self.net.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    with torch.no_grad():
                        layer.weight.copy_(layer.weight.renorm(2, 0, self.max_norm))


class Classification(Supervised):
    """One of C classes: the outputs [B, C] are log-odds. `nll` is in nats per sample; `loss` may smooth the labels."""

    nll_unit = "sample"
    targets = "the numbers of classes [B]"

    def __init__(
        self,
        net: nn.Module,
        label_smoothing: float = 0.0,
        max_norm: float | None = None,
        adversarial: float = 0.0,
    ) -> None:
        super().__init__(net, max_norm, adversarial)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"objective.label_smoothing is {label_smoothing}; it is a share from 0 to below 1")
        self.label_smoothing = label_smoothing

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        return targets.dtype == torch.int64 and targets.shape == outputs.shape[:1]

    def judge(self, outputs: Tensor, targets: Tensor) -> Totals:
        count = len(targets)
        nll, hits = cross_entropy(outputs, targets)
        loss = nll
        if self.training and self.label_smoothing:
            loss = F.cross_entropy(outputs, targets, reduction="sum", label_smoothing=self.label_smoothing)
        return {"loss": Mean(loss, count), "nll": Mean(nll, count), "accuracy": Mean(hits, count)}

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(dim=1)


class Labels(Supervised):
    """L independent yes or no, each by its own sigmoid; one of them is binary classification.

    `nll` is in nats per decision, `accuracy` the share of right decisions, `exact_match` of rows that are right in all.
    """

    nll_unit = "label"
    targets = "0 or 1 for each output [B, L]"

    def judge(self, outputs: Tensor, targets: Tensor) -> Totals:
        nll = Mean(F.binary_cross_entropy_with_logits(outputs, targets, reduction="sum"), targets.numel())
        hits = (outputs > 0) == (targets > 0.5)
        return {
            "loss": nll,
            "nll": nll,
            "accuracy": Mean(hits.sum(), hits.numel()),
            "exact_match": Mean(hits.all(dim=1).sum(), len(hits)),
        }

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


class Regression(Supervised):
    """D numbers: half the squared error of a sample, summed over its numbers, is the loss.

    `rmse` is the root of the mean squared error of one number, in the units of the data's targets.
    """

    targets = "a number for each output [B, D]"

    def judge(self, outputs: Tensor, targets: Tensor) -> Totals:
        squares = (outputs - targets).square().sum()
        return {"loss": Mean(squares / 2, len(targets)), "mse": Mean(squares, targets.numel())}

    def summarize(self, totals: Totals) -> dict[str, float]:
        figures = super().summarize(totals)
        return figures | ({"rmse": figures["mse"] ** 0.5} if "mse" in figures else {})


class Perceptron(Supervised):
    """Rosenblatt 1958: a unit that is wrong, or undecided, has its weights moved by the inputs towards the target.

    That is the gradient step of rate 1 and batch size 1 on Σ max(0, -t z), with targets t of -1 or 1 and outputs z.
    """

    targets = "0 or 1 for each output [B, L]"

    def judge(self, outputs: Tensor, targets: Tensor) -> Totals:
        agreement = outputs * (2 * targets - 1)
        hits = (outputs > 0) == (targets > 0.5)
        loss = torch.where(agreement <= 0, -agreement, 0.0).sum()
        return {"loss": Mean(loss, len(targets)), "accuracy": Mean(hits.sum(), hits.numel())}

    def answers(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(outputs.dtype)
