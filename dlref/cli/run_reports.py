"""Runs reports, and sorts their results into metrics, plots, texts, histograms and labeled vectors."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.errors import brief
from dlref.filesystem import printable
from dlref.interfaces import Data
from dlref.plugins import place_in
from dlref.reports import LabeledVectors, Report, Result
from dlref.training.devices import forked_random

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_HISTOGRAM = (torch.bool, torch.float16, torch.bfloat16)  # types that TensorBoard's writer does not take
logger = logging.getLogger("dlref")


class Results(NamedTuple):
    """Results of reports by kind and name."""

    metrics: dict[str, float]
    plots: "dict[str, Figure]"
    texts: dict[str, str]
    histograms: dict[str, Tensor]
    vectors: dict[str, LabeledVectors]


def prepare_reports(reports: Mapping[str, Report], net: nn.Module, data: Data, device: torch.device) -> None:
    """Let all reports see the initial network; one that fails costs a warning and nothing else."""
    with torch.no_grad(), forked_random(device):
        for name, report in reports.items():
            try:
                report.prepare(net, data)
            except Exception as error:
                warn(name, report, error)


def run_reports(
    reports: Mapping[str, Report],
    net: nn.Module,
    data: Data,
    split: str,
    device: torch.device,
    full_split: bool = False,
) -> Results:
    """Results of all reports together; one that fails costs a warning and nothing else."""
    results = Results({}, {}, {}, {}, {})
    was_training = net.training
    net.eval()
    with torch.no_grad(), forked_random(device):
        for name, report in reports.items():
            try:
                report.full_split = full_split
                own = by_kind(report(net, data, split))
            except Exception as error:  # whatever a report trips over, the model is trained and saved
                warn(name, report, error)
                continue
            for kind in Results._fields:
                getattr(results, kind).update(getattr(own, kind))
    net.train(was_training)
    return results


def by_kind(returned: object) -> Results:
    """The results of one report, which may return None where it does not apply; raises TypeError for any other value."""
    results = Results({}, {}, {}, {}, {})
    if not isinstance(returned, Mapping | None):
        raise TypeError(f"it returns {described(returned)}; a report returns a dictionary, name -> result")
    for name, value in (returned or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"it names a result {brief(repr(name), 40)}; a name is text")
        kind, result = kind_of(name, value)
        getattr(results, kind)[printable(name)] = result
    return results


def kind_of(name: str, value: Any) -> tuple[str, Result]:
    """The field of `Results` that a value belongs to, and the value as it is stored there."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 0):
        value = value.item()
    if isinstance(value, str):
        return "texts", value
    if isinstance(value, int | float):
        return "metrics", float(value)
    if isinstance(value, Tensor) and is_real(value):
        values = value.detach().cpu()
        return "histograms", values.float() if values.dtype in NO_HISTOGRAM else values
    if isinstance(value, LabeledVectors) and is_consistent(value):
        return "vectors", value
    from matplotlib.figure import Figure

    if isinstance(value, Figure):
        return "plots", value
    raise TypeError(
        f"its '{brief(name)}' is {described(value)}; a result is a number, text, a matplotlib Figure, a tensor of real "
        "numbers for a histogram, or LabeledVectors with vectors [N, D] and N labels"
    )


def is_real(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_complex() and not value.is_quantized


def is_consistent(value: LabeledVectors) -> bool:
    vectors, labels = value
    is_table = isinstance(vectors, Tensor) and vectors.ndim == 2 and is_real(vectors)
    return is_table and len(labels) == len(vectors) and all(isinstance(label, str) for label in labels)


def described(value: object) -> str:
    """`of type list, [1, 2]`: type and beginning of a value."""
    return f"of type {type(value).__name__}, {brief(repr(value), 60)}"


def warn(name: str, report: Report, error: Exception) -> None:
    """Warn which report failed, and where in its file."""
    place = place_in(type(report), error)
    logger.warning("report %s failed: %s: %s (%s)", name, type(error).__name__, brief(error, 400), place)
