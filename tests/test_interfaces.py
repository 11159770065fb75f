"""A class has a capability if it inherits the interface, not because of the names of its attributes."""

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
# Attributes that are looked for by name: never of a network or of data, with the reason.
PROBES = {
    ("cli/completion.py", "CSafeLoader"): "PyYAML may be built without libyaml",
    ("cli/commands/search.py", "log"): "distributions of optuna",
    ("cli/commands/translate.py", "strerror"): "exceptions",
    ("cli/compose.py", "__file__"): "modules",
    ("cli/values.py", "simple_form"): "values of Hydra's grammar",
    ("data/download.py", "getuid"): "Windows has none",
    ("data/rl/snapshots.py", "__dict__"): "attributes of environments",
    ("data/rl/snapshots.py", "s"): "gymnasium's own environments",
    ("data/rl/snapshots.py", "state"): "gymnasium's own environments",
    ("data/supervised/images.py", "is_animated"): "Pillow's images",
    ("studies/_mdp.py", "P"): "gymnasium's own environments",
    ("studies/_mdp.py", "ncol"): "gymnasium's own environments",
    ("studies/_mdp.py", "shape"): "gymnasium's own environments",
    ("training/devices.py", "get_device_name"): "device modules of torch",
    ("training/memory.py", "peak_wset"): "psutil on Windows",
}
# Of a network or of data only what a class declares is checked, to say what is missing.
CHECKS = {"interfaces.py", "build.py", "config_check.py"}


class Namesakes(nn.Module):
    """A language model whose attributes have the names of interface members, without the interfaces."""

    def __init__(self) -> None:
        super().__init__()
        self.net = RecurrentLM(len(MarkovChain(words=5, tokens=300).vocabulary), 6)
        self.context, self.attends, self.table, self.unigrams = 3, True, "a table", "none"
        self.out = nn.Linear(1, 1)

    def forward(self, tokens: Tensor, state: Any = None) -> Any:
        return self.net(tokens, state)

    def anything(self, *_: object) -> None:
        raise AssertionError("dlref calls a method that no interface declares")

    hidden = prefill = step = attention_weights = vectors = fit = policy_and_value = denoise = anything


def metrics(net: nn.Module) -> dict[str, float]:
    data, objective = MarkovChain(words=5, tokens=300, eval_batch_size=1), LanguageModelling(net).eval()
    totals: dict[str, Any] = {}
    with torch.no_grad():
        for batch in data.batches("eval", net, Shard()):
            for name, mean in objective(batch).items():
                so_far = totals.get(name, (0.0, 0))
                totals[name] = so_far[0] + float(mean.total), so_far[1] + int(mean.count)
    return {name: total / count for name, (total, count) in totals.items()}


def test_attributes_without_an_interface_are_ignored() -> None:
    torch.manual_seed(0)
    net = Namesakes().double()
    assert metrics(net) == pytest.approx(metrics(net.net), rel=1e-12)
    assert build.tables(net) == build.tables(net.net)[:1] + build.tables(net.net)[2:]
    Classification(net).fit([])
    data = MarkovChain(words=5, tokens=300)
    assert Samples()(net, data, "eval") == {}
    assert SelfAttentionMaps()(net, data, "eval") == {}
    with pytest.raises(ConfigError, match="has no critic"):
        PolicyGradient(net, value_coef=0.5)


def test_an_undeclared_capability_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    class Mine(nn.Linear):
        context = 7

    with caplog.at_level(logging.WARNING, "dlref"):
        assert not interfaces.declares(Mine(1, 1), interfaces.FixedContext)
        assert not interfaces.declares(Mine(1, 1), interfaces.FixedContext)
        assert not interfaces.declares(nn.Linear(1, 1), interfaces.FixedContext)
        assert not interfaces.declares(MLP(1, 1, []), interfaces.ActorCritic)
    (warning,) = caplog.messages
    assert warning.startswith("Mine has context, which dlref does not use")
    assert warning.endswith("inherit dlref.interfaces.FixedContext")


def test_a_class_that_lacks_a_declared_member_is_refused() -> None:
    class Half(nn.Linear, interfaces.TextDecoder, interfaces.FixedContext):
        def step(self, state: Any, token: Tensor) -> Any:
            return token, state

    assert interfaces.undelivered(Half(1, 1)) == ["prefill", "context"]
    with pytest.raises(ConfigError, match="network Half lacks prefill, context"):
        build.require_delivered("network", Half(1, 1))
    build.require_delivered("network", RecurrentLM(5, 6))


@pytest.mark.parametrize("interface", EVERY, ids=lambda each: each.__name__)
def test_every_interface_is_documented_and_has_members(interface: type) -> None:
    assert interface.__doc__
    if interface is not interfaces.Interface:
        assert interfaces.members(interface)  # type: ignore[arg-type]


def test_networks_and_data_are_not_probed_by_attribute_names() -> None:
    named, variable = set(), set()
    for path in PACKAGE.rglob("*.py"):
        file = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Name("hasattr" | "getattr"), [_, ast.Constant(name), *_]) if file != "operators.py":
                    named.add((file, name))
                case ast.Call(ast.Name("hasattr")) if file != "operators.py":
                    variable.add(file)
    assert named <= set(PROBES)
    assert variable <= CHECKS


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


def test_a_plug_in_with_an_undeclared_context_is_evaluated_as_one_without(
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


def test_a_recurrent_network_is_evaluated_at_any_segment_length(
    train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    line = ["model=lstm_lm", "network.width=4", "data=markov_chain", "data.tokens=400", "data.seq_len=5", "~reports"]
    assert train(*line, "trainer.max_steps=1", f"run_dir={tmp_path / 'run'}")[0] == 0
    assert main(["evaluate", str(tmp_path / "run"), "data.seq_len=9"]) == 0
