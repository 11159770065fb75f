"""Each objective, against the same sum done one sample, one token or one transition at a time."""

import math
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from dlref.data.rl.episodes import Episode, EpisodeTotals
from dlref.data.rl.experience import Experience, Transitions
from dlref.data.rl.rollouts import Rollout
from dlref.data.supervised.in_memory import Examples
from dlref.errors import ConfigError, DataError
from dlref.interfaces import PairBatch, Shard, TokenBatch
from dlref.metrics import Mean
from dlref.models.actor_critic import ActorCriticMLP
from dlref.models.ladder import Ladder
from dlref.models.mlp import MLP
from dlref.models.recurrent_lm import RecurrentLM
from dlref.models.seq2seq import Seq2Seq
from dlref.models.transformer import Transformer
from dlref.models.transformer_lm import TransformerLM
from dlref.objectives import Objective
from dlref.objectives.denoising import Denoising
from dlref.objectives.fused.linear_cross_entropy import LinearCrossEntropy
from dlref.objectives.kneser_ney import KneserNey
from dlref.objectives.language_modelling import LanguageModelling
from dlref.objectives.policy_gradient import PolicyGradient
from dlref.objectives.q_learning import QLearning
from dlref.objectives.supervised import Classification, MultiLabel, Perceptron, Regression, Supervised
from dlref.objectives.translation import Translation


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_cross_entropy_is_the_negative_log_probability_of_the_class_summed() -> None:
    net, x, classes = MLP(5, 4, [6]), torch.randn(7, 5), torch.randint(4, (7,))
    nats, smooth, hits = 0.0, 0.0, 0
    for row, c in zip(net(x), classes.tolist(), strict=True):
        probabilities = [math.exp(v) / sum(math.exp(w) for w in row.tolist()) for v in row.tolist()]
        nats -= math.log(probabilities[c])
        # Szegedy et al. 2016, section 7: a tenth of the weight is spread over all classes
        smooth -= sum((0.9 * (k == c) + 0.1 / 4) * math.log(p) for k, p in enumerate(probabilities))
        hits += probabilities[c] == max(probabilities)
    totals = Classification(net, label_smoothing=0.1)(Examples(x, classes))
    assert totals["nll"].total.item() == pytest.approx(nats, rel=1e-12)
    assert totals["loss"].total.item() == pytest.approx(smooth, rel=1e-12)
    assert (int(totals["accuracy"].total), totals["accuracy"].count) == (hits, 7)


def test_evaluation_does_not_smooth_labels() -> None:
    objective = Classification(MLP(5, 4, [6]), label_smoothing=0.1).eval()
    totals = objective(Examples(torch.randn(7, 5), torch.randint(4, (7,))))
    assert totals["loss"].total.item() == totals["nll"].total.item()


def test_perplexity_is_the_exponential_of_nats_per_token_and_not_of_the_loss() -> None:
    objective = LanguageModelling(nn.Identity())
    metrics = objective.summarize({"loss": Mean(90.0, 10), "nll": Mean(20.0, 10), "accuracy": Mean(0.0, 0)})
    assert metrics == {"loss": 9.0, "nll": 2.0, "perplexity": math.exp(2.0)}
    assert math.isfinite(objective.summarize({"nll": Mean(1e9, 1)})["perplexity"])


def test_only_objectives_per_token_report_a_perplexity() -> None:
    totals = {"loss": Mean(90.0, 10), "nll": Mean(20.0, 10)}
    for objective in (Classification, MultiLabel):
        assert objective(MLP(5, 4, [6])).summarize(totals) == {"loss": 9.0, "nll": 2.0}
    for per_token in (LanguageModelling, Translation, KneserNey):
        assert per_token.nll_unit == "token"


@pytest.mark.parametrize("nats", [2.0, 0.0, math.inf, math.nan])
def test_a_loss_that_is_the_nll_is_named_once(nats: float) -> None:
    metrics = Objective(nn.Identity()).summarize({"loss": Mean(nats, 1), "nll": Mean(float(nats), 1)})
    assert metrics.keys() == {"loss"}
    assert str(metrics["loss"]) == str(nats)


def test_segments_with_carried_state_equal_the_whole_text() -> None:
    net = RecurrentLM(vocab_size=11, width=6, layers=2)
    text = torch.randint(11, (3, 13))
    objective = LanguageModelling(net)
    segments = [
        TokenBatch(text[:, s : s + 5][:, : -1 if s + 5 > 12 else 5], text[:, s + 1 : s + 6], s == 0) for s in (0, 5, 10)
    ]
    parts = [objective(segment) for segment in segments]
    whole = LanguageModelling(net)(TokenBatch(text[:, :-1], text[:, 1:], True))
    assert sum(part["nll"].count for part in parts) == whole["nll"].count == 3 * 12
    assert sum(part["nll"].total.item() for part in parts) == pytest.approx(whole["nll"].total.item(), rel=1e-12)


def test_a_new_pass_and_an_evaluation_carry_nothing_over() -> None:
    objective = LanguageModelling(RecurrentLM(vocab_size=11, width=6))
    batch = TokenBatch(torch.randint(11, (3, 4)), torch.randint(11, (3, 4)), True)
    first = objective(batch)["nll"].total.item()
    assert objective(batch)["nll"].total.item() == first
    after = objective(batch._replace(reset_state=False))["nll"].total.item()
    assert after != first
    state = objective.get_extra_state()
    objective.eval()
    objective(batch)
    objective.train()
    assert all(torch.equal(a, b) for a, b in zip(state, objective.get_extra_state(), strict=True))


def test_the_gradient_stops_between_two_segments() -> None:
    """Truncated back-propagation: the gradient of the second segment does not depend on the graph of its initial state."""
    net = RecurrentLM(vocab_size=11, width=6)
    text = torch.randint(11, (3, 9))
    objective = LanguageModelling(net)
    objective(TokenBatch(text[:, :4], text[:, 1:5], True))
    objective(TokenBatch(text[:, 4:8], text[:, 5:], False))["loss"].total.backward()
    gradient = net.embed.weight.grad
    net.zero_grad()
    with torch.no_grad():
        _, state = net(text[:, :4])
    logits, _ = net(text[:, 4:8], state)
    nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 5:].flatten(), reduction="sum").backward()
    torch.testing.assert_close(gradient, net.embed.weight.grad)


def test_the_fused_loss_has_the_gradients_of_the_plain_one() -> None:
    """Training uses LinearCrossEntropy, and evaluation the cross-entropy of logits."""
    objective = LanguageModelling(RecurrentLM(vocab_size=11, width=6, layers=2, cell="gru", hidden=5))
    text = torch.randint(11, (3, 9))
    batch = TokenBatch(text[:, :-1], text[:, 1:], True)
    found = []
    for mode in (True, False):
        totals = objective.train(mode)(batch)
        totals["loss"].total.backward(torch.tensor(0.25))
        found.append((totals["nll"].total, totals["accuracy"].total, [p.grad for p in objective.parameters()]))
        objective.zero_grad()
    torch.testing.assert_close(*found)


def test_a_probability_that_underflows_is_no_infinite_loss() -> None:
    net = RecurrentLM(vocab_size=5, width=2, tied=False)
    with torch.no_grad():
        net.out.bias.copy_(torch.tensor([2000.0, 0, 0, 0, 0]))
    totals = LanguageModelling(net)(TokenBatch(torch.zeros(1, 3).long(), torch.ones(1, 3).long(), True))
    totals["loss"].total.backward()
    assert 3 * 700 < totals["loss"].total.item() < math.inf
    torch.testing.assert_close(net.out.bias.grad, torch.tensor([3.0, -3.0, 0, 0, 0]))


def test_activation_regularization_is_in_the_loss_and_not_in_the_nll() -> None:
    """Merity et al. 2017, equations 1 and 2, token by token; nothing is dropped, so both are of the same h."""
    net, text = RecurrentLM(vocab_size=11, width=6), torch.randint(11, (3, 9))
    totals = LanguageModelling(net, ar=0.7, tar=0.3)(TokenBatch(text[:, :-1], text[:, 1:], True))
    h, before, _ = net.hidden(text[:, :-1])
    assert torch.equal(h, before)
    squares = [float(unit) ** 2 for unit in h.flatten()]
    steps = [float(h[b, t + 1, d] - h[b, t, d]) ** 2 for b in range(3) for t in range(7) for d in range(6)]
    penalty = 0.7 * sum(squares) / len(squares) + 0.3 * sum(steps) / len(steps)
    assert totals["loss"].value == pytest.approx(totals["nll"].value + penalty, rel=1e-12)
    evaluated = LanguageModelling(net, ar=0.7).eval()(TokenBatch(text[:, :-1], text[:, 1:], True))
    assert evaluated["loss"].value == evaluated["nll"].value == pytest.approx(totals["nll"].value, rel=1e-12)
    with pytest.raises(ConfigError, match=r"objective\.ar"):
        LanguageModelling(MLP(5, 4, [6]), tar=0.1)


class Case(NamedTuple):
    net: MLP
    objective: QLearning
    batch: Transitions


@pytest.fixture
def case() -> Case:
    net = MLP(3, 4, [5])
    objective = QLearning(net, discount=0.9, target_update_interval=2)
    with torch.no_grad():
        for p in objective.target.parameters():
            p.add_(torch.randn_like(p))
    batch = Transitions(
        states=torch.randn(6, 3),
        actions=torch.randint(4, (6,)),
        rewards=3 * torch.randn(6, 1),
        steps=torch.ones(6, dtype=torch.int64),
        next_states=torch.randn(6, 3),
        terminated=torch.tensor([1, 0, 0, 1, 0, 0]).bool(),
        finished=EpisodeTotals(returns=12.0, lengths=10.0, episodes=2),
        epsilon=0.25,
        env_steps=40,
        new_env_steps=3,
    )
    return Case(net, objective, batch)


def huber(error: float) -> float:
    return error**2 / 2 if abs(error) < 1 else abs(error) - 0.5


def test_the_q_loss_is_that_of_single_transitions(case: Case) -> None:
    net, objective, batch = case
    loss = 0.0
    for i in range(6):
        future = 0.0 if batch.terminated[i] else 0.9 * max(objective.target(batch.next_states[i : i + 1])[0].tolist())
        loss += huber(float(net(batch.states[i : i + 1])[0, batch.actions[i]]) - float(batch.rewards[i]) - future)
    totals = objective(batch)
    assert totals["loss"].total.item() == pytest.approx(loss, rel=1e-12)
    assert totals["rl/return"].value == 6.0
    assert totals["rl/length"].value == 5.0
    assert totals["rl/epsilon"].value == 0.25
    assert totals["rl/replay_ratio"].value == 2.0
    objective.after_step()
    figures = objective.summarize(totals)
    assert (figures["rl/environment_steps"], figures["rl/updates"]) == (40, 1)


def test_td_errors_are_written_to_the_batch_and_losses_weighted(case: Case) -> None:
    net, objective, batch = case
    weights = torch.rand(6)
    totals = objective(batch._replace(weights=weights, td_errors=(errors := torch.empty(6))))
    expected = net(batch.states).gather(1, batch.actions[:, None]).squeeze(1) - objective.targets(batch)
    torch.testing.assert_close(errors, expected.detach())
    assert totals["loss"].total.item() == pytest.approx(sum(w * huber(e) for w, e in zip(weights, errors, strict=True)))


def test_no_gradient_flows_through_the_target_network(case: Case) -> None:
    net, objective, batch = case
    objective(batch)["loss"].total.backward()
    assert all(p.grad is None for p in objective.target.parameters())
    assert all(p.grad is not None for p in net.parameters())


def test_the_target_network_is_copied_at_its_interval(case: Case) -> None:
    def same() -> bool:
        pairs = zip(case.net.parameters(), case.objective.target.parameters(), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    copied = []
    for _ in range(4):
        with torch.no_grad():
            for p in case.net.parameters():
                p.add_(1.0)
        case.objective.after_step()
        copied.append(same())
    assert copied == [False, True, False, True]


def test_tau_makes_the_target_network_a_polyak_average() -> None:
    net = MLP(3, 4, [5], norm="batch")
    objective = QLearning(net, tau=0.25)
    before = [p.clone() for p in objective.target.parameters()]
    net(torch.randn(8, 3))  # moves the statistics of the norm
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)
    objective.after_step()
    for was, now, own in zip(before, objective.target.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(now, was + 0.25 * (own - was))
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), objective.target.buffers(), strict=True))
    assert not objective.train().target.training


def test_in_evaluation_whole_episodes_are_counted(case: Case) -> None:
    totals = case.objective.eval()(Episode(12.0, 9))
    assert {name: mean.value for name, mean in totals.items()} == {"return": 12.0, "length": 9.0}


def test_multilabel_accuracy_is_per_label_and_exact_match_per_sample() -> None:
    net, x, targets = MLP(5, 3, [6]), torch.randn(7, 5), torch.randint(2, (7, 3)).double()
    nats, right, rows = 0.0, 0, 0
    for row, wanted in zip(net(x).tolist(), targets.tolist(), strict=True):
        probabilities = [1 / (1 + math.exp(-z)) for z in row]
        nats -= sum(math.log(p if t else 1 - p) for p, t in zip(probabilities, wanted, strict=True))
        hits = [(p > 0.5) == (t == 1) for p, t in zip(probabilities, wanted, strict=True)]
        right, rows = right + sum(hits), rows + all(hits)
    totals = MultiLabel(net)(Examples(x, targets))
    assert totals["nll"].total.item() == pytest.approx(nats, rel=1e-12)
    assert [int(totals[name].total) for name in ("accuracy", "exact_match")] == [right, rows]
    assert [totals[name].count for name in ("nll", "accuracy", "exact_match")] == [21, 21, 7]


def test_the_regression_loss_is_per_sample_and_the_rmse_per_target_number() -> None:
    net, x, targets = MLP(5, 3, [6]), torch.randn(7, 5), torch.randn(7, 3)
    squares = sum((y - t) ** 2 for y, t in zip(net(x).flatten().tolist(), targets.flatten().tolist(), strict=True))
    figures = Regression(net).summarize(Regression(net)(Examples(x, targets)))
    assert figures["loss"] == pytest.approx(squares / 2 / 7, rel=1e-12)
    assert figures["rmse"] == pytest.approx((squares / 21) ** 0.5, rel=1e-12)


def test_the_perceptron_rule_adds_the_inputs_to_the_weights_where_it_is_wrong_or_undecided() -> None:
    net = MLP(2, 1, [])
    weight, bias = net.parameters()
    for x, target in (([2.0, 1.0], 0.0), ([2.0, 1.0], 1.0), ([0.0, 0.0], 0.0)):
        with torch.no_grad():
            weight.copy_(torch.tensor([[0.5, -0.25]]))
            bias.zero_()
        totals = Perceptron(net)(Examples(torch.tensor([x]), torch.tensor([[target]])))
        gradients = torch.autograd.grad(totals["loss"].total, (weight, bias))  # type: ignore[arg-type]
        predicted = 1.0 if sum(w * a for w, a in zip([0.5, -0.25], x, strict=True)) > 0 else 0.0
        undecided = sum(x) == 0
        step = -(2 * target - 1) if predicted != target or undecided else 0.0
        assert gradients[0].tolist() == [[step * a for a in x]]
        assert gradients[1].tolist() == [step]


def test_max_norm_scales_down_only_weights_with_a_larger_norm() -> None:
    net = MLP(5, 3, [6])
    before = [layer.weight.detach().clone() for layer in net.modules() if isinstance(layer, nn.Linear)]
    Classification(net, max_norm=0.6).after_step()
    after = [layer.weight.detach() for layer in net.modules() if isinstance(layer, nn.Linear)]
    for old, new in zip(before, after, strict=True):
        for a, b in zip(old, new, strict=True):
            length = float(a.norm())
            torch.testing.assert_close(b, a * min(1.0, 0.6 / length), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("objective", "targets"),
    [
        (Classification, torch.zeros(4, 3)),
        (MultiLabel, torch.zeros(4, dtype=torch.int64)),
        (Regression, torch.zeros(4, 1)),
    ],
)
def test_an_objective_refuses_targets_of_another_kind(objective: type[Supervised], targets: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="choose an objective that suits the data"):
        objective(MLP(5, 3, []))(Examples(torch.zeros(4, 5), targets))


@pytest.mark.faults
def test_fault_16_a_batch_of_one_is_learned_from_or_refused_with_its_count() -> None:
    one = Examples(torch.randn(1, 5), torch.tensor([2]))
    assert math.isfinite(float(Classification(MLP(5, 3, [4]))(one)["loss"].value))
    with pytest.raises(DataError, match="a batch of 1 has no variance"):
        Classification(MLP(5, 3, [4], norm="batch"))(one)
    assert math.isfinite(float(Classification(MLP(5, 3, [4], norm="batch")).eval()(one)["loss"].value))


@pytest.mark.faults
def test_fault_16_an_empty_batch_adds_nothing() -> None:
    empty = Examples(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    totals = Classification(MLP(5, 3, [4]))(empty)
    assert (float(totals["loss"].total), totals["loss"].count) == (0.0, 0)
    assert Classification(MLP(5, 3, [4])).summarize(totals) == {}


@pytest.mark.faults
@pytest.mark.parametrize(
    "translator",
    [
        *(partial(Seq2Seq, attention=kind, bidirectional=True) for kind in (None, "dot", "additive")),
        *(partial(Transformer, layers=2, heads=2, positions=kind) for kind in ("sinusoidal", "learned", "rotary")),
    ],
)
def test_fault_16_no_pair_of_lines_adds_nothing_and_one_is_as_any(translator: Any) -> None:
    """A rank has none of a batch of fewer pairs than there are ranks."""
    objective = Translation(translator(9, 7, 4), label_smoothing=0.1)
    source, tokens = torch.randint(4, 7, (3, 5)), torch.randint(4, 7, (3, 6))
    whole = PairBatch(
        source, torch.ones(3, 5, dtype=torch.bool), tokens[:, :-1], tokens[:, 1:], torch.ones(3, 5).bool()
    )
    none = objective(PairBatch(*(part[:0] for part in whole)))
    none["loss"].total.backward()
    assert (float(none["loss"].total), none["loss"].count, objective.summarize(none)) == (0.0, 0, {})
    assert not any(p.grad.any() for p in objective.parameters() if p.grad is not None)
    each = [objective(PairBatch(*(part[row : row + 1] for part in whole)))["loss"].total for row in range(3)]
    torch.testing.assert_close(sum(each), objective(whole)["loss"].total)


@pytest.mark.faults
@pytest.mark.parametrize("writer", [RecurrentLM, partial(TransformerLM, context=8, layers=2, heads=2)])
def test_fault_16_no_row_of_text_adds_nothing_and_one_is_as_any(writer: Any) -> None:
    objective = LanguageModelling(writer(vocab_size=11, width=4))
    text = torch.randint(11, (3, 9))
    none = objective(TokenBatch(text[:0, :-1], text[:0, 1:], True))
    none["loss"].total.backward()
    assert (float(none["loss"].total), none["loss"].count, objective.summarize(none)) == (0.0, 0, {})
    assert not any(p.grad.any() for p in objective.parameters() if p.grad is not None)
    each = [objective(TokenBatch(row[None, :-1], row[None, 1:], True))["loss"].total for row in text]
    torch.testing.assert_close(sum(each), objective(TokenBatch(text[:, :-1], text[:, 1:], True))["loss"].total)


def test_adversarial_inputs_have_a_larger_loss_than_any_other_step_of_their_norm() -> None:
    """Half of the loss is that of the adversarial inputs; compared with random steps of the same norm."""
    net, x, classes = MLP(5, 4, [6], activation="tanh"), torch.randn(7, 5), torch.randint(4, (7,))
    plain = Classification(net)
    adversarial_loss = 2 * Classification(net, adversarial_epsilon=0.1)(Examples(x, classes))["loss"].value
    adversarial_loss -= plain(Examples(x, classes))["loss"].value
    for _ in range(50):
        step = 0.1 * nn.functional.normalize(torch.randn(7, 5))
        assert plain(Examples(x + step, classes))["loss"].value < adversarial_loss
    evaluated = Classification(net, adversarial_epsilon=0.1).eval()(Examples(x, classes))
    assert evaluated["loss"].value == plain(Examples(x, classes))["loss"].value


def test_the_denoising_cost_is_part_of_the_training_loss_only() -> None:
    torch.manual_seed(0)
    net, x, classes = Ladder(5, 4, [6], noise=0, input_noise=0), torch.randn(7, 5), torch.randint(4, (7,))
    batch = Examples(x, classes)
    totals = Denoising(net, denoising_coef=3.0)(batch)
    assert totals["denoising_error"].value == pytest.approx(float(net.denoise(x)[1].mean().detach()))
    expected = Classification(net)(batch)["loss"].value + 3 * totals["denoising_error"].value
    assert totals["loss"].value == pytest.approx(expected)
    adversarial = Denoising(net, denoising_coef=3.0, adversarial_epsilon=0.1)(batch)
    added = adversarial["loss"].value - Classification(net, adversarial_epsilon=0.1)(batch)["loss"].value
    assert added == pytest.approx(3 * totals["denoising_error"].value)
    assert set(Denoising(net).eval()(batch)) == {"loss", "nll", "accuracy"}
    with pytest.raises(ConfigError, match="takes a network that can denoise, not MLP"):
        Denoising(MLP(5, 4, [6]))


def test_value_coef_needs_an_actor_critic_network() -> None:
    with pytest.raises(ConfigError, match="has no critic"):
        PolicyGradient(MLP(3, 4, [5]), value_coef=0.5)
    PolicyGradient(ActorCriticMLP(3, 4, [5]), value_coef=0.5)


def test_targets_of_prefetched_batches_equal_those_of_each_alone() -> None:
    """Also when the target network is copied between them."""
    data = Experience(envs=12, env_steps_per_update=2, batch_size=5, learning_starts=20, n_step=3)
    objective = QLearning(MLP(4, 2, [6]), target_update_interval=4).train()
    reused = 0
    for batch in islice(data.train_batches(objective.net, Shard(), 0), 30):
        reused += batch.prefetched.targets is not None
        torch.testing.assert_close(objective.prefetched_targets(batch), objective.targets(batch))
        with torch.no_grad():
            for p in objective.net.parameters():
                p.add_(0.1 * torch.randn_like(p))
        objective.after_step()
    assert 15 <= reused < 25


def test_a_probability_near_1_differs_from_1_in_half_precision() -> None:
    """Of a small vocabulary: bfloat16 has nothing between 0.996 and 1."""
    x, weight, targets = torch.full((3, 1), 7.5), torch.tensor([[1.0], [0.0]]), torch.zeros(3, dtype=torch.int64)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        nll, _ = LinearCrossEntropy.apply(x, weight, torch.zeros(2), targets)
    nll.backward()
    expected = 1 / (1 + math.exp(7.5))
    assert nll.item() == pytest.approx(-3 * math.log(1 - expected), rel=1e-3)
    torch.testing.assert_close(x.grad, torch.full((3, 1), -expected), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [3, 2500], ids=["a small vocabulary", "a large one"])
def test_a_target_is_right_where_it_is_the_argmax_of_the_logits(dtype: torch.dtype, size: int) -> None:
    """Not where it equals an earlier logit, nor where the probabilities of two logits round to one number."""
    logits = torch.full((8, size), -1.0, dtype=dtype)
    logits[0, :2], logits[1, :2], logits[2, :2], logits[3] = 1.0, 1.0, torch.tensor([0.0, 1e-20]), 0.0
    logits[4], logits[5, 2], logits[6, 1:3] = 0.0, 3.0, 2.0
    targets = torch.tensor([0, 1, 0, 0, size - 1, 2, 2, 1])
    x, bias = torch.eye(8, dtype=dtype), torch.zeros(size, dtype=dtype)
    _, hits = LinearCrossEntropy.apply(x, logits.T.contiguous().requires_grad_(), bias, targets)
    assert int(hits) == 3  # rows 0, 3 and 5
    assert int(hits) == int((logits.argmax(1) == targets).sum())


def test_an_untrained_network_is_as_often_right_in_training_as_in_evaluation() -> None:
    net = TransformerLM(vocab_size=7, context=6, width=8, layers=1, heads=2, tied=False)
    tokens = torch.randint(1, 7, (3, 6))
    objective = LanguageModelling(net)
    accuracies = [objective.train(mode)(TokenBatch(tokens, tokens, True))["accuracy"].value for mode in (True, False)]
    assert accuracies == [0.0, 0.0]  # all logits are equal, and word 0 is the first


def test_advantages_that_differ_by_rounding_alone_have_no_loss() -> None:
    states, never = torch.randn(40, 5, 3), torch.zeros(40, 5).bool()
    rewards = torch.full((40, 5), 0.3)
    rewards[0] = 0.1 + torch.tensor(0.2)  # the same but for its last digit
    rollout = Rollout(states, never.long(), rewards, states, never, never, ~never, EpisodeTotals(), 0)
    objective = PolicyGradient(nn.Linear(3, 2), discount=0.0, normalize_advantages=True).train()
    assert float(objective(rollout)["loss"].total) == 0
    rewards[1] += 1e-4
    assert float(objective(rollout)["loss"].total) != 0
