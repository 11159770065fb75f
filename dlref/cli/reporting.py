"""Runs reports, and sorts what they return into figures, pictures, text, numbers for histograms and vectors."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlref.reports import Embedding, Report
from dlref.training.devices import forked_random

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
                warn(name, error)


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
                for key, value in report(net, data, split).items():
                    if isinstance(value, str):
                        found.texts[key] = value
                    elif isinstance(value, (int, float)):
                        found.figures[key] = float(value)
                    elif isinstance(value, Tensor):
                        found.histograms[key] = value
                    elif isinstance(value, Embedding):
                        found.embeddings[key] = value
                    else:
                        found.pictures[key] = value
            except Exception as error:  # whatever a report trips over, the model is trained and saved
                warn(name, error)
    net.train(was_training)
    return found


def warn(report: str, error: Exception) -> None:
    logger.warning("report %s failed: %s: %s", report, type(error).__name__, error)
