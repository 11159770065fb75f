"""Every equation has a proof, which holds, and fails for every mutation of the equation."""

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.proofs import (  # noqa: F401  they register their PROOFS
    test_attention_equations,
    test_gradient_equations,
    test_layer_equations,
    test_loss_equations,
    test_ngram_equations,
    test_optimizer_equations,
    test_recurrent_equations,
    test_reinforcement_equations,
    test_transformer_equations,
    test_word_equations,
)
from tests.proofs.harness import EQUATIONS, PROOFS

SWAPPED: dict[type[ast.operator], ast.operator] = {ast.Add: ast.Sub(), ast.Sub: ast.Add()}
FACTORS = (ast.Mult, ast.Div, ast.Pow)


def test_every_equation_has_a_proof() -> None:
    assert sorted(PROOFS) == sorted(EQUATIONS)


@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_equation_equals_fast_path(name: str) -> None:
    PROOFS[name](EQUATIONS[name])


@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_a_mutated_equation_fails_its_proof(name: str) -> None:
    survivors = [what for what, mutant in mutants(EQUATIONS[name]) if holds(PROOFS[name], mutant)]
    assert not survivors


def holds(proof: Callable[[Any], None], equation: Any) -> bool:
    try:
        proof(equation)
    except Exception:  # a mutant may also break
        return False
    return True


def mutants(equation: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """The equation with one sign swapped or one factor, divisor or exponent dropped, one mutation at a time."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(equation)))
    nodes = [i for i, node in enumerate(ast.walk(tree)) if mutated(node) is not None]
    for number in nodes:
        changed = copy.deepcopy(tree)
        node = list(ast.walk(changed))[number]
        new = mutated(node)
        assert new is not None
        what = f"line {node.lineno}: {ast.unparse(node)} -> {ast.unparse(new)}"  # type: ignore[attr-defined]
        Replace(node, new).visit(changed)
        namespace = dict(vars(inspect.getmodule(equation)))
        exec(compile(ast.fix_missing_locations(changed), "<mutant>", "exec"), namespace)
        yield what, namespace[equation.__name__]


def mutated(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.AugAssign) and type(node.op) in SWAPPED:
        return ast.copy_location(ast.AugAssign(node.target, SWAPPED[type(node.op)], node.value), node)
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        return ast.copy_location(ast.BinOp(node.left, SWAPPED[type(node.op)], node.right), node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, FACTORS):
        return node.left
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node.operand
    return None


class Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)
