"""Runs reports, and sorts what they return into figures, pictures and text."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dlref.reports import Report

logger = logging.getLogger("dlref")


def run_reports(
    reports: Mapping[str, Report], net: nn.Module, data: Any, split: str, device: torch.device
) -> tuple[dict[str, float], dict[str, Any], dict[str, str]]:
    """Figures, pictures and texts by name; a report that fails costs a warning and nothing else."""
    figures: dict[str, float] = {}
    pictures: dict[str, Any] = {}
    texts: dict[str, str] = {}
    was_training = net.training
    net.eval()
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        for name, report in reports.items():
            try:
                for key, value in report(net, data, split).items():
                    if isinstance(value, str):
                        texts[key] = value
                    elif isinstance(value, (int, float)):
                        figures[key] = float(value)
                    else:
                        pictures[key] = value
            except Exception as error:  # whatever a report trips over, the model is trained and saved
                logger.warning("report %s failed: %s: %s", name, type(error).__name__, error)
    net.train(was_training)
    return figures, pictures, texts
