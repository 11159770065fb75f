"""What a language model would reach if it went on learning while it reads."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dlref.interfaces import FixedContext, LanguageModel, TokenizedText, declares
from dlref.metrics import Mean, perplexity
from dlref.reports import Report


class DynamicEvaluation(Report):
    """The perplexity of a split while the weights follow it: Krause et al. 2018, *Dynamic evaluation of neural sequence
    models*, equations 4 and 5, by plain gradients.

    After each piece of `length` tokens the weights step along the gradient of its nats by `lr`, and back to the trained ones
    by the share `decay`. Every token is foretold before it is learned from. `dynamic_perplexity` is no perplexity of the
    trained network: beside another one's it is fair only if that was evaluated so too. The network itself stays as it is.
    """

    def __init__(self, lr: float = 0.5, decay: float = 1e-3, length: int = 20, clip_norm: float = 1.0) -> None:
        self.lr, self.decay, self.length, self.clip_norm = lr, decay, length, clip_norm

    def __call__(self, net: Any, data: Any, split: str) -> dict[str, Any]:
        carries_state = declares(net, LanguageModel) and not declares(net, FixedContext)
        if not carries_state or not declares(data, TokenizedText):
            return {}
        learner: Any = copy.deepcopy(net)
        for table in (layer for layer in learner.modules() if isinstance(layer, nn.Embedding)):
            table.sparse = False  # whose gradients have no norm
        weights, trained = list(learner.parameters()), list(net.parameters())
        nll, state = Mean(0.0, 0), None
        text = data.split(split).long()[None]
        for start in range(0, text.shape[1] - 1, self.length):
            part = text[:, start : start + self.length + 1].to(weights[0].device)
            # cuDNN has no gradient of a network in evaluation, which drops nothing.
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
                logits, state = learner(part[:, :-1], state)
                nats = F.cross_entropy(logits[0], part[0, 1:], reduction="sum")
                gradient = torch.autograd.grad(nats / self.length, weights)
            nll = Mean(nll.total + nats.item(), nll.count + part.shape[1] - 1)
            state = tuple(each.detach() for each in state)
            norm = float(nn.utils.get_total_norm(gradient))
            step = self.lr * min(1.0, self.clip_norm / max(norm, 1e-12))
            for weight, first, slope in zip(weights, trained, gradient, strict=True):
                weight.detach().lerp_(first, self.decay).sub_(slope, alpha=step)
        return {"dynamic_perplexity": perplexity(nll.value)}
