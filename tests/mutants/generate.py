"""Arithmetic mutants: every small change of an operator, a number, a call or a slice, one at a time.

Left alone is what is no arithmetic: docstrings and other strings, annotations, decorators, assertions, and whatever
an error says.
"""

import ast
import copy
from collections.abc import Iterator
from pathlib import Path

from mutant import Mutant

_OPERATORS: dict[type[ast.AST], list[type[ast.AST]]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
}
_SWAPPED = [
    ("min", "max"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("minimum", "maximum"),
    ("clamp_min", "clamp_max"),
    ("mean", "sum"),
    ("any", "all"),
    ("floor", "ceil"),
    ("zeros_like", "ones_like"),
    ("new_zeros", "new_ones"),
    ("cumsum", "cumprod"),
]
_RENAMED = {one: other for pair in _SWAPPED for one, other in (pair, pair[::-1])} | {
    "logsumexp": "sum",
    "softmax": "log_softmax",
    "log_softmax": "softmax",
    "prod": "sum",
    "log_mean_exp": "torch.mean",
}
_IDENTITY = {
    "abs", "ceil", "detach", "double", "exp", "exp_", "expm1", "float", "flip", "floor", "log", "log1p", "log_",
    "neg", "reciprocal", "relu", "rsqrt", "sigmoid", "sigmoid_", "softplus", "sqrt", "square", "tanh", "unsqueeze",
}  # fmt: skip


def generated(root: Path, files: list[str]) -> Iterator[Mutant]:
    """Yield the mutants of some files, in the order of their text."""
    for file in files:
        text = (root / file).read_text(encoding="utf-8")
        found = list(_mutants(file, text))
        yield from sorted(found, key=lambda mutant: mutant.at)


def _mutants(file: str, text: str) -> Iterator[Mutant]:
    lengths = [len(line) for line in text.splitlines(keepends=True)]
    lines = text.splitlines(keepends=True)
    begins = [sum(lengths[:number]) for number in range(len(lengths) + 1)]

    def offset(line: int, column: int) -> int:
        return begins[line - 1] + len(lines[line - 1].encode()[:column].decode())

    seen: set[tuple[int, str, str]] = set()
    for node, within in _expressions(ast.parse(text), ""):
        at = offset(node.lineno, node.col_offset)
        old = text[at : offset(node.end_lineno or 0, node.end_col_offset or 0)]
        for new in _changes(node):
            # A name, a number or a call binds as tightly as what it replaces; all else is put in brackets.
            whole = ast.parse(new, mode="eval").body if not isinstance(node, ast.Slice | ast.AugAssign) else None
            tight = whole is None or isinstance(whole, ast.Name | ast.Constant | ast.Call | ast.Attribute)
            put = new if tight or type(whole) is type(node) else f"({new})"
            if (at, old, put) not in seen:
                seen.add((at, old, put))
                name = f"{file.removeprefix('elbo_bench/')}:{node.lineno} {_short(old)} -> {_short(put)}"
                yield Mutant(kind="generated", name=name, file=file, at=at, old=old, new=put, within=within)


def _short(code: str) -> str:
    return " ".join(code.split())


def _expressions(node: ast.AST, within: str) -> Iterator[tuple[ast.expr | ast.AugAssign, str]]:
    """Yield everything that may be changed below a node, with the name of the function around it."""
    if isinstance(node, ast.expr | ast.AugAssign):
        yield node, within
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        within = f"{within}.{node.name}".removeprefix(".")
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__":
                continue
            if isinstance(child, ast.Call) and isinstance(child.func, ast.Name) and child.func.id == "isinstance":
                yield child, within  # its types are no arithmetic
                continue
            if isinstance(child, ast.AST):
                yield from _expressions(child, within)


def _changes(node: ast.expr | ast.AugAssign) -> Iterator[str]:
    """Yield what may be put in the place of a node."""
    if isinstance(node, ast.BinOp | ast.AugAssign):
        for other in _OPERATORS.get(type(node.op), []):
            yield _with(node, op=other())
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=_OPERATORS[type(node.op)][0]())
    elif isinstance(node, ast.UnaryOp):
        yield ast.unparse(node.operand)
    elif isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            for other in _OPERATORS[type(operator)]:
                yield _with(node, ops=[*node.ops[:number], other(), *node.ops[number + 1 :]])
    elif isinstance(node, ast.IfExp):
        yield ast.unparse(node.body)
        yield ast.unparse(node.orelse)
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node.value)
    elif isinstance(node, ast.Slice):
        yield from _shifted(node)
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)


def _other_constants(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(not value)
    elif isinstance(value, int | float):
        yield repr(value + 1)
        if value == 1:
            yield repr(value - 1)


def _shifted(node: ast.Slice) -> Iterator[str]:
    lower, upper = (None if end is None else ast.unparse(end) for end in (node.lower, node.upper))
    step = f":{ast.unparse(node.step)}" if node.step else ""
    if lower or upper:
        yield f"{f'({lower}) + 1' if lower else 1}:{upper or ''}{step}"
        yield f"{lower or ''}:{f'({upper}) - 1' if upper else -1}{step}"


def _other_calls(node: ast.Call) -> Iterator[str]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    of_module = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("torch", "math", "np")
    if name in _IDENTITY:
        if isinstance(node.func, ast.Attribute) and not of_module:
            yield ast.unparse(node.func.value)
        elif node.args:
            yield ast.unparse(node.args[0])
    if other := _RENAMED.get(name):
        if isinstance(node.func, ast.Attribute):
            yield _with(node, func=ast.Attribute(node.func.value, other))
        elif other.startswith("torch."):
            yield f"{ast.unparse(node.args[0])}.mean(0)"
        else:
            yield _with(node, func=ast.Name(other))
    for number, keyword in enumerate(node.keywords):
        if keyword.arg:
            yield _with(node, keywords=[*node.keywords[:number], *node.keywords[number + 1 :]])
        if keyword.arg in ("min", "max"):  # of clamp
            turned = ast.keyword("max" if keyword.arg == "min" else "min", keyword.value)
            yield _with(node, keywords=[*node.keywords[:number], turned, *node.keywords[number + 1 :]])


def _with(node: ast.AST, **fields: object) -> str:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return ast.unparse(ast.fix_missing_locations(changed))
