"""Runs reports, and sorts what they return into figures, pictures, text, numbers for histograms and vectors."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlref.errors import brief
from dlref.filesystem import printable
from dlref.plugins import place_in
from dlref.reports import Embedding, Report
from dlref.training.devices import forked_random

COARSE = (torch.bool, torch.float16, torch.bfloat16)  # of which no histogram is made
logger = logging.getLogger("dlref")


class Findings(NamedTuple):
    """What reports return, by name."""

    figures: dict[str, float]
    pictures: dict[str, Any]
    texts: dict[str, str]
    histograms: dict[str, Tensor]
    embeddings: dict[str, Embedding]


def begin_reports(reports: Mapping[str, Report], net: nn.Module, data: Any, device: torch.device) -> None:
    """Show them the network before it is trained."""
    with torch.no_grad(), forked_random(device):
        for name, report in reports.items():
            try:
                report.begin(net, data)
            except Exception as error:
                warn(name, report, error)


def run_reports(
    reports: Mapping[str, Report], net: nn.Module, data: Any, split: str, device: torch.device, whole: bool = False
) -> Findings:
    """Findings of all reports together, of the `whole` split; a report that fails costs a warning and nothing else."""
    found = Findings({}, {}, {}, {}, {})
    was_training = net.training
    net.eval()
    with torch.no_grad(), forked_random(device):
        for name, report in reports.items():
            try:
                report.whole = whole
                own = sorted_out(report(net, data, split))
            except Exception as error:  # whatever a report trips over, the model is trained and saved
                warn(name, report, error)
                continue
            for field in Findings._fields:
                getattr(found, field).update(getattr(own, field))
    net.train(was_training)
    return found


def sorted_out(returned: Any) -> Findings:
    """What one report returned, None where it does not apply; raises TypeError for what no writer takes."""
    found = Findings({}, {}, {}, {}, {})
    if not isinstance(returned, Mapping | None):
        raise TypeError(f"it returns {described(returned)}; a report returns a dictionary, name -> finding")
    for name, value in (returned or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"it names a finding {brief(repr(name), 40)}; a name is text")
        kind, finding = sorted_in(name, value)
        getattr(found, kind)[printable(name)] = finding
    return found


def sorted_in(name: str, value: Any) -> tuple[str, Any]:
    """The field of `Findings` that takes a value, and the value as it stands there."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 0):
        value = value.item()
    if isinstance(value, str):
        return "texts", value
    if isinstance(value, int | float):
        return "figures", float(value)
    if isinstance(value, Tensor) and of_numbers(value):
        numbers = value.detach().cpu()
        return "histograms", numbers.float() if numbers.dtype in COARSE else numbers
    if isinstance(value, Embedding) and of_vectors(value):
        return "embeddings", value
    from matplotlib.figure import Figure

    if isinstance(value, Figure):
        return "pictures", value
    raise TypeError(
        f"its '{brief(name)}' is {described(value)}; a finding is a number, text, a matplotlib Figure, a tensor of real "
        "numbers for a histogram, or an Embedding of vectors [N, D] and N labels"
    )


def of_numbers(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_complex() and not value.is_quantized


def of_vectors(value: Embedding) -> bool:
    vectors, labels = value
    is_table = isinstance(vectors, Tensor) and vectors.ndim == 2 and of_numbers(vectors)
    return is_table and len(labels) == len(vectors) and all(isinstance(label, str) for label in labels)


def described(value: Any) -> str:
    """`a list, [1, 2]`: type and beginning."""
    return f"of type {type(value).__name__}, {brief(repr(value), 60)}"


def warn(name: str, report: Report, error: Exception) -> None:
    """Say which report failed, and where in its file."""
    place = place_in(type(report), error)
    logger.warning("report %s failed: %s: %s (%s)", name, type(error).__name__, brief(error, 400), place)
