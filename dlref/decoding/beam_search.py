"""Beam search, with the length penalty of Wu et al. 2016.

B batch, N unfinished rows, W beam width, T decoded tokens so far, L most tokens, V vocabulary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dlref import operators
from dlref.decoding.sampling import mask_tokens
from dlref.errors import ConfigError
from dlref.interfaces import Decoder, State

LENGTH_PENALTY = 0.6  # α of Vaswani et al. 2017, section 6.1


def check_beam(width: int, length_penalty: float) -> None:
    """Raises ConfigError for settings that are out of range."""
    if width < 1:
        raise ConfigError(f"the beam width is {width}; it takes 1 or more sequences")
    if not 0 <= length_penalty < math.inf:
        raise ConfigError(f"the length penalty is {length_penalty}; it takes 0, for none, or more")


def best_extensions(log_p: Tensor, logits: Tensor, forbidden: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """The 2W most probable extensions by one token of W hypotheses, the most probable first.

    Takes the hypotheses' log-probabilities `log_p` [N, W] and the logits of their next tokens [N, W, V]. Returns the
    extensions' log-probabilities, their last tokens and the hypotheses that they extend (0 .. W - 1), each [N, 2W]. At most
    W extensions end, one for each hypothesis, so at least W of the 2W do not.
    """
    width = log_p.shape[1]
    token_log_p = mask_tokens(logits.flatten(0, 1).log_softmax(1), forbidden)
    token_log_p, tokens = token_log_p.topk(min(width + 1, logits.shape[2]))
    token_log_p = operators.as_float64(token_log_p).view(*log_p.shape, -1)
    token_log_p = token_log_p.where(log_p[:, :, None] > -math.inf, 0)  # an impossible hypothesis stays at -∞, never NaN
    extended, index = (log_p[:, :, None] + token_log_p).flatten(1).topk(min(2, logits.shape[2]) * width)
    return extended, tokens.view(len(log_p), -1).gather(1, index), index // token_log_p.shape[2]


@torch.no_grad()
def beam_search(
    net: Decoder,
    state: State,
    token: Tensor,
    length: int | Tensor,
    width: int,
    eos: int,
    length_penalty: float = LENGTH_PENALTY,
    forbidden: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """The best hypotheses of at most `length` tokens after `token` [B]: tokens [B, L] padded with `eos`, and scores [B].

    A hypothesis of n tokens, `eos` included, has the score log p / ((5 + n) / 6) ** length_penalty (Wu et al. 2016,
    equation 14). At each step the W most probable unfinished extensions stay in the beam, and an extension that ends with
    `eos` is finished if it is among the W most probable of all. A row ends when W hypotheses are finished or none in the
    beam can reach a better score than the best finished one. Hypotheses cut at `length`, which may differ by row [B],
    count only where none is finished. `forbidden` tokens are masked after the softmax, except where no other token is
    possible. Raises ConfigError for settings out of range.
    """
    check_beam(width, length_penalty)

    def score(log_p: Tensor, tokens: int | Tensor) -> Tensor:
        return log_p / ((5 + tokens) / 6) ** length_penalty

    limits = torch.as_tensor(length, device=token.device).expand(len(token))
    if (shortest := int(limits.min())) < 1:
        raise ConfigError(f"length is {shortest}; it takes 1 or more tokens")
    best_tokens = token[:, None].new_full((len(token), int(limits.max())), eos)
    best_score = operators.as_float64(torch.full((len(token),), -math.inf, device=token.device))
    # The unfinished rows, and how many hypotheses of each are finished, each [N].
    rows, finished = torch.arange(len(token), device=token.device), torch.zeros_like(token)
    log_p = best_score[:, None].repeat(1, width)  # [N, W]: only the first of a row's hypotheses exists yet
    log_p[:, 0] = 0
    beam = best_tokens[:, None, :0].expand(-1, width, -1)  # tokens of the hypotheses [N, W, T]
    state, token = tuple(part.repeat_interleave(width, 0) for part in state), token.repeat_interleave(width)
    for count in range(1, best_tokens.shape[1] + 1):
        logits, state = net.step(state, token)
        log_p, tokens, parent = best_extensions(log_p, logits.view(*log_p.shape, -1), forbidden)
        ends = (tokens == eos)[:, :width] & (log_p[:, :width] > -math.inf)
        finished = finished + ends.sum(1)
        best_end, which = log_p[:, :width].where(ends, -math.inf).max(1)
        better = (score(best_end, count) > best_score[rows]).nonzero()[:, 0]
        best_score[rows[better]] = score(best_end[better], count)
        best_tokens[rows[better], : count - 1] = beam[better, parent[better, which[better]]]

        log_p, order = log_p.masked_fill(tokens == eos, -math.inf).topk(width)
        tokens, parent = tokens.gather(1, order), parent.gather(1, order)
        beam = torch.cat([beam.gather(1, parent[:, :, None].expand_as(beam)), tokens[:, :, None]], 2)
        # A log-probability only falls with more tokens, and is divided by most at the longest length.
        ended = (finished >= width) | (score(log_p[:, 0], limits[rows]) <= best_score[rows]) | (count >= limits[rows])
        cut = (ended & (best_score[rows] == -math.inf)).nonzero()[:, 0]
        best_score[rows[cut]] = score(log_p[cut, 0], count)
        best_tokens[rows[cut], :count] = beam[cut, 0]

        unfinished = (~ended).nonzero()[:, 0]
        if not len(unfinished):
            break
        index = (torch.arange(len(rows), device=rows.device)[:, None] * width + parent)[unfinished].flatten()
        state, token = tuple(part.index_select(0, index) for part in state), tokens[unfinished].flatten()
        rows, finished, log_p, beam = (each[unfinished] for each in (rows, finished, log_p, beam))
    return best_tokens[:, :count], best_score
