"""Does a value from YAML fit an argument's annotation, as it stands in the source?

YAML knows numbers, texts, booleans, null, lists and mappings; what an annotation says beyond them is not judged.
"""

from __future__ import annotations

import ast
from typing import Any

# No YAML scalar is one of these, so `float | Tensor` given 'abc' is wrong.
_NEVER_SCALAR = {"Tensor", "timedelta", "Logger", "Callback", "Strategy", "Accelerator", "Profiler", "Generator"}


def accepts(annotation: ast.expr | None, value: Any) -> bool:
    """Whether a value from YAML can be meant for an annotated argument; True where that cannot be known."""
    if annotation is None:
        return True
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return value is None
        if isinstance(annotation.value, str):
            return accepts(ast.parse(annotation.value, mode="eval").body, value)
        return True
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return accepts(annotation.left, value) or accepts(annotation.right, value)
    if isinstance(annotation, ast.Subscript):
        return _accepts_subscript(annotation, value)
    return _accepts_name(last_name(annotation), value)


def _accepts_name(name: str, value: Any) -> bool:
    if name == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if name == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name in ("str", "bool"):
        return type(value).__name__ == name
    if name in ("list", "List", "tuple", "Tuple", "Sequence"):
        return isinstance(value, list)
    if name in ("dict", "Dict", "Mapping"):
        return isinstance(value, dict)
    if name in ("Path", "PathLike"):
        return isinstance(value, str)
    if name in _NEVER_SCALAR:
        return isinstance(value, dict)
    return value is not None or name in ("Any", "object") or name.startswith("_")


def _accepts_subscript(annotation: ast.Subscript, value: Any) -> bool:
    name, inner = last_name(annotation.value), annotation.slice
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Optional":
        return value is None or accepts(inner, value)
    if name == "Union":
        return any(accepts(item, value) for item in items)
    if name == "Literal":
        return any(isinstance(item, ast.Constant) and item.value == value for item in items)
    if name == "Annotated":
        return accepts(items[0], value)
    if name in ("list", "List", "Sequence", "Iterable", "Collection"):
        return isinstance(value, list) and all(accepts(inner, item) for item in value)
    if name in ("tuple", "Tuple"):
        if not isinstance(value, list):
            return False
        if len(items) == 2 and isinstance(items[1], ast.Constant) and items[1].value is ...:
            return all(accepts(items[0], item) for item in value)
        return len(items) == len(value) and all(map(accepts, items, value))
    if name in ("dict", "Dict", "Mapping"):
        return isinstance(value, dict)
    return True


def last_name(node: ast.expr) -> str:
    """`Optional` of `typing.Optional[int]`; empty for anything that is no name."""
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
