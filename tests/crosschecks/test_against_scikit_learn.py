"""scikit-learn computes the same losses, gradients, updates, fits and decompositions."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn

from dlref.data.supervised.in_memory import Examples
from dlref.models.count_vectors import CountVectors
from dlref.models.mlp import MLP
from dlref.objectives import Objective
from dlref.objectives.ppmi_svd import PPMISVD, co_occurrence, ppmi
from dlref.objectives.supervised import Classification, MultiLabel, Perceptron, Regression
from tests.crosschecks.conftest import Agree
from tests.crosschecks.rows import crosscheck
from tests.crosschecks.texts import parts, treebank
from tests.crosschecks.trained import train

pytest.importorskip("sklearn")
from sklearn import datasets as shipped
from sklearn import linear_model, metrics
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.neural_network import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
WIDTHS = [7, 5]
ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic"}  # dlref's names and scikit-learn's


class Task(NamedTuple):
    """Inputs [N, D] of standard deviation 1 and targets of a real data set, and what learns them."""

    inputs: np.ndarray
    targets: np.ndarray
    objective: type[Objective]
    theirs: type[Any]
    outputs: int

    @property
    def summed(self) -> int:
        """Over how many outputs scikit-learn sums a loss of which dlref takes the mean."""
        return self.outputs if self.objective is MultiLabel else 1

    def batches(self, size: int) -> list[Examples]:
        targets = torch.from_numpy(self.targets)
        if self.objective is not Classification:
            targets = targets.double().view(len(targets), -1)
        return [Examples(*rows) for rows in zip(tensor(self.inputs).split(size), targets.split(size), strict=True)]


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).double()


def task(kind: str) -> Task:
    load = {"classes": shipped.load_iris, "two classes": shipped.load_breast_cancer}
    x, y = load.get(kind, shipped.load_linnerud)(return_X_y=True)
    x, y = x[:: len(x) // 20][:20], y[:: len(y) // 20][:20]
    x = (x - x.mean(0)) / x.std(0)
    if kind == "classes":
        return Task(x, y, Classification, MLPClassifier, 3)
    if kind == "two classes":
        return Task(x, y, MultiLabel, MLPClassifier, 1)
    if kind == "labels":
        return Task(x, (y > np.median(y, 0)).astype(int), MultiLabel, MLPClassifier, 3)
    return Task(x, (y - y.mean(0)) / y.std(0), Regression, MLPRegressor, 3)


TASKS = ["classes", "two classes", "labels", "numbers"]


def mapped(of: Task, activation: str, **settings: Any) -> tuple[Any, Objective]:
    """scikit-learn's network after a first pass, which makes its weights, and dlref's with the same weights."""
    theirs = of.theirs(
        hidden_layer_sizes=WIDTHS,
        activation=ACTIVATIONS[activation],
        shuffle=False,
        warm_start=True,
        tol=0.0,
        random_state=0,
        **settings,
    )
    theirs.set_params(max_iter=1).fit(of.inputs, of.targets)
    objective = of.objective(MLP(of.inputs.shape[1], of.outputs, WIDTHS, activation).double())
    with torch.no_grad():
        for layer, weights, biases in zip(affine(objective), theirs.coefs_, theirs.intercepts_, strict=True):
            layer.weight.copy_(torch.from_numpy(weights.T))
            layer.bias.copy_(torch.from_numpy(biases))
    return theirs, objective


def affine(objective: nn.Module) -> list[nn.Linear]:
    return [layer for layer in objective.modules() if isinstance(layer, nn.Linear)]


def compare_weights(agree: Agree, objective: Objective, theirs: Any) -> None:
    for layer, weights, biases in zip(affine(objective), theirs.coefs_, theirs.intercepts_, strict=True):
        agree(layer.weight.T, weights, atol=1e-10)
        agree(layer.bias, biases, atol=1e-10)


@crosscheck(
    "MLP: outputs for classes, several labels and regression", "scikit-learn", "`coefs_` transposed, `intercepts_`"
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", TASKS)
def test_outputs(kind: str, activation: str, agree: Agree) -> None:
    of = task(kind)
    theirs, objective = mapped(of, activation)
    outputs: Any = objective.predictions(objective.net(tensor(of.inputs)))
    found = theirs.predict(of.inputs) if kind == "numbers" else theirs.predict_proba(of.inputs)
    agree(outputs, found[:, 1:] if kind == "two classes" else found, atol=1e-12)


@crosscheck(
    "MLP: loss and gradient of a batch",
    "scikit-learn",
    "the gradient is one SGD update of rate 1; its loss of L labels is L times dlref's, of D numbers 1 / D of it",
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", TASKS)
def test_loss_and_gradient(kind: str, activation: str, agree: Agree) -> None:
    of = task(kind)
    (batch,) = of.batches(len(of.inputs))
    settings = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "batch_size": len(of.inputs), "learning_rate_init": 1.0}
    theirs, objective = mapped(of, activation, **settings)
    before = [array.copy() for array in (*theirs.coefs_, *theirs.intercepts_)]
    theirs.fit(of.inputs, of.targets)
    loss = objective(batch)["loss"]
    (loss.total / loss.count).backward()
    agree(of.summed * loss.total / loss.count, theirs.loss_ * (of.outputs if kind == "numbers" else 1), atol=1e-12)
    moved = [old - new for old, new in zip(before, [*theirs.coefs_, *theirs.intercepts_], strict=True)]
    layers = affine(objective)
    found = [layer.weight.grad.T for layer in layers] + [layer.bias.grad for layer in layers]
    for ours, gradient in zip(found, moved, strict=True):
        agree(of.summed * ours, gradient, atol=1e-12)


OPTIMIZERS = {
    "sgd": ({"solver": "sgd", "momentum": 0.0}, ["optimizer=sgd"]),
    "momentum": (
        {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": False},
        ["optimizer=sgd", "optimizer.momentum=0.8"],
    ),
    "nesterov": (
        {"solver": "sgd", "momentum": 0.8},
        ["optimizer=sgd", "optimizer.momentum=0.8", "optimizer.nesterov=true"],
    ),
    # scikit-learn adds ε before the correction of the bias, dlref after it: so small a one, either does nothing.
    "adam": ({"solver": "adam", "epsilon": 1e-30}, ["optimizer=adam", "optimizer.eps=1e-30"]),
}


@crosscheck(
    "MLP: ten updates by SGD, momentum, Nesterov's momentum and Adam",
    "scikit-learn",
    "the trainer against `fit` with `warm_start`; of L labels the rate of SGD is L times as large; Adam's ε is 1e-30",
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", TASKS)
def test_ten_updates(kind: str, optimizer: str, agree: Agree) -> None:
    of = task(kind)
    theirs_typed, typed = OPTIMIZERS[optimizer]
    theirs, objective = mapped(of, "tanh", alpha=0.0, batch_size=4, learning_rate_init=0.05, **theirs_typed)
    theirs.set_params(max_iter=2).fit(of.inputs, of.targets)
    rate = 0.05 * (of.summed if optimizer != "adam" else 1)
    losses = train(objective, 2 * of.batches(4), *typed, f"optimizer.lr={rate}")
    assert len(losses) == 10
    compare_weights(agree, objective, theirs)
    factor = of.summed / (of.outputs if kind == "numbers" else 1)
    agree([factor * sum(losses[:5]) / 5, factor * sum(losses[5:]) / 5], theirs.loss_curve_[-2:], atol=1e-10)


@crosscheck(
    "MLP: ten updates with weight decay, which leaves out biases",
    "scikit-learn",
    "`alpha` divided by the rows of a batch is SGD's `weight_decay`",
)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_weight_decay(optimizer: str, agree: Agree) -> None:
    of = task("classes")
    theirs_typed, typed = OPTIMIZERS[optimizer]
    theirs, objective = mapped(of, "tanh", alpha=0.6, batch_size=4, learning_rate_init=0.05, **theirs_typed)
    theirs.set_params(max_iter=2).fit(of.inputs, of.targets)
    train(objective, 2 * of.batches(4), *typed, "optimizer.lr=0.05", f"optimizer.weight_decay={0.6 / 4}")
    compare_weights(agree, objective, theirs)


@crosscheck(
    "perceptron: weights after three epochs of Rosenblatt's rule",
    "scikit-learn",
    "`Perceptron` in the order of the rows, from 0; of three classes one against the others",
)
@pytest.mark.parametrize("kind", ["two classes", "classes"])
def test_perceptron(kind: str, agree: Agree) -> None:
    of = task(kind)
    theirs = linear_model.Perceptron(shuffle=False, max_iter=3, tol=None).fit(of.inputs, of.targets)
    wanted = of.targets[:, None] == ([1] if kind == "two classes" else [0, 1, 2])
    objective = Perceptron(MLP(of.inputs.shape[1], wanted.shape[1], [], init=0.0).double())
    rows = [Examples(x[None], y[None]) for x, y in zip(tensor(of.inputs), tensor(wanted), strict=True)]
    train(objective, 3 * rows, "optimizer=sgd", "optimizer.lr=1")
    (layer,) = affine(objective)
    agree(layer.weight, theirs.coef_, atol=1e-10)
    agree(layer.bias, theirs.intercept_, atol=1e-10)
    answers = objective.predictions(objective.net(tensor(of.inputs)))
    agree(answers, theirs.decision_function(of.inputs).reshape(answers.shape) > 0, atol=0)


@crosscheck(
    "logistic regression: weights after three epochs of SGD",
    "scikit-learn",
    "`SGDClassifier(loss='log_loss')` without penalty, in the order of the rows, from 0",
)
def test_logistic_sgd(agree: Agree) -> None:
    of = task("two classes")
    theirs = linear_model.SGDClassifier(
        loss="log_loss", penalty=None, learning_rate="constant", eta0=0.1, shuffle=False, max_iter=3, tol=None
    ).fit(of.inputs, of.targets)
    objective = MultiLabel(MLP(of.inputs.shape[1], 1, [], init=0.0).double())
    train(objective, 3 * of.batches(1), "optimizer=sgd", "optimizer.lr=0.1")
    (layer,) = affine(objective)
    agree(layer.weight, theirs.coef_, atol=1e-10)
    agree(layer.bias, theirs.intercept_, atol=1e-10)


@crosscheck(
    "logistic regression: the gradient vanishes at the fitted weights",
    "scikit-learn",
    "`LogisticRegression(solver='newton-cholesky')`; its penalty, divided by C and the rows, is added",
)
@pytest.mark.parametrize("kind", ["two classes", "classes"])
def test_logistic_optimum(kind: str, agree: Agree) -> None:
    of, C = task(kind), 2.0
    (batch,) = of.batches(len(of.inputs))
    theirs = linear_model.LogisticRegression(C=C, solver="newton-cholesky", tol=1e-13, max_iter=100)
    theirs.fit(of.inputs, of.targets)
    objective = of.objective(MLP(of.inputs.shape[1], of.outputs, []).double())
    (layer,) = affine(objective)
    with torch.no_grad():
        layer.weight.copy_(tensor(theirs.coef_))
        layer.bias.copy_(tensor(theirs.intercept_))
    loss = objective(batch)["loss"]
    (loss.total / loss.count).backward()
    agree(layer.weight.grad + layer.weight.detach() / C / len(of.inputs), np.zeros_like(theirs.coef_), atol=1e-10)
    agree(layer.bias.grad, np.zeros_like(theirs.intercept_), atol=1e-10)


@crosscheck(
    "metrics: nll, accuracy, exact match, mean squared error and its root",
    "scikit-learn",
    "`log_loss`, `accuracy_score`, `hamming_loss`, `mean_squared_error`",
)
@pytest.mark.parametrize("kind", TASKS)
def test_metrics(kind: str, agree: Agree) -> None:
    of = task(kind)
    objective: Any = mapped(of, "tanh")[1].eval()
    (batch,) = of.batches(len(of.inputs))
    with torch.no_grad():
        figures = objective.summarize(objective(batch))
        answers = objective.predictions(objective.net(batch.inputs)).numpy()
    if kind == "numbers":
        agree(figures["mse"], metrics.mean_squared_error(of.targets, answers), atol=1e-12)
        agree(figures["rmse"], metrics.mean_squared_error(of.targets, answers) ** 0.5, atol=1e-12)
    elif kind == "classes":
        agree(figures["loss"], metrics.log_loss(of.targets, answers), atol=1e-12)
        agree(figures["accuracy"], metrics.accuracy_score(of.targets, answers.argmax(1)), atol=1e-12)
    else:
        targets = of.targets.reshape(len(answers), -1)
        nll = [metrics.log_loss(*column) for column in zip(targets.T, answers.T, strict=True)]
        agree(figures["loss"], np.mean(nll), atol=1e-12)
        agree(figures["accuracy"], 1 - metrics.hamming_loss(targets, answers > 0.5), atol=1e-12)
        agree(figures["exact_match"], metrics.accuracy_score(targets, answers > 0.5), atol=1e-12)


@crosscheck(
    "principal components of an MLP's inputs", "scikit-learn", "`PCA.components_`, each up to its sign; real digits"
)
def test_principal_components(agree: Agree) -> None:
    x = shipped.load_digits(return_X_y=True)[0]
    net = MLP(64, 2, [], pca_components=10).double()
    net.fit(part for part in tensor(x).split(500))
    theirs = PCA(10).fit(x)
    ours = (tensor(x) - net.layers[0].mean) @ net.layers[0].directions
    agree(ours.abs(), np.abs(theirs.transform(x)), atol=1e-9)


@crosscheck(
    "word vectors from counts: co-occurrences and PPMI",
    "scipy",
    "products of sparse one-hot matrices of the tokens; 500 sentences of Penn Treebank",
)
@pytest.mark.parametrize("window", [1, 4])
def test_ppmi(window: int, datasets: Path, tmp_path: Path, agree: Agree) -> None:
    data = treebank(datasets, tmp_path, 500)
    ours = co_occurrence(parts(data), window, len(data.vocabulary))
    theirs = co_occurrences(data.split("train").numpy(), window, len(data.vocabulary))
    agree(ours.toarray(), theirs.toarray(), atol=0)
    agree(ppmi(ours).toarray(), positive_information(theirs).toarray(), atol=1e-12)


@crosscheck(
    "word vectors from counts: singular values and vectors",
    "scikit-learn, scipy",
    "`TruncatedSVD.transform` is U Σ, each column up to its sign; Σ to `power`; 500 sentences of Penn Treebank",
)
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_truncated_svd(power: float, datasets: Path, tmp_path: Path, agree: Agree) -> None:
    data, width = treebank(datasets, tmp_path, 500), 8
    net = CountVectors(len(data.vocabulary), width).double()
    PPMISVD(net, window=3, eigenvalue_power=power).fit(parts(data))
    matrix = positive_information(co_occurrences(data.split("train").numpy(), 3, len(data.vocabulary)))
    theirs = TruncatedSVD(width, algorithm="arpack", random_state=0)
    vectors = theirs.fit_transform(matrix)
    agree(net.vectors().abs(), np.abs(vectors) * theirs.singular_values_ ** (power - 1), atol=1e-10)


def co_occurrences(words: np.ndarray, window: int, size: int) -> Any:
    """How often two words stand at most `window` tokens apart, [V, V]."""
    tokens = sparse.csr_array((np.ones(len(words)), (np.arange(len(words)), words)), shape=(len(words), size))
    before = sum(tokens[:-distance].T @ tokens[distance:] for distance in range(1, window + 1))
    return before + before.T


def positive_information(counts: Any) -> Any:
    joint = (counts / counts.sum()).tocsr()
    alone = sparse.diags_array(1 / joint.sum(0))
    ratio = (alone @ joint @ alone).tocsr()
    ratio.data = np.log2(ratio.data)
    return ratio.maximum(0)
