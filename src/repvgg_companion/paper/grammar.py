"""The language of the claims' conditions: a text becomes terms, each a comparison or a named check. Needs no torch.

    condition  := term ("and" term)* ["@" recipe]
    term       := "check(" name ")" | expression op expression | number op expression op number
    op         := "=" | "<" | "<=" | ">" | ">="
    expression := arithmetic (+ - * / **) over numbers, trunc(x[, digits]) and quantities
    quantity   := name "(" subject ("," qualifier)* ")"

Quantities: top1 and miou in percent; speed in examples/s of the deploy form; density in TFLOPS by kernel size; params,
flops and wino as counts of the deploy form; members (of the implicit ensemble) and layers (of an output size).
Qualifiers: `train` or `deploy` form, `320px`, a recipe such as `200-epochs`, `released` or `retrained` weights. The
recipe after "@" is that of every top1 that names none.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.paper.rounding import truncated

QUANTITIES = ("top1", "miou", "speed", "density", "params", "flops", "wino", "members", "layers")
EXACT = ("params", "flops", "wino", "members", "layers")
"""Quantities that need no measurement: counting gives them without error."""
_QUANTITY = re.compile(rf"\b({'|'.join(QUANTITIES)})\(([^()]*)\)")
_CHECK = re.compile(r"check\(([a-z0-9-]+)\)")
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type, tuple[str, Callable[[float, float], bool]]] = {
    ast.Eq: ("=", operator.eq),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}


class NotAvailable(Exception):
    """A quantity has no value; the message says why, for the reason column."""


@dataclass(frozen=True)
class Quantity:
    """One measurable or countable thing, such as the top-1 accuracy of a model under a recipe."""

    name: str
    subject: str
    qualifiers: tuple[str, ...] = ()

    @property
    def is_accuracy(self) -> bool:
        """Whether images decide it."""
        return self.name in ("top1", "miou")

    @property
    def is_speed(self) -> bool:
        """Whether it is measured on a device, so that a ratio needs one run."""
        return self.name in ("speed", "density")

    @property
    def form(self) -> str:
        """`train` or `deploy`."""
        return "train" if "train" in self.qualifiers else "deploy"

    @property
    def input_px(self) -> int | None:
        """The input size where the claim names one."""
        return next((int(word[:-2]) for word in self.qualifiers if re.fullmatch(r"\d+px", word)), None)

    @property
    def recipe(self) -> str | None:
        """The recipe where the claim names one."""
        return next((word for word in self.qualifiers if word.endswith("-epochs")), None)

    @property
    def origin(self) -> str | None:
        """`released` or `retrained` where the claim is about such weights only."""
        return next((word for word in self.qualifiers if word in ("released", "retrained")), None)

    def __str__(self) -> str:
        return f"{self.name}({', '.join([self.subject, *self.qualifiers])})"


@dataclass(frozen=True)
class Check:
    """A named structural check; `paper.named_checks` holds the function of that name."""

    name: str

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Empty: a check looks up what it needs."""
        return ()

    @property
    def of_speeds(self) -> bool:
        """Whether it compares speeds of one run."""
        return self.name in ("every-baseline-matched", "wino-ranks-speed")

    def __str__(self) -> str:
        return f"check({self.name})"


@dataclass(frozen=True)
class Comparison:
    """One comparison; `left` is the measured side, `bounds` what it is compared with."""

    text: str
    left: ast.expr
    bounds: tuple[tuple[str, ast.expr], ...]
    quantities: tuple[Quantity, ...]

    @property
    def of_speeds(self) -> bool:
        """Whether it compares speeds, or densities, of one run."""
        return any(quantity.is_speed for quantity in self.quantities)

    @property
    def is_ratio(self) -> bool:
        """Whether the measured side is a quotient: its null value is 1."""
        return isinstance(self.left, ast.BinOp) and isinstance(self.left.op, ast.Div | ast.Mult)

    @property
    def is_difference(self) -> bool:
        """Whether the measured side is a difference: its null value is 0."""
        return isinstance(self.left, ast.BinOp) and isinstance(self.left.op, ast.Sub)

    @property
    def is_equality(self) -> bool:
        """Whether one printed value is to be met."""
        return self.bounds[0][0] == "="

    @property
    def bound_is_constant(self) -> bool:
        """Whether the measured side is compared with numbers alone."""
        nodes = [node for _, bound in self.bounds for node in ast.walk(bound)]
        return not any(isinstance(node, ast.Name) and node.id != "trunc" for node in nodes)

    def value(self, values: Mapping[Quantity, float]) -> float:
        """The measured side."""
        return _evaluate(self.left, self.quantities, values)

    def bound(self, values: Mapping[Quantity, float], number: int = 0) -> float:
        """What the measured side is compared with."""
        return _evaluate(self.bounds[number][1], self.quantities, values)

    def holds(self, values: Mapping[Quantity, float], tolerance: float = 0.0) -> bool:
        """Whether the comparison is true; `tolerance` widens an equality only."""
        value = self.value(values)
        for number, (symbol, _) in enumerate(self.bounds):
            bound = self.bound(values, number)
            if symbol == "=":
                if abs(value - bound) > tolerance + 1e-9 * max(1.0, abs(bound)):
                    return False
            elif not next(test for name, test in _COMPARISONS.values() if name == symbol)(value, bound):
                return False
        return True

    def __str__(self) -> str:
        return self.text


Term = Check | Comparison


def parse(condition: str) -> tuple[Term, ...]:
    """The terms of a condition, all of which must hold; raises CompanionError for a term that is not understood."""
    body, _, recipe = condition.partition("@")
    return tuple(_term(text.strip(), recipe.strip() or None) for text in re.split(r"\s+and\s+", body))


def _term(text: str, recipe: str | None) -> Term:
    if match := _CHECK.fullmatch(text):
        return Check(match.group(1))
    quantities: list[Quantity] = []

    def placeholder(match: re.Match) -> str:
        subject, *qualifiers = (part.strip() for part in match.group(2).split(","))
        quantity = Quantity(match.group(1), subject, tuple(qualifiers))
        if recipe and quantity.name == "top1" and quantity.recipe is None:
            quantity = Quantity(quantity.name, subject, (*qualifiers, recipe))
        if quantity not in quantities:
            quantities.append(quantity)
        return f"q{quantities.index(quantity)}"

    source = re.sub(r"(?<![<>=])=(?!=)", "==", _QUANTITY.sub(placeholder, text))
    try:
        tree = ast.parse(source, mode="eval").body
        if not isinstance(tree, ast.Compare) or any(type(symbol) not in _COMPARISONS for symbol in tree.ops):
            raise ValueError("it is not a comparison")
        sides = [tree.left, *tree.comparators]
        for side in sides:
            _require_arithmetic(side, len(quantities))
    except (SyntaxError, ValueError) as error:
        raise CompanionError(f"the condition {text!r} is not understood ({error}); see paper/README.md") from None
    symbols = [_COMPARISONS[type(symbol)][0] for symbol in tree.ops]
    if len(sides) == 3:  # a band: 3 <= x <= 5
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
        return Comparison(text, sides[1], ((turned[symbols[0]], sides[0]), (symbols[1], sides[2])), tuple(quantities))
    return Comparison(text, sides[0], ((symbols[0], sides[1]),), tuple(quantities))


def _require_arithmetic(node: ast.AST, count: int) -> None:
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and (part.id == "trunc" or part.id in {f"q{i}" for i in range(count)}):
            continue
        if isinstance(part, ast.Constant) and type(part.value) in (int, float):
            continue
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "trunc":
            continue
        if isinstance(part, (ast.BinOp, ast.UnaryOp, ast.USub, ast.Load, *_OPERATORS)):
            continue
        raise ValueError(f"{ast.unparse(part) if isinstance(part, ast.expr) else part} is not part of the grammar")


def _evaluate(node: ast.expr, quantities: tuple[Quantity, ...], values: Mapping[Quantity, float]) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name):
        return values[quantities[int(node.id[1:])]]
    if isinstance(node, ast.UnaryOp):
        return -_evaluate(node.operand, quantities, values)
    if isinstance(node, ast.Call):
        value, *digits = (_evaluate(argument, quantities, values) for argument in node.args)
        return truncated(value, int(digits[0]) if digits else 0)
    assert isinstance(node, ast.BinOp), "_require_arithmetic lets nothing else through"
    left, right = (_evaluate(side, quantities, values) for side in (node.left, node.right))
    return _OPERATORS[type(node.op)](left, right)
