"""Dynamic evaluation: a language model that continues to learn on the text it is evaluated on."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dlref.interfaces import FixedContext, LanguageModel, TokenizedText, declares
from dlref.metrics import Mean, perplexity
from dlref.reports import Report


class DynamicEvaluation(Report):
    """`dynamic_perplexity`, that of a copy of the network which trains on the split as it predicts it (Krause et al. 2018,
    *Dynamic evaluation of neural sequence models*, equations 4 and 5, with plain gradients).

    After each segment of `seq_len` tokens the weights take a gradient step with learning rate `lr`, and decay towards the
    trained weights by the fraction `decay`. Every token is predicted before the network trains on it. Compare it only with
    the dynamic perplexity of another network, not with a perplexity. The network itself does not change.
    """

    def __init__(self, lr: float = 0.5, decay: float = 1e-3, seq_len: int = 20, clip_norm: float = 1.0) -> None:
        self.lr, self.decay, self.seq_len, self.clip_norm = lr, decay, seq_len, clip_norm

    def __call__(self, net: Any, data: Any, split: str) -> dict[str, Any]:
        carries_state = declares(net, LanguageModel) and not declares(net, FixedContext)
        if not carries_state or not declares(data, TokenizedText):
            return {}
        learner: Any = copy.deepcopy(net)
        for table in (layer for layer in learner.modules() if isinstance(layer, nn.Embedding)):
            table.sparse = False  # a sparse gradient has no norm
        weights, trained = list(learner.parameters()), list(net.parameters())
        nll, state = Mean(0.0, 0), None
        text = data.split(split).long()[None]
        for start in range(0, text.shape[1] - 1, self.seq_len):
            segment = text[:, start : start + self.seq_len + 1].to(weights[0].device)
            # cuDNN computes no gradient in evaluation mode, which the network is in so that nothing is dropped.
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
                logits, state = learner(segment[:, :-1], state)
                loss = F.cross_entropy(logits[0], segment[0, 1:], reduction="sum")
                gradients = torch.autograd.grad(loss / self.seq_len, weights)
            nll = Mean(nll.total + loss.item(), nll.count + segment.shape[1] - 1)
            state = tuple(part.detach() for part in state)
            norm = float(nn.utils.get_total_norm(gradients))
            step = self.lr * min(1.0, self.clip_norm / max(norm, 1e-12))
            for weight, trained_weight, gradient in zip(weights, trained, gradients, strict=True):
                weight.detach().lerp_(trained_weight, self.decay).sub_(gradient, alpha=step)
        return {"dynamic_perplexity": perplexity(nll.value)}
