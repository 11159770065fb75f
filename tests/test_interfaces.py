"""A class has an interface of dlref if it inherits it, and not because of what its attributes are called."""

import ast
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlref
from dlref import build, interfaces
from dlref.cli.main import main
from dlref.data.text.markov_chain import MarkovChain
from dlref.errors import ConfigError
from dlref.interfaces import Shard
from dlref.models.mlp import MLP
from dlref.models.recurrent_lm import RecurrentLM
from dlref.objectives.language_modelling import LanguageModelling
from dlref.objectives.policy_gradient import PolicyGradient
from dlref.objectives.supervised import Classification
from dlref.reports.attention_maps import SelfAttentionMaps
from dlref.reports.samples import Samples

PACKAGE = Path(dlref.__file__).parent
EVERY = [
    each for each in vars(interfaces).values() if isinstance(each, type) and issubclass(each, interfaces.Interface)
]
# Of torch, other libraries and errors, not of parts: file and name.
OTHERS = {
    ("cli/commands/completion.py", "CSafeLoader"),
    ("cli/compose.py", "__file__"),
    ("cli/commands/search.py", "log"),
    ("cli/commands/translate.py", "strerror"),
    ("cli/values.py", "simple_form"),
    ("data/download.py", "getuid"),
    ("data/rl/snapshots.py", "__dict__"),
    ("data/rl/snapshots.py", "s"),
    ("data/rl/snapshots.py", "state"),
    ("data/supervised/images.py", "is_animated"),
    ("studies/_mdp.py", "P"),
    ("studies/_mdp.py", "ncol"),
    ("studies/_mdp.py", "shape"),
    ("training/devices.py", "get_device_name"),
    ("training/memory.py", "peak_wset"),
}


class Namesakes(nn.Module):
    """A language model with attributes of its own that are called as those of dlref's networks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = RecurrentLM(len(MarkovChain(words=5, tokens=300).vocabulary), 6)
        self.context, self.attends, self.table, self.unigrams = 3, True, "a table", "none"
        self.out = nn.Linear(1, 1)

    def forward(self, tokens: Tensor, state: Any = None) -> Any:
        return self.net(tokens, state)

    def anything(self, *_: object) -> None:
        raise AssertionError("this is called by nobody but its author")

    hidden = prefill = step = attention_weights = vectors = fit = policy_and_value = denoise = anything


def figures(net: nn.Module) -> dict[str, float]:
    data, objective = MarkovChain(words=5, tokens=300, eval_columns=1), LanguageModelling(net).eval()
    totals: dict[str, Any] = {}
    with torch.no_grad():
        for batch in data.batches("eval", net, Shard()):
            for name, mean in objective(batch).items():
                so_far = totals.get(name, (0.0, 0))
                totals[name] = so_far[0] + float(mean.total), so_far[1] + int(mean.count)
    return {name: total / count for name, (total, count) in totals.items()}


def test_names_alone_change_nothing() -> None:
    torch.manual_seed(0)
    net = Namesakes().double()
    assert figures(net) == pytest.approx(figures(net.net), rel=1e-12)
    assert build.tables(net) == build.tables(net.net)[:1] + build.tables(net.net)[2:]
    Classification(net).fit([])
    data = MarkovChain(words=5, tokens=300)
    assert Samples()(net, data, "eval") == {}
    assert SelfAttentionMaps()(net, data, "eval") == {}
    with pytest.raises(ConfigError, match="has no values to judge states by"):
        PolicyGradient(net, critic=0.5)


def test_what_looks_as_if_it_was_meant_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Mine(nn.Linear):
        context = 7

    with caplog.at_level(logging.WARNING, "dlref"):
        assert not interfaces.declares(Mine(1, 1), interfaces.FixedContext)
        assert not interfaces.declares(Mine(1, 1), interfaces.FixedContext)
        assert not interfaces.declares(nn.Linear(1, 1), interfaces.FixedContext)
        assert not interfaces.declares(MLP(1, 1, []), interfaces.ActorCritic)
    (said,) = caplog.messages
    assert said.startswith("Mine has context, which dlref does not use")
    assert said.endswith("inherit dlref.interfaces.FixedContext")


def test_what_is_declared_is_there() -> None:
    class Half(nn.Linear, interfaces.TextDecoder, interfaces.FixedContext):
        def step(self, state: Any, token: Tensor) -> Any:
            return token, state

    assert interfaces.undelivered(Half(1, 1)) == ["prefill", "context"]
    with pytest.raises(ConfigError, match="network Half lacks prefill, context"):
        build.require_delivered("network", Half(1, 1))
    build.require_delivered("network", RecurrentLM(5, 6))


@pytest.mark.parametrize("interface", EVERY, ids=lambda each: each.__name__)
def test_every_interface_says_what_it_asks_for(interface: type) -> None:
    assert interface.__doc__
    if interface is not interfaces.Interface:
        assert interfaces.members(interface)  # type: ignore[arg-type]


def test_no_part_is_asked_what_its_attributes_are_called() -> None:
    """`hasattr` and `getattr` with a name in quotes are for what is no part of a model."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called in ("hasattr", "getattr") and isinstance(node.args[1], ast.Constant):  # type: ignore[attr-defined]
                found.add((path.relative_to(PACKAGE).as_posix(), node.args[1].value))  # type: ignore[attr-defined]
    assert {(file, name) for file, name in found if file != "operators.py"} <= OTHERS


PLUGIN = """
from torch import Tensor, nn
class Embedded(nn.Module):
    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embed, self.score = nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size)
        self.CALLED = 9
    def forward(self, tokens: Tensor, state: object = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.score(self.embed(tokens)), ()
"""


def test_a_plug_in_with_a_context_of_its_own_is_evaluated_as_one_without(
    train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    logged = []
    for name in ("context", "called"):
        (tmp_path / f"of_{name}.py").write_text(PLUGIN.replace("CALLED", name))
        line = ["model=lstm_lm", "data=markov_chain", "data.tokens=400", "~network", "+network.width=4", "~reports"]
        line += [f"+network._target_=of_{name}.Embedded", f"plugins={tmp_path / f'of_{name}.py'}"]
        code, said = train(*line, "trainer.max_steps=2", f"run_dir={tmp_path / name}")
        assert code == 0, said
        assert ("Embedded has context" in said) == (name == "context")
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        logged.append([text.partition('"nll"')[2] for text in lines if '"eval"' in text])
    assert logged[0] == logged[1]


def test_a_network_without_a_context_is_evaluated_at_any_length(
    train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    line = ["model=lstm_lm", "network.width=4", "data=markov_chain", "data.tokens=400", "data.length=5", "~reports"]
    assert train(*line, "trainer.max_steps=1", f"run_dir={tmp_path / 'run'}")[0] == 0
    assert main(["evaluate", str(tmp_path / "run"), "data.length=9"]) == 0
