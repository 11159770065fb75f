"""Actor–critic networks, a policy and a value function: Sutton et al. 2000, Mnih et al. 2016."""

from collections.abc import Sequence

from torch import Tensor, nn

from dlref.interfaces import ActorCritic
from dlref.models.layers import Activation
from dlref.models.mlp import MLP


class ActorCriticMLP(nn.Module, ActorCritic):
    """Two multi-layer perceptrons of the same `widths`: one for the policy logits, one for the value of the state."""

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], activation: Activation = "tanh") -> None:
        super().__init__()
        self.actor = MLP(inputs, outputs, widths, activation)
        self.critic = MLP(inputs, 1, widths, activation)

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs] -> [B, outputs]
        return self.actor(x)

    def policy_and_value(self, x: Tensor) -> tuple[Tensor, Tensor]:  # [B, inputs] -> [B, outputs], [B]
        """Policy logits, as `forward` returns them, and the value of each state."""
        return self.actor(x), self.critic(x).squeeze(1)
