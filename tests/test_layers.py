"""Who may import whom, and what a shared file may not know."""

import ast
from pathlib import Path

import pytest

import dlref

PACKAGE = Path(dlref.__file__).parent
PARTS = [
    "equations",
    "errors",
    "filesystem",
    "hardware",
    "interfaces",
    "signals",
    "operators",
    "plugins",
    "metrics",
    "decoding",
    "models",
    "optimizers",
    "data",
    "objectives",
    "reports",
    "training",
    "studies",
    "config_check",
    "renamed",
    "build",
    "cli",
    "__init__",
    "__main__",
]
ANYWHERE = {"errors", "filesystem", "hardware", "interfaces", "operators", "plugins", "renamed", "signals"}
MAY = {
    "equations": {"equations"},  # and nobody but tests imports them
    "errors": set(),
    "filesystem": set(),
    "hardware": set(),
    "interfaces": set(),
    "operators": set(),
    "plugins": set(),
    "renamed": set(),
    "signals": set(),
    "metrics": set(),
    "decoding": {"decoding"},
    "models": {"models"},
    "optimizers": {"optimizers"},
    "data": {"data"},
    "objectives": {"objectives", "metrics"},
    "reports": {
        "reports",
        "metrics",
        "decoding",
        "data",
    },  # some compare with published judgements, which are fetched like other data
    "training": {"training", "metrics", "objectives"},  # the trainer's signature names the base class Objective
    "studies": {"studies", "data", "metrics", "models", "objectives", "training"},
    "config_check": {"data", "objectives", "optimizers", "reports", "training"},  # base classes: what a config may name
    "build": {"config_check", "objectives", "optimizers", "reports", "training"},
    "cli": set(PARTS) - {"equations"},
    "__init__": {"build", "training"},
    "__main__": {"cli"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_part_imports_only_what_it_may(path: Path) -> None:
    own = part_of(path)
    for name in imports(path):
        root, _, rest = name.partition(".")
        if root == "dlref" and rest:
            other = rest.partition(".")[0]
            assert other in MAY[own] | ANYWHERE, f"{own} imports {name}"
        if root in ("hydra", "omegaconf"):
            assert own == "cli", f"{path} imports {name}"
        if root == "torchtext":
            assert path.relative_to(PACKAGE) == Path("data/text/tokenizer.py"), f"{path} imports {name}"


def test_every_part_has_its_row() -> None:
    assert {part_of(path) for path in FILES} == set(PARTS)


def test_the_trainer_is_short_and_knows_no_model() -> None:
    text = (PACKAGE / "training" / "trainer.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    names = [path.stem for path in (PACKAGE.parent / "configs" / "model").glob("*.yaml")]
    for word in [*names, "token", "episode", "hydra", "digit", "reward", "vocab"]:
        assert word not in text.lower()
