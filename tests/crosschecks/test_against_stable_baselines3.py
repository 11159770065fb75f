"""Stable-Baselines3 trains on the same experience with the same weights: DQN, A2C, and tables as linear networks."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from dlref.data.rl.environments import Step
from dlref.data.rl.episodes import EpisodeTotals, as_input
from dlref.data.rl.experience import Experience, Transitions
from dlref.data.rl.prefetch import PrefetchedBatches
from dlref.data.rl.replay import ReplayBuffer
from dlref.data.rl.rollouts import Rollout
from dlref.models.actor_critic import ActorCriticMLP
from dlref.models.mlp import MLP
from dlref.models.q_table import QTable
from dlref.models.strided_cnn import StridedCNN
from dlref.objectives.policy_gradient import PolicyGradient
from dlref.objectives.q_learning import QLearning
from dlref.optimizers.adam import Adam
from dlref.studies import temporal_difference
from dlref.studies._mdp import MDP, Transition
from dlref.training import gradient_norm as clipping
from tests.crosschecks.rows import crosscheck

sb3: Any = pytest.importorskip("stable_baselines3")
buffers: Any = pytest.importorskip("stable_baselines3.common.buffers")
logger: Any = pytest.importorskip("stable_baselines3.common.logger")
utils: Any = pytest.importorskip("stable_baselines3.common.utils")
vec_env: Any = pytest.importorskip("stable_baselines3.common.vec_env")
stacked: Any = pytest.importorskip("stable_baselines3.common.vec_env.stacked_observations")
Agree = Callable[..., None]
SB3 = "stable-baselines3"
EPSILON = 0.3
IN_DOUBLE = "same weights, in float64"
DYADIC = 0.75  # a discount whose powers, like rewards in eighths, SB3 does not round to float32
FRAME, FRAMES = (spaces.Box(0, 255, (depth, 3, 2), np.uint8) for depth in (1, 4))


class Toy(gymnasium.Env[Any, Any]):
    """Spaces alone: the experience is written by the tests."""

    observation_space = spaces.Box(-4, 4, (4,))
    action_space = spaces.Discrete(3)


class States(gymnasium.Env[Any, Any]):
    """Numbered states and actions alone."""

    def __init__(self, states: int, actions: int) -> None:
        self.observation_space, self.action_space = spaces.Discrete(states), spaces.Discrete(actions)


class Made(NamedTuple):
    """A step of E environments."""

    states: np.ndarray  # [E, 4]
    actions: np.ndarray  # [E]
    step: Step


def experience(steps: int, envs: int, seed: int = 0) -> Iterator[Made]:
    """Random transitions in which episodes of all environments terminate or are truncated now and then."""
    random = np.random.default_rng(seed)
    states = random.normal(size=(envs, 4)).astype(np.float32)
    for _ in range(steps):
        after, rewards = random.normal(size=(envs, 4)).astype(np.float32), random.integers(-16, 17, envs) / 8
        kind = random.random(envs)
        terminated, truncated = kind < 0.15, (kind >= 0.15) & (kind < 0.3)
        step = Step(np.arange(envs), rewards.astype(np.float32), after, terminated, truncated)
        yield Made(states, random.integers(3, size=envs), step)
        ended = (terminated | truncated)[:, None]
        states = np.where(ended, random.normal(size=(envs, 4)).astype(np.float32), after)


def fill(theirs: Any, ours: ReplayBuffer, steps: int, envs: int) -> None:
    for states, actions, step in experience(steps, envs):
        ours.add(states, actions, step)
        infos = [{"TimeLimit.truncated": bool(cut)} for cut in step.truncated]
        theirs.add(states, step.observations, actions, step.rewards, step.terminated | step.truncated, infos)


def copy_linear(theirs: nn.Module, ours: nn.Module) -> None:
    """The weights of all affine layers, in their order."""
    layers = [[m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)] for net in (theirs, ours)]
    for source, destination in zip(*layers, strict=True):
        destination.load_state_dict(source.state_dict())


def weights(*nets: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for net in nets for p in net.parameters()])


def gradients(*nets: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for net in nets for p in net.parameters() if p.grad is not None])


def in_double(model: Any, *extractors: nn.Module) -> Any:
    """The model's networks in float64 from its features on; SB3 makes every observation float32."""
    model.policy.double()
    for extractor in extractors:
        extractor.register_forward_hook(lambda module, inputs, output: output.double())
    model.set_logger(logger.configure(None, []))
    return model


def their_dqn(env: Any, n_steps: int = 1, net: Any = (16, 12), **settings: Any) -> Any:
    settings = {"learning_rate": 0.01, "buffer_size": 50, "gamma": DYADIC, "max_grad_norm": 1e9} | settings
    policy = {"net_arch": list(net)} | settings.pop("policy_kwargs", {})
    model = sb3.DQN("MlpPolicy", env, n_steps=n_steps, policy_kwargs=policy, device="cpu", seed=3, **settings)
    for layer in model.q_net_target.modules():  # from the first, so that one network is never taken for the other
        if isinstance(layer, nn.Linear) and net:
            nn.init.normal_(layer.weight, std=0.5)
    return in_double(model, model.q_net.features_extractor, model.q_net_target.features_extractor)


class Learner(NamedTuple):
    """dlref's side of DQN, whose weights and replay memory are those of `model`."""

    objective: QLearning
    play: Experience
    model: Any

    def batches(self, rows: np.ndarray) -> list[Transitions]:
        """Batches [N] of rows [N, B], looked up together as in training."""
        count, place, prefetched = rows.shape[1], (torch.device("cpu"), torch.float64), PrefetchedBatches(rows.ravel())
        return [prefetched.take(count, lambda rows: self.play.transitions(rows, count, *place)) for _ in rows]

    def batch(self, rows: np.ndarray) -> Transitions:
        return self.batches(rows[None])[0]


def learner(model: Any, n_steps: int, steps: int, **settings: Any) -> Learner:
    net = MLP(4, 3, (16, 12)).double()
    objective = QLearning(net, discount=model.gamma, **settings)
    copy_linear(model.q_net, net)
    copy_linear(model.q_net_target, objective.target)
    play = Experience("CartPole-v1", n_step=n_steps)
    play.replay = ReplayBuffer(50, (4,), np.float32)
    fill(model.replay_buffer, play.replay, steps, 1)
    return Learner(objective.train(), play, model)


def their_buffer(rows: int, space: spaces.Box, envs: int, n_steps: int) -> Any:
    if n_steps == 1:
        return buffers.ReplayBuffer(rows, space, Toy.action_space, "cpu", envs)
    return buffers.NStepReplayBuffer(rows, space, Toy.action_space, "cpu", envs, n_steps=n_steps, gamma=DYADIC)


@crosscheck(
    "replay memory and n-step returns", SB3, "the same transitions of 1 and 3 environments, before and after it is full"
)
@pytest.mark.parametrize("steps", [9, 61])
@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_replay(n_steps: int, envs: int, steps: int, agree: Agree) -> None:
    theirs = their_buffer(20 * envs, Toy.observation_space, envs, n_steps)
    ours = ReplayBuffer(20 * envs, (4,), np.float32, envs)
    fill(theirs, ours, steps, envs)
    compare_samples(theirs, ours, steps, envs, n_steps, agree)


def compare_samples(theirs: Any, ours: ReplayBuffer, steps: int, envs: int, n_steps: int, agree: Agree) -> None:
    """200 transitions of two memories of 20 steps."""
    random = np.random.default_rng(1)
    slots = random.integers(min(steps, 20), size=200)
    np.random.seed(2)
    which = np.random.randint(0, envs, size=200)  # the environments that SB3 draws
    np.random.seed(2)
    expected = theirs._get_samples(slots)
    sample = ours.sample(slots * envs + which, n_steps)
    agree(sample.states, expected.observations)
    agree(sample.actions, expected.actions[:, 0])
    agree(sample.next_states, expected.next_observations)
    agree(sample.terminated, expected.dones[:, 0])
    agree(sample.rewards @ DYADIC ** np.arange(n_steps), expected.rewards[:, 0])
    if n_steps > 1:
        agree(DYADIC**sample.steps, expected.discounts[:, 0])


@crosscheck(
    "replay memory of stacked frames",
    SB3,
    "whole states in SB3, by its `StackedObservations`; 1 and 3 environments, before and after it is full",
)
@pytest.mark.parametrize("steps", [9, 61])
@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_replay_of_frames(n_steps: int, envs: int, steps: int, agree: Agree) -> None:
    theirs, stacks = (
        their_buffer(20 * envs, FRAMES, envs, n_steps),
        stacked.StackedObservations(envs, 4, FRAME, "first"),
    )
    ours = ReplayBuffer(20 * envs, FRAMES.shape, np.uint8, envs, stacked=True)
    random = np.random.default_rng(13)
    states = stacks.reset(frames(envs, random)).copy()
    for _, actions, step in experience(steps, envs):
        ended = step.terminated | step.truncated
        infos = [{"TimeLimit.truncated": cut, "terminal_observation": frames(1, random)[0]} for cut in step.truncated]
        following, infos = stacks.update(frames(envs, random), ended, infos)
        last = [infos[env]["terminal_observation"] if ended[env] else following[env] for env in range(envs)]
        step = step._replace(observations=np.stack(last))
        ours.add(states, actions, step)
        theirs.add(states, step.observations, actions, step.rewards, ended, infos)
        states = following.copy()
    compare_samples(theirs, ours, steps, envs, n_steps, agree)


def frames(count: int, random: np.random.Generator) -> np.ndarray:
    return random.integers(1, 256, (count, *FRAME.shape), np.uint8)


@crosscheck("images as input: numbers from 0 to 1", SB3, "`preprocess_obs` of bytes; float32")
def test_images_as_input(agree: Agree) -> None:
    preprocessing: Any = pytest.importorskip("stable_baselines3.common.preprocessing")
    images = np.arange(256, dtype=np.uint8).reshape(2, 4, 4, 8)
    found = as_input(images, torch.device("cpu"), torch.float32)
    agree(found, preprocessing.preprocess_obs(torch.from_numpy(images), spaces.Box(0, 255, (4, 4, 8), np.uint8)))


@crosscheck(
    "DQN: Huber loss with δ = 1, update with Adam, target network",
    SB3,
    f"{IN_DOUBLE}; the same replay memory and sampled transitions; dlref fetches all batches before the first update",
)
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"target_update_interval": 2}, {"target_update_interval": 2}),
        ({"target_update_interval": 1, "tau": 0.1}, {"tau": 0.1}),
    ],
    ids=["copied", "averaged"],
)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_dqn(
    n_steps: int, theirs: dict[str, Any], ours: dict[str, Any], agree: Agree, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = their_dqn(Toy(), n_steps, **theirs)
    us = learner(model, n_steps, 80, **ours)
    net, optimizer = us.objective.net, Adam(us.objective.net.parameters(), lr=0.01, fused=True)
    drawn = np.random.default_rng(4).integers(50, size=(6, 32))
    for rows, batch in zip(drawn, us.batches(drawn), strict=True):
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, **__: model.replay_buffer._get_samples(rows))  # noqa: B023
        model.train(gradient_steps=1, batch_size=32)
        model._on_step()
        loss = us.objective(batch)["loss"]
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
        us.objective.after_step()
        agree(loss.value, model.logger.name_to_value["train/loss"], atol=1e-12)
        agree(weights(net), weights(model.q_net), atol=1e-12)
        agree(weights(us.objective.target), weights(model.q_net_target), atol=1e-12)


@crosscheck(
    "DQN: Huber loss with other δ, gradient",
    SB3,
    "SB3's is 1: its rewards and output layers are divided by δ, its loss is multiplied by δ²; float64",
)
@pytest.mark.parametrize("weighted", [False, True], ids=["without weights", "all weights 1"])
@pytest.mark.parametrize("delta", [0.5, 2.0])
def test_huber(delta: float, weighted: bool, agree: Agree, monkeypatch: pytest.MonkeyPatch) -> None:
    model = their_dqn(Toy())
    us, rows = learner(model, 1, 80, huber_delta=delta), np.arange(50)
    model.replay_buffer.rewards /= delta
    for net in (model.q_net, model.q_net_target):
        for parameter in net.q_net[-1].parameters():
            parameter.data /= delta
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, **__: model.replay_buffer._get_samples(rows))
    errors = torch.zeros(len(rows)).double()
    batch = us.batch(rows)._replace(td_errors=errors, weights=torch.ones_like(errors) if weighted else None)
    model.train(gradient_steps=1, batch_size=len(rows))
    loss = us.objective(batch)["loss"]
    (loss.total / loss.count).backward()
    assert 0 < (errors.abs() < delta).sum() < len(errors), "the loss is not square of some errors and linear of others"
    agree(loss.value, delta**2 * model.logger.name_to_value["train/loss"], rtol=1e-12)
    agree(gradients(*us.objective.net.layers[:-1]), delta**2 * gradients(*model.q_net.q_net[:-1]), rtol=1e-12)
    agree(gradients(us.objective.net.layers[-1]), delta * gradients(model.q_net.q_net[-1]), rtol=1e-12)


@crosscheck(
    "DQN with prioritized replay: weighted loss, gradient and errors",
    SB3,
    "an importance weight of k stands for a transition that SB3's batch has k times; float64",
)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_importance_weights(n_steps: int, agree: Agree, monkeypatch: pytest.MonkeyPatch) -> None:
    model = their_dqn(Toy(), n_steps)
    us, rows = learner(model, n_steps, 80), np.arange(50)
    times = np.random.default_rng(11).integers(1, 5, size=50)
    sample = model.replay_buffer._get_samples(rows)
    with torch.no_grad():
        following = model.q_net_target(sample.next_observations).amax(1, keepdim=True)
        chosen = model.q_net(sample.observations).gather(1, sample.actions)
    discounts = model.gamma if n_steps == 1 else sample.discounts
    targets = sample.rewards + (1 - sample.dones) * discounts * following
    repeated = model.replay_buffer._get_samples(np.repeat(rows, times))
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, **__: repeated)
    model.train(gradient_steps=1, batch_size=int(times.sum()))
    batch = us.batch(rows)._replace(weights=torch.from_numpy(times).double(), td_errors=torch.zeros(50).double())
    loss = us.objective(batch)["loss"]
    (loss.total / int(times.sum())).backward()
    agree(loss.count, len(rows))
    agree(loss.total / int(times.sum()), model.logger.name_to_value["train/loss"], rtol=1e-12)
    agree(gradients(us.objective.net), gradients(model.q_net), rtol=1e-12)
    agree(batch.td_errors, (chosen - targets)[:, 0], atol=1e-12)


@crosscheck("DQN: clipped gradient", SB3, f"{IN_DOUBLE}; one replay memory, the same rows")
@pytest.mark.parametrize("most", [0.05, 50.0], ids=["clipped", "kept"])
def test_clipping(most: float, agree: Agree, monkeypatch: pytest.MonkeyPatch) -> None:
    model = their_dqn(Toy(), max_grad_norm=most)
    us, rows = learner(model, 1, 80), np.arange(20)
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, **__: model.replay_buffer._get_samples(rows))
    model.train(gradient_steps=1, batch_size=20)
    loss = us.objective(us.batch(rows))["loss"]
    (loss.total / loss.count).backward()
    gradient = clipping.values(us.objective.net.parameters())
    clipping.scale_(gradient, clipping.clip_factor(clipping.norm(gradient), most))
    agree(gradients(us.objective.net), gradients(model.q_net), rtol=1e-5)  # torch adds 1e-6 to the norm


@crosscheck("double DQN targets", SB3, "no double DQN in SB3: computed from its two networks and its replay memory")
@pytest.mark.parametrize("n_steps", [1, 3])
def test_double_dqn(n_steps: int, agree: Agree) -> None:
    model = their_dqn(Toy(), n_steps)
    us = learner(model, n_steps, 80, double=True)
    rows = np.arange(50)
    sample = model.replay_buffer._get_samples(rows)
    with torch.no_grad():
        chosen = model.q_net(sample.next_observations).argmax(1, keepdim=True)
        following = model.q_net_target(sample.next_observations).gather(1, chosen)
    assert not torch.equal(following.squeeze(1), model.q_net_target(sample.next_observations).amax(1)), "as without"
    discounts = model.gamma if n_steps == 1 else sample.discounts
    expected = sample.rewards + (1 - sample.dones) * discounts * following
    agree(us.objective.targets(us.batch(rows)), expected.squeeze(1), atol=1e-12)


@crosscheck(
    "network of DQN for images", SB3, "NatureCNN and one affine layer, same weights, float64; values and gradients"
)
def test_nature_cnn(agree: Agree) -> None:
    layers: Any = pytest.importorskip("stable_baselines3.common.torch_layers")
    features = layers.NatureCNN(spaces.Box(0, 255, (4, 84, 84), np.uint8))
    theirs, ours = nn.Sequential(features, nn.Linear(512, 6)).double(), StridedCNN(84, 84, 6, in_channels=4).double()
    copy_linear(theirs, ours)
    images, direction = torch.rand(3, 4, 84, 84).double(), torch.randn(3, 6).double()
    agree(ours(images), theirs(images), atol=1e-12)
    for net in (ours, theirs):
        (net(images) * direction).sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        agree(mine.grad, other.grad, rtol=1e-10)


class DoubleRolloutBuffer(buffers.RolloutBuffer):
    """SB3's rollout buffer, whose arrays are float64."""

    def reset(self) -> None:
        super().reset()
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(self, name, getattr(self, name).astype(np.float64))


class Recording(vec_env.VecEnvWrapper):
    """Keeps the transitions that SB3 sees; its rewards are float64, to which SB3 adds values where it bootstraps."""

    def __init__(self, venv: Any) -> None:
        super().__init__(venv)
        self.steps: list[tuple[np.ndarray, ...]] = []

    def reset(self) -> np.ndarray:
        self.last = self.venv.reset()
        return self.last

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions.copy()
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        observations, rewards, ended, infos = self.venv.step_wait()
        after, truncated = observations.copy(), np.array([info["TimeLimit.truncated"] for info in infos])
        for env in np.flatnonzero(ended):
            after[env] = infos[env]["terminal_observation"]
        self.steps.append((self.last, self.actions, rewards.copy(), after, ended & ~truncated, ended))
        self.last = observations
        return observations, rewards.astype(np.float64), ended, infos

    def rollout(self) -> Rollout:
        columns = [torch.from_numpy(np.stack(column)) for column in zip(*self.steps, strict=True)]
        states, actions, rewards, after, terminated, ended = columns
        valid = torch.ones_like(ended)
        return Rollout(
            states.double(), actions, rewards.double(), after.double(), terminated, ended, valid, EpisodeTotals(), 0
        )


def their_a2c(steps: int = 40, **settings: Any) -> tuple[Any, Rollout]:
    """A2C that has played CartPole in 3 environments, with episodes of at most 17 steps, and has not learned yet."""
    make = lambda: gymnasium.wrappers.TimeLimit(gymnasium.make("CartPole-v1").unwrapped, 17)  # noqa: E731
    env = Recording(vec_env.DummyVecEnv([make] * 3))
    settings = {"gamma": 0.97, "max_grad_norm": 1e9, "use_rms_prop": False, "learning_rate": 0.01} | settings
    model = sb3.A2C(
        "MlpPolicy",
        env,
        n_steps=steps,
        policy_kwargs={"net_arch": {"pi": [16, 12], "vf": [16, 12]}, "ortho_init": False},
        rollout_buffer_class=DoubleRolloutBuffer,
        device="cpu",
        seed=6,
        **settings,
    )
    in_double(model, model.policy.features_extractor)
    if settings.get("vf_coef") == 0:  # no critic: all values are 0
        for parameter in model.policy.value_net.parameters():
            nn.init.zeros_(parameter)
    _, callback = model._setup_learn(1000)
    model.collect_rollouts(env, callback, model.rollout_buffer, steps)
    rollout = env.rollout()
    truncated = rollout.ended & ~rollout.terminated
    assert rollout.terminated.any(), "no episode has terminated"
    assert truncated.any(), "and none was cut off"
    assert not rollout.ended[-1].all(), "and none goes on"
    return model, rollout


def with_gaps(rollout: Rollout) -> Rollout:
    """The same steps [T, E] and others that were not taken, with meaningless fields: one after each end of an episode, as
    where a step only resets, and at the end of environments that have fewer steps, as where episodes differ in length."""
    random = torch.Generator().manual_seed(12)
    steps = [
        [row for t, ended in enumerate(rollout.ended[:, env].tolist()) for row in ([t, -1] if ended else [t])]
        for env in range(rollout.ended.shape[1])
    ]
    longest = max(map(len, steps)) + 1
    order = torch.tensor([rows + [-1] * (longest - len(rows)) for rows in steps]).T  # [T', E], -1 for none
    taken, fields = order >= 0, []
    for field in rollout[:6]:
        filled = field[order.clamp_min(0), torch.arange(order.shape[1])]
        noise = torch.randn(filled.shape, generator=random, dtype=torch.float64) * 10
        meaningless = noise.to(field.dtype) if field.is_floating_point() else (noise > 0).to(field.dtype)
        fields.append(torch.where(taken.view(*taken.shape, *[1] * (filled.ndim - 2)), filled, meaningless))
    return rollout._replace(**dict(zip(Rollout._fields, [*fields, taken], strict=False)))


each_rollout = pytest.mark.parametrize(
    "prepare", [lambda rollout: rollout, with_gaps], ids=["all steps", "some steps not taken"]
)
GAPS = "with and without masked steps after the end of an episode"


def copied_actor_critic(model: Any) -> ActorCriticMLP:
    net = ActorCriticMLP(4, 2, (16, 12), "tanh").double()
    policy = model.policy
    copy_linear(nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net), net.actor)
    copy_linear(nn.Sequential(policy.mlp_extractor.value_net, policy.value_net), net.critic)
    return net


@crosscheck(
    "returns and generalized advantages", SB3, "one rollout of CartPole, with terminated and truncated episodes"
)
@pytest.mark.parametrize("trace", [0.0, 0.9, 1.0])
def test_advantages(trace: float, agree: Agree) -> None:
    model, rollout = their_a2c(gae_lambda=trace)
    net = copied_actor_critic(model)
    objective = PolicyGradient(net, discount=0.97, gae_lambda=trace, value_coef=1.0)
    with torch.no_grad():
        values, following = (
            net.policy_and_value(states.flatten(0, 1))[1].view(rollout.rewards.shape)
            for states in (rollout.states, rollout.next_states)
        )
    agree(values, model.rollout_buffer.values, atol=1e-12)
    advantages = objective.advantages(rollout, values, following)
    agree(advantages, model.rollout_buffer.advantages, atol=1e-12)
    agree(advantages + values, model.rollout_buffer.returns, atol=1e-12)


@crosscheck(
    "actor–critic: gradient and update with Adam",
    SB3,
    f"{IN_DOUBLE}; one rollout, {GAPS}; `value_coef` is 2 × `vf_coef`",
)
@each_rollout
@pytest.mark.parametrize("normalized", [False, True], ids=["plain", "normalized"])
@pytest.mark.parametrize("entropy", [0.0, 0.05])
def test_actor_critic(entropy: float, normalized: bool, prepare: Callable[[Rollout], Rollout], agree: Agree) -> None:
    model, rollout = their_a2c(gae_lambda=0.9, ent_coef=entropy, vf_coef=0.3, normalize_advantage=normalized)
    net = copied_actor_critic(model)
    objective = PolicyGradient(
        net, 0.97, gae_lambda=0.9, value_coef=0.6, entropy_coef=entropy, normalize_advantages=normalized
    ).train()
    totals = objective(prepare(rollout))
    (totals["loss"].total / totals["loss"].count).backward()
    optimizer = Adam(net.parameters(), lr=0.01, eps=1e-5, fused=True)
    optimizer.step()
    model.train()
    policy = model.policy
    parts = [[policy.mlp_extractor.policy_net, policy.action_net], [policy.mlp_extractor.value_net, policy.value_net]]
    logged = model.logger.name_to_value
    near = 1e-7 if normalized else 1e-12  # SB3 divides by σ + 1e-8
    for ours, theirs in zip((net.actor, net.critic), parts, strict=True):
        agree(gradients(ours), gradients(*theirs), rtol=near)
        agree(weights(ours), weights(*theirs), atol=near)
    agree(totals["rl/entropy"].value, -logged["train/entropy_loss"], atol=1e-12)
    agree(totals["rl/value_error"].value, logged["train/value_loss"], rtol=1e-12)


@crosscheck(
    "REINFORCE: gradient",
    SB3,
    f"A2C with λ = 1 and a critic whose values are all 0; one rollout of CartPole, {GAPS}",
)
@each_rollout
@pytest.mark.parametrize("normalized", [False, True], ids=["plain", "normalized"])
def test_reinforce(normalized: bool, prepare: Callable[[Rollout], Rollout], agree: Agree) -> None:
    model, rollout = their_a2c(gae_lambda=1.0, vf_coef=0, normalize_advantage=normalized)
    net = copied_actor_critic(model).actor
    loss = PolicyGradient(net, 0.97, normalize_advantages=normalized).train()(prepare(rollout))["loss"]
    (loss.total / loss.count).backward()
    model.train()
    near = 1e-8 if normalized else 1e-12  # SB3 divides by σ + 1e-8
    agree(gradients(net), gradients(model.policy.mlp_extractor.policy_net, model.policy.action_net), rtol=near)
    agree(loss.value, model.logger.name_to_value["train/policy_loss"], atol=near)


def some_process() -> MDP:
    """Six states in all of which episodes go on or end, so that a value that should not follow an end would be seen.

    Its rewards are so small that no error exceeds 1, from where on DQN's loss is linear.
    """
    random = np.random.default_rng(10)

    def outcome(over: bool) -> tuple[float, int, float, bool]:
        return 0.5, int(random.integers(6)), float(random.integers(-8, 9)) / 64, over

    outcomes = {s: {a: [outcome(False), outcome(bool(random.random() < 0.3))] for a in range(3)} for s in range(6)}
    return MDP(outcomes, np.full(6, 1 / 6), DYADIC)


def recorded(mdp: MDP, monkeypatch: pytest.MonkeyPatch) -> list[Transition]:
    """A list to which every transition of the process is added."""
    moves: list[Transition] = []
    step = mdp.step

    def recording(state: int, action: int, rng: np.random.Generator) -> tuple[int, float, bool]:
        after, reward, over = step(state, action, rng)
        moves.append((state, action, reward, after, over))
        return after, reward, over

    monkeypatch.setattr(mdp, "step", recording)
    return moves


@crosscheck(
    "Q-learning of a table", SB3, "DQN with one affine layer of one-hot states without bias, batches of one, SGD"
)
def test_q_learning(agree: Agree, monkeypatch: pytest.MonkeyPatch) -> None:
    mdp, rate = some_process(), 0.8
    moves = recorded(mdp, monkeypatch)
    values = temporal_difference.control(mdp, "Q-learning", 30, rate, 0.3, 1000, np.random.default_rng(7))
    model = their_dqn(
        States(mdp.states, mdp.actions),
        net=(),
        policy_kwargs={"optimizer_class": torch.optim.SGD},
        learning_rate=rate,
        gamma=mdp.discount,
        target_update_interval=1,
        buffer_size=1,
    )
    table = QTable(mdp.states, mdp.actions).double()
    objective = QLearning(table, mdp.discount, target_update_interval=1).train()
    optimizer, states = torch.optim.SGD(table.parameters(), lr=rate), torch.eye(mdp.states).double()
    for net in (model.q_net, model.q_net_target):
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        net.q_net[0].bias.requires_grad_(False)
    assert len(moves) > 150
    for state, action, reward, after, over in moves:
        one = [np.array([number]) for number in (state, after, action)]
        model.replay_buffer.add(*one, np.array([reward]), np.array([over]), [{}])
        model.train(gradient_steps=1, batch_size=1)
        model._on_step()
        batch = Transitions(
            states[[state]],
            torch.tensor([action]),
            torch.tensor([[reward]]).double(),
            torch.tensor([1]),
            states[[after]],
            torch.tensor([over]),
            new_env_steps=1,
        )
        optimizer.zero_grad()
        objective(batch)["loss"].total.backward()
        optimizer.step()
        objective.after_step()
    learned = model.q_net.q_net[0].weight.T
    assert values.any()
    agree(values, learned, atol=1e-12)
    agree(table.values, learned, atol=1e-12)


def critic_of(
    states: int,
    rate: float,
    discount: float,
    moves: list[tuple[int, float, int | None]],
    ratio: Callable[[np.ndarray, int], float] = lambda values, after: 1.0,
) -> np.ndarray:
    """The values [S] that A2C's critic learns from single steps: a state, a reward, and the state after it, if any.

    Reward and following value are multiplied by the `ratio` of the state after, given the values so far.
    """
    model = sb3.A2C(
        "MlpPolicy",
        States(states, 2),
        n_steps=1,
        gae_lambda=0.0,
        gamma=discount,
        learning_rate=rate,
        max_grad_norm=1e9,
        policy_kwargs={"net_arch": [], "optimizer_class": torch.optim.SGD},
        rollout_buffer_class=DoubleRolloutBuffer,
        device="cpu",
    )
    in_double(model, model.policy.features_extractor)
    critic = model.policy.value_net
    nn.init.zeros_(critic.weight)
    critic.bias.requires_grad_(False)
    for state, reward, after in moves:
        weight = critic.weight[0].detach()
        model.rollout_buffer.reset()
        factor = 1.0 if after is None else ratio(weight.numpy(), after)
        value, following = weight[[state]], factor * weight[[0 if after is None else after]]
        one = [np.array([state]), np.zeros(1), np.array([factor * reward]), np.zeros(1)]
        model.rollout_buffer.add(*one, value, torch.zeros(1))
        model.rollout_buffer.compute_returns_and_advantage(following, np.array([after is None]))
        model.train()
    return critic.weight[0].detach().numpy()


@crosscheck("TD(0) of a table", SB3, "the critic of A2C with λ = 0, one step at a time, affine in one-hot states, SGD")
def test_td(agree: Agree) -> None:
    mdp, draws = some_process(), [np.random.default_rng(8) for _ in range(2)]
    values = temporal_difference.predict(mdp, mdp.random_policy, 10, 0.3, 1000, draws[0])
    episodes = [move for _ in range(10) for move in mdp.episode(mdp.random_policy, 1000, draws[1])]
    moves = [(state, reward, None if over else after) for state, _, reward, after, over in episodes]
    assert values.any()
    agree(values, critic_of(mdp.states, 0.3, mdp.discount, moves), atol=1e-12)


def sarsa(method: str, monkeypatch: pytest.MonkeyPatch, ratio: Callable[..., float]) -> tuple[np.ndarray, np.ndarray]:
    """The values [S · A] of dlref, and of A2C's critic, whose states are the pairs of a state and an action."""
    mdp = some_process()
    recording = recorded(mdp, monkeypatch)
    values = temporal_difference.control(mdp, method, 30, 0.8, EPSILON, 1000, np.random.default_rng(9))
    pairs = [state * mdp.actions + action for state, action, *_ in recording] + [0]
    moves = [
        (pair, reward, None if over else following)
        for pair, (_, _, reward, _, over), following in zip(pairs, recording, pairs[1:], strict=False)
    ]
    assert values.any()
    return values.flatten(), critic_of(values.size, 0.8, mdp.discount, moves, ratio)


@crosscheck("SARSA of a table", SB3, "as TD(0), whose states are pairs of a state and an action")
def test_sarsa(agree: Agree, monkeypatch: pytest.MonkeyPatch) -> None:
    agree(*sarsa("SARSA", monkeypatch, lambda values, after: 1.0), atol=1e-12)


@crosscheck("off-policy SARSA of a table", SB3, "as SARSA; reward and next value times the ratio of the two policies")
def test_off_policy_sarsa(agree: Agree, monkeypatch: pytest.MonkeyPatch) -> None:
    def ratio(values: np.ndarray, after: int) -> float:
        """The probability of an action by the greedy policy over that by the ε-greedy one."""
        state, action = divmod(after, 3)
        greedy = np.eye(3)[values.reshape(6, 3)[state].argmax()]
        return float(greedy[action] / (EPSILON / 3 + (1 - EPSILON) * greedy[action]))

    agree(*sarsa("off-policy SARSA", monkeypatch, ratio), atol=1e-12)


@crosscheck("exploration rate", SB3, "`exploration_steps` over the steps of training are SB3's `exploration_fraction`")
def test_exploration_rate(agree: Agree) -> None:
    for exploration_steps, epsilon in ((5000, 0.05), (777, 0.1), (1, 0.0)):
        play = Experience("CartPole-v1", exploration_steps=exploration_steps, final_epsilon=epsilon)
        theirs = utils.LinearSchedule(1.0, epsilon, exploration_steps / 20_000)
        for played in (0, 1, 100, 776, 777, 778, 4999, 5000, 5001, 20_000):
            play.env_steps = played
            agree(play.epsilon(), theirs(1 - played / 20_000), atol=1e-12)
