"""Objectives of supervised learning: classification, multi-label classification, regression, the perceptron rule.

B batch, C classes, L labels or target numbers. The network is the same; the objective decides what its outputs mean.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.errors import ConfigError, DataError
from dlref.interfaces import ExampleBatch, FitsInputs, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Objective, at_least_float32
from dlref.objectives.fused.linear_cross_entropy import cross_entropy


class Supervised(Objective[ExampleBatch]):
    """Base class for batches of inputs [B, ...] and targets; `totals` computes the loss and metrics of outputs.

    `max_norm` is the largest L2 norm of a unit's incoming weights, enforced after each step (Srivastava et al. 2014, section
    5.1). `adversarial_epsilon` turns on adversarial training: half of the training loss is that of the inputs moved by this
    L2 norm along the gradient of their loss (Goodfellow et al. 2015, section 6; Miyato et al. 2018, equation 4).
    """

    expected_targets = "targets of another kind"  # for the error message

    def __init__(self, net: nn.Module, max_norm: float | None = None, adversarial_epsilon: float = 0.0) -> None:
        super().__init__(net)
        if adversarial_epsilon < 0:
            raise ConfigError(f"objective.adversarial_epsilon is {adversarial_epsilon}; it takes a norm of 0 or more")
        self.adversarial_epsilon = adversarial_epsilon
        if max_norm is not None and max_norm <= 0:
            raise ConfigError(f"objective.max_norm is {max_norm}; it takes a norm above 0")
        self.max_norm = max_norm
        self.min_batch_size = 2 if any(isinstance(layer, nn.BatchNorm1d) for layer in net.modules()) else 0

    def fit(self, batches: Iterable[Any]) -> None:
        if declares(self.net, FitsInputs):
            self.net.fit(batch.inputs for batch in batches)

    def forward(self, batch: ExampleBatch) -> Totals:
        if self.training and len(batch.inputs) < self.min_batch_size:
            raise DataError(
                f"a batch of {len(batch.inputs)} has no variance for batch norm; raise data.batch_size to "
                f"{self.min_batch_size} or more for each process, or set network.norm=null"
            )
        adversarial = self.training and self.adversarial_epsilon > 0
        inputs = batch.inputs.detach().requires_grad_() if adversarial else batch.inputs
        outputs, network_totals = self.outputs(inputs)
        if not self.accepts(outputs, batch.targets):
            raise ConfigError(
                f"objective {type(self).__name__} takes {self.expected_targets}; the data give targets "
                f"{list(batch.targets.shape)} of {batch.targets.dtype} for outputs {list(outputs.shape)}: choose an objective "
                "that suits the data"
            )
        totals = self.totals(outputs, batch.targets)
        if adversarial:
            (gradient,) = torch.autograd.grad(torch.as_tensor(totals["loss"].total), inputs, retain_graph=True)
            perturbed = inputs.detach() + self.adversarial_epsilon * F.normalize(gradient.flatten(1)).view_as(gradient)
            adversarial_loss = self.totals(at_least_float32(self.net(perturbed)), batch.targets)["loss"]
            totals["loss"] = Mean((totals["loss"].total + adversarial_loss.total) / 2, adversarial_loss.count)
        return totals | network_totals

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Totals]:
        """The network's outputs [B, ...], and totals that the network itself computes of the inputs."""
        return at_least_float32(self.net(inputs)), {}

    def accepts(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether type and shape of the targets suit the objective."""
        return targets.is_floating_point() and targets.shape == outputs.shape

    def totals(self, outputs: Tensor, targets: Tensor) -> Totals:
        """Loss and metrics of a batch."""
        raise NotImplementedError

    def predictions(self, outputs: Tensor) -> Tensor:
        """Predictions of the outputs, of the same shape: probabilities, or numbers."""
        return outputs

    def after_step(self) -> None:
        if self.max_norm is not None:
            for layer in self.net.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    with torch.no_grad():
                        layer.weight.copy_(layer.weight.renorm(2, 0, self.max_norm))


class Classification(Supervised):
    """Cross-entropy of one of C classes; the outputs [B, C] are logits.

    `nll` is in nats per sample. `loss` is the cross-entropy with label smoothing in training, the nll in evaluation.
    """

    nll_unit = "sample"
    expected_targets = "class indices [B]"

    def __init__(
        self,
        net: nn.Module,
        label_smoothing: float = 0.0,
        max_norm: float | None = None,
        adversarial_epsilon: float = 0.0,
    ) -> None:
        super().__init__(net, max_norm, adversarial_epsilon)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"objective.label_smoothing is {label_smoothing}; it takes a weight from 0 to below 1")
        self.label_smoothing = label_smoothing

    def accepts(self, outputs: Tensor, targets: Tensor) -> bool:
        return targets.dtype == torch.int64 and targets.shape == outputs.shape[:1]

    def totals(self, outputs: Tensor, targets: Tensor) -> Totals:
        count = len(targets)
        nll, hits = cross_entropy(outputs, targets)
        loss = nll
        if self.training and self.label_smoothing:
            loss = F.cross_entropy(outputs, targets, reduction="sum", label_smoothing=self.label_smoothing)
        return {"loss": Mean(loss, count), "nll": Mean(nll, count), "accuracy": Mean(hits, count)}

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(dim=1)


class MultiLabel(Supervised):
    """Binary cross-entropy of L independent labels; the outputs [B, L] are logits. L = 1 is binary classification.

    `nll` is in nats per label, `accuracy` per label, `exact_match` per sample: the fraction with all labels right.
    """

    nll_unit = "label"
    expected_targets = "0 or 1 for each output [B, L]"

    def totals(self, outputs: Tensor, targets: Tensor) -> Totals:
        nll = Mean(F.binary_cross_entropy_with_logits(outputs, targets, reduction="sum"), targets.numel())
        hits = (outputs > 0) == (targets > 0.5)
        return {
            "loss": nll,
            "nll": nll,
            "accuracy": Mean(hits.sum(), hits.numel()),
            "exact_match": Mean(hits.all(dim=1).sum(), len(hits)),
        }

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


class Regression(Supervised):
    """Half the squared error of a sample, summed over its L target numbers.

    `mse` and `rmse` are the mean squared error per target number and its root, in the units of the data's targets.
    """

    expected_targets = "a number for each output [B, L]"

    def totals(self, outputs: Tensor, targets: Tensor) -> Totals:
        squares = (outputs - targets).square().sum()
        return {"loss": Mean(squares / 2, len(targets)), "mse": Mean(squares, targets.numel())}

    def summarize(self, totals: Totals) -> dict[str, float]:
        metrics = super().summarize(totals)
        return metrics | ({"rmse": metrics["mse"] ** 0.5} if "mse" in metrics else {})


class Perceptron(Supervised):
    """The perceptron criterion Σ max(0, -t z), with targets t of -1 or 1 and outputs z (Rosenblatt 1958).

    Its gradient step of rate 1 and batch size 1 is Rosenblatt's rule: where a unit is wrong or undecided, the inputs are
    added to its weights with the sign of the target.
    """

    expected_targets = "0 or 1 for each output [B, L]"

    def totals(self, outputs: Tensor, targets: Tensor) -> Totals:
        margin = outputs * (2 * targets - 1)
        hits = (outputs > 0) == (targets > 0.5)
        loss = torch.where(margin <= 0, -margin, 0.0).sum()
        return {"loss": Mean(loss, len(targets)), "accuracy": Mean(hits.sum(), hits.numel())}

    def predictions(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(outputs.dtype)
