"""Interpolations of a plain configuration, resolved without building an OmegaConf container for it.

Building one for every configuration that `nissl validate` reads was half of its time. Only what our files are made of
is understood: `${dotted.key}`, alone or inside a text, and resolvers whose arguments name no other key
(`${abspath:runs}`), which OmegaConf evaluates. Everything else raises `NotPlain`, and OmegaConf has the word.
"""

from __future__ import annotations

import re
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

_KEY = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")
_RESOLVER = re.compile(r"\$\{[a-z.]+:(?:[^${}]|\$\{[a-z.]+:[^${}]*\})*\}")


class NotPlain(Exception):
    """Something OmegaConf must resolve, or report."""


def resolved(values: dict[str, Any]) -> dict[str, Any]:
    """A copy with every interpolation replaced by what it leads to; `???` stays.

    Raises:
        NotPlain: for a form not understood, a key that is not there or has no value, or a circle.
    """
    return _node(values, values, 0)


def _node(node: Any, root: dict[str, Any], depth: int) -> Any:
    if isinstance(node, dict):
        return {key: _node(value, root, depth) for key, value in node.items()}
    if isinstance(node, list):
        return [_node(value, root, depth) for value in node]
    return _text(node, root, depth) if isinstance(node, str) and "${" in node else node


def _text(text: str, root: dict[str, Any], depth: int) -> Any:
    if depth > 20 or "\\" in text:
        raise NotPlain(text)
    if whole := _KEY.fullmatch(text):
        return _at(whole[1], root, depth)
    if _RESOLVER.fullmatch(text):
        return _called(text)
    filled = _KEY.sub(lambda found: _word(_at(found[1], root, depth)), text)
    if "${" in filled:
        raise NotPlain(text)
    return filled


def _at(dotted: str, root: dict[str, Any], depth: int) -> Any:
    node: Any = root
    for part in dotted.split("."):
        if isinstance(node, str) and "${" in node:
            node = _text(node, root, depth + 1)
        if not isinstance(node, dict) or part not in node:
            raise NotPlain(dotted)
        node = node[part]
    node = _node(node, root, depth + 1)
    if node == "???":
        raise NotPlain(dotted)
    return node


def _word(value: Any) -> str:
    if isinstance(value, dict | list):
        raise NotPlain(value)
    return str(value)


def _called(text: str) -> Any:
    """A resolver's value."""
    try:
        return OmegaConf.to_container(OmegaConf.create({"value": text}), resolve=True)["value"]  # type: ignore[index, call-overload]
    except OmegaConfBaseException as error:
        raise NotPlain(text) from error
