"""Deep Q-learning: Mnih et al. 2015, algorithm 1."""

import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators
from dlref.errors import ConfigError
from dlref.metrics import Mean, Totals
from dlref.objectives import at_least_float32
from dlref.objectives.rl import FromPlay


class QLearning(FromPlay):
    """Huber loss between Q(s, a) and Σ_k γ^k r_k + γ^n max_a' Q_target(s', a'), the latter not where the episode terminated.

    From an error of `huber` on the loss is linear. The target network is a copy, renewed every `copy_every` steps or,
    with `follow`, drawn by that share towards it at each step (Lillicrap et al. 2016). With `double` the network chooses a'
    and the target network tells its value (van Hasselt et al. 2016). In evaluation a batch is a finished episode and only
    its return and length are counted. Raises ConfigError for a discount or a share outside [0, 1].
    """

    def __init__(
        self,
        net: nn.Module,
        discount: float = 0.99,
        copy_every: int = 100,
        follow: float | None = None,
        double: bool = False,
        huber: float = 1.0,
    ) -> None:
        super().__init__(net)
        if not 0 <= discount <= 1 or not 0 <= (follow or 0) <= 1 or copy_every < 1 or huber <= 0:
            raise ConfigError(
                f"objective.discount is {discount} and follow {follow}, from 0 to 1, copy_every {copy_every}, 1 or more, "
                f"and huber {huber}, above 0"
            )
        self.discount, self.copy_every, self.follow, self.chooses = discount, copy_every, follow, double
        self.huber = huber
        self.target = copy.deepcopy(net).requires_grad_(False)
        # Whether only a copy changes what it says; a buffer of it (batch norm) is shared among the ranks now and then.
        self.stays = follow is None and not double and not list(self.target.buffers())
        self.updates = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.drawn: Any = None  # what the last batch was a part of

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.target.eval()
        return self

    def learn(self, batch: Any) -> Totals:
        q = at_least_float32(self.net(batch.states)).gather(1, batch.actions[:, None])
        targets = self.targets(batch)[:, None]
        if batch.errors is not None:
            batch.errors.copy_((q.detach() - targets).squeeze(1))
        if batch.weights is None:
            loss = F.huber_loss(q, targets, reduction="sum", delta=self.huber)
        else:
            loss = (F.huber_loss(q, targets, reduction="none", delta=self.huber).squeeze(1) * batch.weights).sum()
        count = len(q)
        return {
            "loss": Mean(loss, count),
            "rl/q": Mean(q.detach().sum(), count),
            "rl/epsilon": Mean(batch.epsilon, 1),
            "rl/replay_ratio": Mean(count, batch.fresh),  # transitions learned from for each that is new
        }

    def targets(self, batch: Any) -> Tensor:  # [B]
        """What Q(s, a) should be. As long as the target network alone says it and stays, of all batches drawn together."""
        if batch.drawn is None or not self.stays:
            return self.bootstrap(batch)
        if self.drawn is not batch.drawn:  # to set an attribute of a module takes as long as to look a small tensor up
            self.drawn = batch.drawn
        if self.drawn.targets is None:
            self.drawn.targets = self.bootstrap(self.drawn.whole)
        return self.drawn.targets[batch.part]

    @torch.no_grad()
    def bootstrap(self, batch: Any) -> Tensor:  # [B]
        """The rewards that followed, and the value after them."""
        after = at_least_float32(self.target(batch.next_states))
        if self.chooses:
            after = after.gather(1, self.net(batch.next_states).argmax(1, keepdim=True)).squeeze(1)
        else:
            after = after.amax(1)
        steps = batch.rewards.shape[1]
        powers = self.discount ** torch.arange(steps + 1, device=after.device).to(after.dtype)
        share = powers[batch.steps] * ~batch.terminated
        return (batch.rewards.to(after.dtype) * powers[:steps]).sum(1) + share * after

    def after_step(self) -> None:
        updates = int(self.updates.add_(1))
        if self.follow is not None:
            with torch.no_grad():
                operators.interpolate_(list(self.target.parameters()), list(self.net.parameters()), self.follow)
            for mine, theirs in zip(self.target.buffers(), self.net.buffers(), strict=True):
                mine.copy_(theirs)
        elif updates % self.copy_every == 0:
            self.target.load_state_dict(self.net.state_dict())
            if self.drawn is not None:
                self.drawn.targets = None

    def summarize(self, totals: Totals) -> dict[str, float]:
        """Also the updates so far."""
        figures = super().summarize(totals)
        return figures | {"rl/updates": float(self.updates)} if "loss" in totals else figures
